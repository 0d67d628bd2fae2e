"""What a finished run leaves behind, and what the same command does then."""

import csv
import gzip
import json
import math

import jax
import numpy as np
import pytest

from experiments.commands.program import run
from rare_gems import masks, schedules
from rare_gems.storage import ticket_file
from tests.experiments.conftest import SMALL

SPARSITY = 0.5
NUM_PRUNABLE = 64 * 300 + 300 * 100 + 100 * 10
NUM_KEPT = masks.count_for(NUM_PRUNABLE, SPARSITY)


def _rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_summary(small_run):
    summary = json.loads((small_run / "summary.json").read_text())
    wanted = {
        "pruner": "gem_miner",
        "model": "lenet_300_100",
        "dataset": "digits",
        "seed": 42,
        "sparsity_target": SPARSITY,
    }
    assert wanted.items() <= summary.items()
    assert (summary["num_kept"], summary["num_prunable"]) == (NUM_KEPT, NUM_PRUNABLE)
    assert math.isclose(summary["sparsity"], 1 - NUM_KEPT / NUM_PRUNABLE)
    accuracy = summary["accuracy"]
    for name in ("before_finetune", "before_finetune_frozen", "before_finetune_rounded", "after_finetune"):
        assert 0 < accuracy[name] <= 1
    assert accuracy["before_finetune"] == accuracy["before_finetune_frozen"]
    assert accuracy["after_finetune"] > 0.5
    assert list(summary["layer_sparsity"]) == [f"linear{i}/kernel" for i in (1, 2, 3)]
    assert summary["versions"]["jax"] == jax.__version__
    assert summary["seconds"]["total"] > 0


def test_the_ticket_is_what_the_summary_says(small_run):
    file = ticket_file.load(small_run / "ticket.safetensors")
    masks.check(file.ticket.mask, NUM_KEPT)
    kept = {name: int(np.count_nonzero(layer["kernel"])) for name, layer in file.ticket.params.items()}
    limit = {name: int(layer["kernel"].sum()) for name, layer in file.ticket.mask.items()}
    assert all(0 < kept[name] <= limit[name] for name in kept)  # dead weights are exactly zero in the file
    signs = np.unique(np.abs(file.initial["linear1"]["kernel"]))
    np.testing.assert_allclose(signs, math.sqrt(2 / 64), rtol=1e-6)
    assert file.metadata["method"] == "gem_miner"
    assert file.metadata["seed"] == 42


def test_metrics(small_run):
    rows = _rows(small_run)
    assert [(row["phase"], int(row["epoch"])) for row in rows] == [("search", e) for e in range(1, 6)] + [
        ("finetune", e) for e in range(1, 4)
    ]
    assert [int(row["step"]) for row in rows] == [16 * i for i in range(1, 9)]
    frozen = [float(row["sparsity_frozen"]) for row in rows]
    counts = schedules.exponential_counts(NUM_PRUNABLE, SPARSITY, 2)  # after epochs 2 and 4, counted from 0
    expected = (
        [0, 0, 1 - counts[0] / NUM_PRUNABLE] + [1 - counts[0] / NUM_PRUNABLE] + [1 - counts[1] / NUM_PRUNABLE] * 4
    )
    np.testing.assert_allclose(frozen, expected, atol=1e-6)
    for row, q in zip(rows, frozen, strict=True):
        assert float(row["sparsity"]) >= q - 1e-6  # q and r(p) removes at least what q does
        assert float(row["seconds"]) > 0
        assert 0 <= float(row["train_accuracy"]) <= 1
        assert row["validation_accuracy"] == ""
        assert (row["bound"] == "") == (row["phase"] == "finetune")
    bound = [float(row["bound"]) for row in rows[:5]]
    np.testing.assert_allclose(bound, [1 - (1 - SPARSITY) ** (j / 5) for j in range(1, 6)], rtol=1e-5)
    assert int(rows[0]["flips"]) > 0
    assert all(int(row["flips"]) == 0 for row in rows[6:])


