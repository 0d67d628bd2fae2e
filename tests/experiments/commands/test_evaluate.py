"""`experiments.evaluate`: what a run wrote down is measured again, from its folder and from seed and mask alone."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.commands import evaluate
from experiments.commands.program import run
from rare_gems import masks
from rare_gems.data.dataset import subset
from rare_gems.data.digits import digits
from rare_gems.storage import ticket_file

RESULTS = Path(evaluate.__file__).parents[1] / "results"


def evaluated(capsys, *args):
    assert run("evaluate", [str(arg) for arg in args]) == 0
    return capsys.readouterr().out


def refused(capsys, command, *args):
    assert run(command, [str(arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err.removeprefix(f"experiments.{command}: error: ")


@pytest.fixture(scope="module")
def seed(small_run, tmp_path_factory):
    file = tmp_path_factory.mktemp("seed") / "ticket.json"
    assert run("export", [str(small_run), "--to=seed", f"--output={file}"]) == 0
    return file


def test_a_run_and_its_seed_have_the_accuracies_of_the_run(small_run, seed, capsys):
    noted = json.loads((small_run / "summary.json").read_text())["accuracy"]
    before, after = (f"{noted[f'{when}_finetune']:.2%}" for when in ("before", "after"))
    assert before != after
    lines = evaluated(capsys, small_run).splitlines()
    assert lines[0].startswith("lenet_300_100 on digits: accuracy on the test set")
    assert [line.split()[-2:] for line in lines[2:]] == [[before, before], [after, after]]
    assert "25,100 of 50,200" in lines[2]
    (line,) = evaluated(capsys, seed).splitlines()[2:]
    assert line.split()[-1] == before
    assert seed.stat().st_size < 20_000


def test_weights_that_the_seed_does_not_draw_are_refused(small_run, small_copy, seed, tmp_path, capsys):
    trained = ticket_file.load(small_run / "ticket.safetensors")
    ticket_file.save(small_copy / "ticket.safetensors", trained.ticket, metadata={"method": "imp", "seed": 42},
                     initial=trained.ticket.params, model_state=trained.model_state)  # fmt: skip
    message = refused(capsys, "export", small_copy, "--to=seed")
    assert "expected a ticket of weights as its seed draws them, got others in" in message
    entries = json.loads(seed.read_text())
    entries["config"]["seed"] = 43
    other = tmp_path / "other.json"
    other.write_text(json.dumps(entries))
    assert "expected the weights that its mask was chosen from, got others in" in refused(capsys, "evaluate", other)
    other.write_text(json.dumps(entries | {"config": entries["config"] | {"dataset": "imagenette"}}))
    assert f"{other}: expected the configuration of a run" in refused(capsys, "evaluate", other)
    other.write_text(json.dumps(entries | {"config": {"pruner": "magic"}}))
    assert f"{other}: expected the configuration of a run" in refused(capsys, "evaluate", other)


def test_the_ticket_among_the_results_is_drawn_as_when_it_was_found():
    file = RESULTS / "gem_miner_auto" / "resnet20_16x16" / "seed.json"
    config, (found,) = evaluate._of_seed(file, None)
    assert (config.dataset, config.model, masks.num_kept(found.mask)) == ("cifar10", "resnet20", 3_864)
    assert not config.options.drop_unused  # which it is older than
    sizes = sorted({float(jnp.abs(leaf).min()) for leaf in jax.tree.leaves(found.params)})
    assert sizes == pytest.approx([(2 / fan_in) ** 0.5 for fan_in in (576, 288, 144, 64, 27)])


def test_the_mask_is_that_of_the_end(small_copy, capsys):
    """With --gem-miner.finetune-mask=rounded it is thinner than what search.safetensors has."""
    trained = ticket_file.load(small_copy / "ticket.safetensors")
    mask = jax.tree.map(lambda m: m & (np.arange(m.size).reshape(m.shape) % 2 == 0), trained.ticket.mask)
    ticket_file.save(small_copy / "ticket.safetensors", trained.ticket._replace(mask=mask), metadata={"seed": 42},
                     initial=trained.initial, model_state=trained.model_state)  # fmt: skip
    lines = evaluated(capsys, small_copy).splitlines()[2:]
    assert [f"{masks.num_kept(mask):,} of 50,200" in line for line in lines] == [True, True]


def test_weights_of_a_file_that_is_gone_are_evaluated(small_run, small_copy, capsys):
    config = json.loads((small_copy / "config.json").read_text())
    (small_copy / "config.json").write_text(json.dumps(config | {"pretrained": "gone.pth"}))
    assert evaluated(capsys, small_copy) == evaluated(capsys, small_run)


def test_a_check_of_a_run_becomes_smaller_too(small_copy, tmp_path, capsys):
    config = json.loads((small_copy / "config.json").read_text())
    (small_copy / "config.json").write_text(json.dumps(config | {"check": "shuffle"}))
    assert run("export", [str(small_copy), "--to=compact", f"--output={tmp_path}/c.safetensors"]) == 0
    assert "parameters 50,610 -> " in capsys.readouterr().out


def test_with_fresh_statistics(small_run, tmp_path, capsys):
    """Beside NumPy: the running mean of a network is that of the images that were asked for."""
    flags = ["--pruner=random", "--model=tests.experiments.nets:centred", "--sparsity=0.5", "--finetune-epochs=1"]
    assert run("digits", [*flags, "--batch-size=100", f"--run-dir={tmp_path / 'run'}"]) == 0
    capsys.readouterr()
    first, _, *lines = evaluated(capsys, tmp_path / "run", "--fresh-statistics=200").splitlines()[2:]
    assert first.startswith(" before finetuning")
    assert [line.strip().split("  ")[0] for line in lines] == ["trained", "trained, fresh statistics"]
    noted = json.loads((tmp_path / "run" / "summary.json").read_text())["accuracy"]["after_finetune"]
    assert lines[0].split()[-2:] == [f"{noted:.2%}"] * 2
    data = digits()
    pixels = lambda images: ((images / 255 - data.mean) / data.std).reshape(len(images), -1)  # noqa: E731
    mean = pixels(subset(data.train, 200, 10, seed=0).images).mean(0)
    kernel = ticket_file.load(tmp_path / "run" / "ticket.safetensors").ticket.params["linear"]["kernel"]
    right = ((pixels(data.test.images) - mean) @ np.float64(kernel)).argmax(1) == data.test.labels
    assert lines[1].split()[-1] == f"{right.mean():.2%}"
    assert "expected a network with running statistics" in refused(
        capsys, "evaluate", small_run, "--fresh-statistics=9"
    )
    assert "expected 1 or more training images" in refused(capsys, "evaluate", small_run, "--fresh-statistics=-1")


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_a_damaged_configuration(text, small_copy, capsys):
    (small_copy / "config.json").write_text(text)
    assert "config.json: expected the configuration of a run" in refused(capsys, "evaluate", small_copy)


def test_the_ticket_in_a_run_folder_is_that_of_the_run(small_run, capsys):
    assert evaluated(capsys, small_run / "ticket.safetensors") == evaluated(capsys, small_run)


def test_mistakes(small_run, tmp_path, capsys):
    assert "got nothing there" in refused(capsys, "evaluate", tmp_path / "nowhere")
    assert "expected a run folder, with a config.json" in refused(capsys, "evaluate", tmp_path)
    assert "expected a ticket by its seed" in refused(capsys, "evaluate", small_run / "summary.json")
    shutil.copy(small_run / "ticket.safetensors", tmp_path / "alone.safetensors")
    assert "expected a ticket by its seed" in refused(capsys, "evaluate", tmp_path / "alone.safetensors")
    assert "--data-dir: digits has no use for it" in refused(capsys, "evaluate", small_run, f"--data-dir={tmp_path}")
    message = refused(capsys, "export", tmp_path / "alone.safetensors", "--to=seed", f"--output={tmp_path}/a.json")
    assert "expected a run folder" in message
    assert "ends in .json" in refused(capsys, "export", small_run, "--to=seed", f"--output={tmp_path}/a.txt")
