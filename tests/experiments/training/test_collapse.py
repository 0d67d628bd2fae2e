"""--on-collapse: a layer without a weight is named where the mask is made, before anything is trained under it."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.commands.program import run
from experiments.terminal import progress
from experiments.terminal.errors import RunFailed
from experiments.training import collapse
from experiments.training.epoch_table import Table
from tests.experiments.training.test_at_once import _stop_after

FLAGS = ["--model=lenet_300_100", "--sparsity=0.9999", "--train-examples=100", "--batch-size=50"]  # keeps five weights
RANDOM = [*FLAGS, "--pruner=random", "--finetune-epochs=2"]
MADE = "layer linear3/kernel lost its last weight when the mask was made (phase 1 of 2 of digits random)"


def _files(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--pruner=snip", "--finetune-epochs=0"], "at the end of the search (phase 1 of 1 of digits snip)"),
        (["--pruner=imp", "--imp.round-epochs=1", "--imp.rounds=2", "--imp.rewind-step=1", "--finetune-epochs=1"],
         "of digits imp)"),
    ],
    ids=["search", "round"],
)  # fmt: skip
def test_a_mask_that_ends_a_phase_is_looked_at(flags, told, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run("digits", [*FLAGS, *flags, "--on-collapse=error", f"--run-dir={folder}"]) == 3
    err = capsys.readouterr().err
    assert told in err.splitlines()[-1]
    assert "(--on-collapse=error)" in err.splitlines()[-1]
    assert "finetune" not in err
    assert "the ticket is found" not in err
    assert not {"ticket.safetensors", "summary.json"} & set(_files(folder))


def test_the_folder_of_a_collapse_ends_in_the_same_way_or_goes_on_with_a_warning(tmp_path, capsys):
    folder = tmp_path / "run"
    command = [*RANDOM, f"--run-dir={folder}"]
    errors = []
    for _ in range(2):
        assert run("digits", [*command, "--on-collapse=error"]) == 3
        errors.append(capsys.readouterr().err.splitlines()[-1])
        assert _files(folder) == ["checkpoints", "config.json", "metrics.csv", "tensorboard"]
        assert list((folder / "checkpoints").iterdir()) == []
    assert errors == [f"experiments.digits: error: {MADE} (--on-collapse=error)"] * 2
    assert run("digits", command) == 0
    err = capsys.readouterr().err
    assert f"warning: {MADE}" in err
    assert err.count("warning: layer") == 1  # not again after each epoch of finetuning
    assert err.count("warning: ") == 2  # and that no weight matters then
    assert err.index("warning: ") < err.index("the ticket is found")


def test_a_run_that_went_on_after_a_warning_is_stopped_where_it_is_resumed(tmp_path, capsys, monkeypatch):
    command = [*RANDOM, f"--run-dir={tmp_path}/run", "--checkpoint-every=1"]
    with monkeypatch.context() as patch:
        _stop_after(patch, 2)  # of two in an epoch
        assert run("digits", command) == 75
    capsys.readouterr()
    assert run("digits", [*command, "--on-collapse=error"]) == 3
    told = capsys.readouterr().err.splitlines()[-1]
    assert "layer linear3/kernel has no weight in the checkpoint of step" in told
    assert run("digits", command) == 0
    assert "warning: " not in capsys.readouterr().err  # it was said before the stop


def test_of_several_seeds_at_once_the_folder_is_named(tmp_path, capsys):
    flags = [flag for flag in RANDOM if not flag.startswith(("--train-examples", "--batch-size"))]
    command = [*flags, "--num-seeds=2", "--at-once=2", "--on-collapse=error", f"--run-dir={tmp_path}"]
    assert run("digits", command) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{tmp_path}/seed-4" in last
    assert "lost its last weight when the mask was made" in last
    for seed in (42, 43):
        assert _files(tmp_path / f"seed-{seed}") == ["checkpoints", "config.json", "metrics.csv", "tensorboard"]


def test_a_check_that_empties_a_layer_is_named(tmp_path, capsys):
    flags = [*FLAGS[:1], *FLAGS[2:], "--sparsity=0.999", "--pruner=random", "--random.scope=layer", "--seed=3",
             "--finetune-epochs=0", "--on-collapse=error", f"--run-dir={tmp_path}/run"]  # fmt: skip
    assert run("digits", flags) == 0
    assert run("digits", [*flags, "--sanity=shuffle_global"]) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert "(phase 1 of 1 of digits random, mask shuffled over the network)" in last
    assert not (tmp_path / "run" / "sanity" / "shuffle_global" / "ticket.safetensors").exists()


def test_fewer_weights_than_layers_are_refused_before_anything_is_done(tmp_path, capsys):
    flags = [*RANDOM, "--sparsity=0.99997", f"--run-dir={tmp_path}/run"]
    assert run("digits", [*flags, "--on-collapse=error"]) == 2
    assert "each of the 3 layers, got 0.99997, which keeps 2 of 50,200" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def table(tmp_path):
    mask = {"a": jnp.ones(2, bool), "b": jnp.ones((0, 3), bool), "c": jnp.ones(3, bool)}
    notes = {"rows": [], "warned": []}
    made = Table(tmp_path, progress.start("toy", 1, 0, True), notes, mask, "test", "warn")
    yield made
    made.close()


def test_a_layer_is_reported_once_and_again_only_if_it_had_weights_in_between(table, capsys):
    for kept in ([2, 0, 3], [0, 0, 3], [0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]):  # b has nothing to lose
        table.check_layers(np.int32(kept), "is empty", None)
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert lines == [f"warning: layer {name} is empty" for name in "aca"]
    table.on_collapse = "error"
    with pytest.raises(RunFailed, match=r"^each of the layers a, c is empty \(--on-collapse=error\)$"):
        table.check_layers(np.int32([0, 0, 0]), "is empty", None)


def test_the_ticket_that_a_run_begins_with_is_looked_at(table):
    mask = {"a": jnp.zeros(2, bool), "b": jnp.ones((0, 3), bool), "c": jnp.ones(3, bool)}
    begins = SimpleNamespace(ticket=SimpleNamespace(mask=mask), title="toy random")
    table.on_collapse = "error"
    with pytest.raises(RunFailed, match=r"^layer a has no weight in the ticket that toy random begins with \(--on-c"):
        collapse.check_start(table, begins, None, 0, None)
