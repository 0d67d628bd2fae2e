"""Sanity checks on a finished run: what each changes, what it leaves alone, and the report over seeds."""

import csv
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.catalog.sanity_checks import CHECKS
from experiments.commands.program import run
from experiments.config.parse import parse
from experiments.config.validate import chosen_checks
from experiments.problem.data import load_data
from experiments.problem.initial_ticket import initial_ticket
from experiments.problem.problem import make_problem
from experiments.terminal.errors import UsageError
from rare_gems import masks
from rare_gems.storage import ticket_file
from tests.experiments.conftest import made_once

FLAGS = ["--model=lenet_300_100", "--sparsity=0.5", "--train-examples=200", "--batch-size=50", "--finetune-epochs=1"]
IMP = ["--pruner=imp", *FLAGS, "--imp.round-epochs=1", "--imp.rounds=2", "--imp.rewind-step=2"]


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    """Snip with two seeds and all checks but those that search again."""

    def make(folder):
        names = "shuffle,reinit,reinit_kaiming_normal,shuffle_weights,random_ticket,half_data,invert"
        flags = ["--pruner=snip", *FLAGS, "--num-seeds=2", f"--sanity={names}"]
        assert run("digits", [*flags, f"--run-dir={folder}"]) == 0

    return made_once(tmp_path_factory, "sanity", make)


def _tickets(folder, *names):
    return [ticket_file.load(folder / name / "ticket.safetensors") for name in names]


def test_each_check_changes_one_thing(two_seeds):
    folder = two_seeds / "seed-42"
    (real,) = _tickets(folder, "")
    checked = dict(zip(names := ["shuffle", "reinit", "shuffle_weights", "random_ticket", "half_data", "invert"],
                       _tickets(folder / "sanity", *names), strict=True))  # fmt: skip
    whole = ticket_file.load(folder / "search.safetensors").initial
    for name, file in checked.items():
        assert masks.num_kept(file.ticket.mask) == masks.num_kept(real.ticket.mask), name
        same_mask = name in ("reinit", "shuffle_weights")
        assert (masks.overlap(real.ticket.mask, file.ticket.mask) == 1) == same_mask, name
        same_counts = masks.layer_counts(real.ticket.mask) == masks.layer_counts(file.ticket.mask)
        assert same_counts == (name not in ("half_data", "invert")), name
        kernel, was = (np.asarray(part["linear1"]["kernel"]) for part in (file.initial, whole))
        mask = np.asarray(file.ticket.mask["linear1"]["kernel"])
        if name in ("shuffle", "random_ticket", "half_data", "invert"):
            np.testing.assert_array_equal(kernel[mask], was[mask])  # the weights are the initial ones
        elif name == "shuffle_weights":
            assert (kernel[mask] != was[mask]).any()
            np.testing.assert_array_equal(np.sort(kernel[mask]), np.sort(was[mask]))
        else:
            assert np.isclose(kernel, was).mean() < 0.01
    assert masks.overlap(checked["shuffle"].ticket.mask, checked["random_ticket"].ticket.mask) < 0.7
    # SNIP's inverted mask keeps what the mask drops: at 50 % its complement
    both = jax.tree.map(jnp.logical_and, real.ticket.mask, checked["invert"].ticket.mask)
    assert masks.num_kept(both) < 0.02 * masks.num_kept(real.ticket.mask)