def test_plots_and_logs(small_run):
    for name in ("accuracy_and_sparsity", "layer_sparsity"):
        assert (small_run / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert list((small_run / "tensorboard").glob("events.*"))
    config = json.loads((small_run / "config.json").read_text())
    assert config["gem_miner"]["period"] == 2
    assert config["dataset"] == "digits"
    assert len(list((small_run / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("name", ["shuffle", "shuffle_global"])
def test_compared_tickets(small_run, name):
    folder = small_run / "sanity" / name
    found, other = (ticket_file.load(f / "ticket.safetensors") for f in (small_run, folder))
    masks.check(other.ticket.mask, NUM_KEPT)
    counts = [[k for k, _ in masks.layer_counts(file.ticket.mask).values()] for file in (found, other)]
    assert (counts[0] == counts[1]) == (name == "shuffle")
    assert masks.overlap(found.ticket.mask, other.ticket.mask) < 0.6
    jax.tree.map(np.testing.assert_array_equal, found.initial, other.initial)
    assert json.loads((folder / "summary.json").read_text())["accuracy"]["after_finetune"] > 0.3


def test_a_finished_run_is_reported_not_repeated(small_copy, capsys):
    files = [path for path in small_copy.rglob("*") if path.is_file() and path.name != ".lock"]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert run("digits", [*SMALL, f"--run-dir={small_copy}", "--compare"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    shown = capsys.readouterr().out
    assert "gem_miner" in shown
    assert "shuffle_global" in shown
    assert f"{NUM_KEPT:,}" in shown


def test_another_configuration_in_the_folder_is_refused(small_copy, capsys):
    assert run("digits", [*SMALL, f"--run-dir={small_copy}", "--learning-rate=0.3"]) == 2
    error = capsys.readouterr().err
    assert "another configuration" in error
    assert "learning_rate" in error
    assert error.count("\n") == 1


def test_validation_reads_the_test_set_once(tmp_path):
    flags = [flag for flag in SMALL if "train-examples" not in flag]
    assert run("digits", [*flags, f"--run-dir={tmp_path}/run", "--validation-examples=200"]) == 0
    rows = _rows(tmp_path / "run")
    assert all(row["test_accuracy"] == "" and 0 <= float(row["validation_accuracy"]) <= 1 for row in rows)
    accuracy = json.loads((tmp_path / "run" / "summary.json").read_text())["accuracy"]
    finetune = [float(row["validation_accuracy"]) for row in rows if row["phase"] == "finetune"]
    best = accuracy["best_validation"]
    assert best["epoch"] == finetune.index(max(finetune)) + 1
    assert math.isclose(best["validation"], max(finetune), rel_tol=1e-5)
    assert 0 < best["test"] <= 1


@pytest.mark.parametrize(
    "flags", [["--pruner=dense"], ["--pruner=random"], ["--pruner=random", "--random.scope=layer"]]
)
def test_baselines(tmp_path, flags):
    small = ["--model=lenet_300_100", "--finetune-epochs=2", "--batch-size=100", "--train-examples=300"]
    sparsity = [] if flags == ["--pruner=dense"] else [f"--sparsity={SPARSITY}"]
    assert run("digits", [*small, *flags, *sparsity, f"--run-dir={tmp_path}/run"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["num_kept"] == (NUM_KEPT if sparsity else NUM_PRUNABLE)
    if "--random.scope=layer" in flags:
        np.testing.assert_allclose(list(summary["layer_sparsity"].values()), SPARSITY, atol=1e-3)


def test_several_seeds(tmp_path, capsys):
    flags = [
        "--model=lenet_300_100",
        "--pruner=random",
        f"--sparsity={SPARSITY}",
        "--finetune-epochs=1",
        "--batch-size=100",
    ]
    assert run("digits", [*flags, "--num-seeds=2", f"--run-dir={tmp_path}/runs"]) == 0
    tickets = [ticket_file.load(tmp_path / "runs" / f"seed-{seed}" / "ticket.safetensors") for seed in (42, 43)]
    assert masks.overlap(*(file.ticket.mask for file in tickets)) < 0.6
    assert "±" in capsys.readouterr().out


def test_a_profile_of_one_epoch(tmp_path, capsys):
    command = [*SMALL, f"--run-dir={tmp_path}/run", "--profile", "--pruner=random", "--finetune-epochs=2"]
    flags = [flag for flag in command if not flag.startswith(("--epochs", "--gem-miner", "--finetune-epochs=3"))]
    assert run("digits", flags) == 0
    (trace,) = (tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz")
    with gzip.open(trace) as file:
        assert json.load(file)["traceEvents"]
    assert "perfetto" in capsys.readouterr().err


def test_bfloat16_changes_what_is_computed_and_not_what_is_kept(tmp_path):
    command = [*SMALL, f"--run-dir={tmp_path}/run", "--precision=bfloat16", "--epochs=3", "--finetune-epochs=1"]
    assert run("digits", command) == 0
    file = ticket_file.load(tmp_path / "run" / "ticket.safetensors")
    assert {leaf.dtype for leaf in jax.tree.leaves(file.ticket.params)} == {np.dtype("float32")}
    assert masks.num_kept(file.ticket.mask) == masks.count_for(masks.num_prunable(file.ticket.mask), 0.5)
