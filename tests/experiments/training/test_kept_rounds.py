"""--keep=rounds: the networks that the rounds trained, in files of their own."""

import contextlib
import signal

import jax
import numpy as np
import pytest

from experiments.catalog.pruners.table import PRUNERS
from experiments.commands.program import run
from experiments.config.parse import parse
from experiments.problem.recipe import plan_of
from experiments.run_folder import paths
from experiments.terminal import signals
from experiments.terminal.errors import UsageError
from experiments.training import kept_rounds
from rare_gems import masks
from rare_gems.storage import ticket_file
from tests.experiments.conftest import made_once

LENET = ["--model=lenet_300_100", "--sparsity=0.75", "--batch-size=50", "--train-examples=200"]  # 4 steps an epoch
IMP = [*LENET, "--pruner=imp", "--imp.round-epochs=2", "--imp.rounds=2", "--imp.rewind-step=3", "--finetune-epochs=1",
       "--keep=rounds", "--data-seed=3", "--checkpoint-every=1"]  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    def make(folder):
        assert run("digits", [*IMP, f"--run-dir={folder}"]) == 0

    return made_once(tmp_path_factory, "kept_rounds", make)


def _load(folder):
    return {number: ticket_file.load(file) for number, file in paths.round_files(folder).items()}


def test_each_round_is_the_network_that_it_trained(kept):
    rounds, ticket = _load(kept), ticket_file.load(kept / "ticket.safetensors")
    assert list(rounds) == [0, 1, 2]
    assert [file.metadata["num_kept"] for file in rounds.values()] == [50200, 50200, 25100]
    assert [file.metadata["round"] for file in rounds.values()] == [0, 1, 2]
    found = masks.keep_top(masks.map_kept(np.abs, rounds[2].ticket.params, rounds[2].ticket.mask), 12550)
    jax.tree.map(np.testing.assert_array_equal, found, ticket.ticket.mask)  # it is what the last round was cut to
    second = masks.keep_top(masks.map_kept(np.abs, rounds[1].ticket.params, rounds[1].ticket.mask), 25100)
    jax.tree.map(np.testing.assert_array_equal, second, rounds[2].ticket.mask)
    for number in (1, 2):
        params, mask = rounds[number].ticket.params, rounds[number].ticket.mask
        jax.tree.map(np.testing.assert_array_equal, masks.apply(params, mask), params)
    begun = masks.apply(rounds[0].ticket.params, ticket.ticket.mask)  # the weights rewound to
    jax.tree.map(np.testing.assert_array_equal, begun, masks.apply(ticket.initial, ticket.ticket.mask))
    assert all(file.ticket.scores is None for file in rounds.values())


def test_a_stopped_run_keeps_the_same(kept, tmp_path, monkeypatch):
    class Stop(list):
        left = 9  # of 3 + 5 + 5 + 4 steps: in the second round

        def __bool__(self):
            self.left -= 1
            return self.left < 0

    with monkeypatch.context() as patch:
        patch.setattr(signals, "collected", lambda: contextlib.nullcontext(Stop([signal.SIGTERM])))
        assert run("digits", [*IMP, f"--run-dir={tmp_path}/run"]) == 75
    assert list(paths.round_files(tmp_path / "run")) == [0, 1]
    assert run("digits", [*IMP, f"--run-dir={tmp_path}/run"]) == 0
    for number, file in paths.round_files(kept).items():
        assert file.read_bytes() == paths.round_file(tmp_path / "run", number).read_bytes()


def test_the_methods_that_have_rounds():
    for name, row in PRUNERS.items():
        if row.keeps_rounds:
            short = {"imp": ["--imp.rounds=3"], "lrr": ["--lrr.rounds=3"]}.get(name, ["--epochs=2"])
            more = ["--hybrid.linear=None"] if name == "hybrid" else []
            config, _ = parse(
                "digits", ["--model=conv2", "--network.width=0.1", "--sparsity=0.9", f"--pruner={name}", *short, *more]
            )
            rounds = kept_rounds.rounds_in(plan_of(config).recipe)
            assert len(rounds) == (3 if name in ("imp", "lrr") else 1)
        elif name not in ("jackpot", "dense", "copied_ratios", "ticket", "smart_ratio"):
            config, _ = parse("digits", ["--model=conv2", "--network.width=0.1", "--sparsity=0.9", f"--pruner={name}"])
            assert kept_rounds.rounds_in(plan_of(config).recipe) == []
    with pytest.raises(UsageError, match="--keep: snip trains no weights in rounds; expected ticket, or one of imp"):
        parse("digits", ["--pruner=snip", "--keep=rounds"])


def test_the_dry_run_says_what_it_takes(capsys):
    assert run("digits", [*IMP, "--dry-run"]) == 0
    assert "3 files in rounds/" in (out := capsys.readouterr().out)
    assert "3 x 0.20 MB and the masks = about 0.6 MB of disk" in out


def test_a_ticket_trained_again_by_itself_and_under_other_orders(kept, tmp_path, capsys):
    again = [*LENET, "--pruner=ticket", f"--ticket.run={kept}", "--finetune-epochs=1", "--checkpoint-every=9"]
    config, _ = parse("digits", IMP)
    same = [f"--{name.replace('_', '-')}={getattr(config, name)}"
            for name in ("finetune_learning_rate", "weight_decay", "momentum")]  # fmt: skip
    flags = [*again, *same, "--sweep.data-seed=3,4", f"--run-dir={tmp_path}"]
    assert run("digits", flags) == 0
    found, *trained = (ticket_file.load(folder / "ticket.safetensors")
                       for folder in (kept, tmp_path / "data-seed-3", tmp_path / "data-seed-4"))  # fmt: skip
    for file in trained:
        jax.tree.map(np.testing.assert_array_equal, file.ticket.mask, found.ticket.mask)
        begun = [masks.apply(each.initial, found.ticket.mask) for each in (file, found)]
        jax.tree.map(np.testing.assert_array_equal, *begun)
    jax.tree.map(np.testing.assert_array_equal, trained[0].ticket.params, found.ticket.params)  # as in the run itself
    assert not np.array_equal(*(file.ticket.params["linear1"]["kernel"] for file in trained))
    capsys.readouterr()
    assert run("digits", ["--sparsity=0.5" if flag == "--sparsity=0.75" else flag for flag in again]) == 2
    assert f"--sparsity: expected 0.75, that of {kept}, which keeps 12,550 of 50,200" in capsys.readouterr().err
    other = [flag for flag in again if not flag.startswith("--model")]
    assert run("digits", [*other, "--model=conv2", "--network.width=0.1"]) == 2
    assert "expected a ticket of this network, with prunable weights" in capsys.readouterr().err