def test_the_report_over_seeds(two_seeds):
    rows = json.loads((two_seeds / "sanity.json").read_text())
    assert [row["check"] for row in rows][:2] == ["ticket", "shuffle"]
    assert len(rows) == 8
    for row in rows[1:]:
        drops = np.subtract(rows[0]["after"], row["after"])
        assert np.isclose(row["drop"]["mean"], drops.mean())
        half = 12.7062 * drops.std(ddof=1) / np.sqrt(2)  # Student's t with one degree of freedom, 97.5 %
        np.testing.assert_allclose(
            [row["drop"]["low"], row["drop"]["high"]], drops.mean() + half * np.array([-1, 1]), rtol=1e-4
        )
        assert row["verdict"] in ("passes", "fails", "undecided")
        assert row["seeds"] == [42, 43]
    with (two_seeds / "sanity.csv").open() as file:
        tidy = list(csv.DictReader(file))
    assert len(tidy) == 16
    assert float(tidy[1]["accuracy_after"]) == rows[0]["after"][1]
    assert (two_seeds / "plots" / "sanity.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_is_checked_by_its_folder(two_seeds, tmp_path, capsys):
    folder = shutil.copytree(two_seeds, tmp_path / "copy")
    assert run("sanity", [str(folder), "--checks=shuffle,reinit"]) == 0
    out = capsys.readouterr().out
    assert "shuffle" in out
    assert "undecided" in out or "passes" in out or "fails" in out
    assert run("sanity", [str(folder / "seed-43"), "--checks=shuffle"]) == 0
    assert "undecided (too few seeds)" in capsys.readouterr().out


def test_a_shuffled_imp_ticket_starts_from_the_weights_rewound_to(tmp_path):
    folder = tmp_path / "run"
    assert run("digits", [*IMP, f"--run-dir={folder}", "--sanity=shuffle"]) == 0
    real, shuffled = _tickets(folder, "", "sanity/shuffle")
    whole = ticket_file.load(folder / "search.safetensors").initial
    config, _ = parse("digits", IMP)
    problem = make_problem(load_data(config), config)
    start, _ = initial_ticket(problem.model, config)
    for layer in whole:
        kernel = whole[layer]["kernel"]
        assert np.count_nonzero(kernel) == kernel.size  # dense: step 2, not the masked ticket
        assert not np.array_equal(kernel, start.params[layer]["kernel"])
        for file in (real, shuffled):
            mask = np.asarray(file.ticket.mask[layer]["kernel"])
            np.testing.assert_array_equal(np.asarray(file.initial[layer]["kernel"])[mask], np.asarray(kernel)[mask])


def test_a_shuffled_lrr_ticket_starts_from_the_trained_weights(tmp_path):
    """One-shot: kept and removed weights are all those of the dense training's end."""
    folder = tmp_path / "run"
    flags = ["--pruner=lrr", *FLAGS, "--lrr.round-epochs=1", "--lrr.rounds=1", "--sanity=shuffle", "--seed=4"]
    assert run("digits", [*flags, f"--run-dir={folder}"]) == 0
    real, shuffled = _tickets(folder, "", "sanity/shuffle")
    whole = ticket_file.load(folder / "search.safetensors").initial
    assert masks.overlap(real.ticket.mask, shuffled.ticket.mask) < 0.6
    for layer in whole:
        for file in (real, shuffled):
            mask = np.asarray(file.ticket.mask[layer]["kernel"])
            np.testing.assert_array_equal(
                np.asarray(file.initial[layer]["kernel"])[mask], np.asarray(whole[layer]["kernel"])[mask]
            )


def test_smart_ratios_that_are_tuned_read_data_and_others_do_not():
    for version, checks in (("v5", ("random_labels",)), ("v1", None)):
        config = parse("digits", ["--pruner=smart_ratio", f"--smart-ratio.version={version}"])[0]
        config = dataclasses.replace(config, sanity="random_labels")
        if checks:
            assert chosen_checks(config) == checks
        else:
            with pytest.raises(UsageError, match="smart_ratio reads none"):
                chosen_checks(config)


@pytest.mark.parametrize("name", ["random_labels", "random_pixels", "random_data", "half_data"])
def test_corrupted_data_are_of_the_search_only(name):
    config, _ = parse("digits", ["--pruner=snip", *FLAGS])
    data = load_data(config).data
    changed = CHECKS[name].corrupt(data, config.seed)
    size = 100 if name == "half_data" else 200
    assert changed.labels.shape == (size,)
    labels, pixels = ((a.shape == b.shape and bool((a == b).all())) for a, b in zip(
        (changed.labels, changed.images), (data.train.labels, data.train.images), strict=True))  # fmt: skip
    assert labels == (name == "random_pixels")
    assert pixels == (name == "random_labels")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sanity=magic"], "shuffle_weights"),
        (["--pruner=random", "--sanity=invert"], "not defined for random"),
        (["--pruner=dense", "--sanity=shuffle", "--sparsity=0"], "no mask"),
    ],
)
def test_mistakes_in_the_flags(flags, message, tmp_path, capsys):
    assert run("digits", [*FLAGS[:1], *flags, f"--run-dir={tmp_path}/run"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert message in err


def test_mistakes_in_the_folder(two_seeds, tmp_path, capsys):
    (tmp_path / "begun").mkdir()
    shutil.copy(two_seeds / "seed-42" / "config.json", tmp_path / "begun")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"dataset": "digits"}')
    for folder, message in [("nothing", "expected a run folder"), ("begun", "finished"), ("broken", "config.json")]:
        assert run("sanity", [str(tmp_path / folder)]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1, err
        assert message in err
    mixed = shutil.copytree(two_seeds, tmp_path / "mixed")
    config = json.loads((mixed / "seed-43" / "config.json").read_text())
    (mixed / "seed-43" / "config.json").write_text(json.dumps(config | {"weight_decay": 0.5}))
    assert run("sanity", [str(mixed)]) == 2
    assert "expected the weight_decay of " in capsys.readouterr().err
    assert run("sanity", [str(two_seeds), "--checks="]) == 2
    assert "got none" in capsys.readouterr().err
    assert run("sanity", [str(two_seeds), f"--data-dir={tmp_path}"]) == 2
    assert "--data-dir: digits has no use for it" in capsys.readouterr().err


def test_checks_of_before_stay_in_the_report(two_seeds, tmp_path, capsys):
    """Once sanity.csv had the checks alone that were asked for last."""
    folder = shutil.copytree(two_seeds / "seed-42", tmp_path / "run")
    assert run("sanity", [str(folder), "--checks=shuffle"]) == 0
    with (folder / "sanity.csv").open() as file:
        named = [row["check"] for row in csv.DictReader(file)]
    assert len(named) == len(set(named))
    assert set(named) == {"ticket", *(path.name for path in (folder / "sanity").iterdir())}
    capsys.readouterr()
    assert run("sanity", [str(folder / "sanity" / "shuffle")]) == 2
    assert "expected the run that was checked, got its sanity check shuffle" in capsys.readouterr().err
    (folder / "ticket.safetensors").write_bytes((folder / "ticket.safetensors").read_bytes()[:2000])
    shutil.rmtree(folder / "sanity" / "reinit")
    assert run("sanity", [str(folder), "--checks=reinit"]) == 2
    err = capsys.readouterr().err
    assert "it cannot be checked (" in err
    assert "another network" not in err
