"""--at-once: several seeds under vmap leave what each leaves alone, go on together after a stop, or one by one."""

import contextlib
import csv
import json
import signal

import jax
import numpy as np
import pytest

from experiments.commands.program import run
from experiments.config import sweep
from experiments.terminal import signals
from experiments.terminal.errors import UsageError
from experiments.training import grouping
from rare_gems.storage import ticket_file
from tests.experiments.conftest import SMALL, made_once

WHOLE = [flag for flag in SMALL if not flag.startswith(("--train-examples", "--epochs", "--finetune-epochs"))]
FLAGS = [*WHOLE, "--epochs=3", "--finetune-epochs=2", "--batch-size=100", "--gem-miner.period=1", "--num-seeds=2"]


def _tickets(folder):
    return [ticket_file.load(folder / f"seed-{seed}" / "ticket.safetensors") for seed in (42, 43)]


def _same(one, other):
    for a, b in zip(_tickets(one), _tickets(other), strict=True):
        jax.tree.map(np.testing.assert_array_equal, a.ticket.mask, b.ticket.mask)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a.ticket, b.ticket)


def _same_rows(*files):
    """Of three epochs of search and two of finetuning; accuracies and counts to the last digit."""
    one, other = (list(csv.DictReader(file.read_text().splitlines())) for file in files)
    assert [row["phase"] for row in one] == ["search"] * 3 + ["finetune"] * 2
    for name in ("phase", "epoch", "step", "test_accuracy", "sparsity", "sparsity_frozen", "flips"):
        assert [row[name] for row in one] == [row[name] for row in other], name
    for name in ("loss", "train_accuracy"):
        values = [[float(row[name]) for row in rows] for rows in (one, other)]
        np.testing.assert_allclose(*values, rtol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    def make(folder):
        assert run("digits", [*FLAGS, f"--run-dir={folder}"]) == 0

    return made_once(tmp_path_factory, "at_once", make)


class _Stop(list):
    """What a signal would fill: it says so after some steps."""

    def __init__(self, steps):
        super().__init__([signal.SIGTERM])
        self.left = steps

    def __bool__(self):
        self.left -= 1
        return self.left < 0


def _stop_after(monkeypatch, steps):
    monkeypatch.setattr(signals, "collected", lambda: contextlib.nullcontext(_Stop(steps)))


def test_each_run_is_what_it_is_alone(alone, tmp_path, capsys):
    assert run("digits", [*FLAGS, "--at-once=2", f"--run-dir={tmp_path}"]) == 0
    _same(alone, tmp_path)
    out = capsys.readouterr().out
    assert "2 seeds" in out
    for seed in (42, 43):
        one, other = (json.loads((f / f"seed-{seed}" / "summary.json").read_text()) for f in (alone, tmp_path))
        assert (one["runs_at_once"], other["runs_at_once"]) == (1, 2)
        for name in ("num_kept", "accuracy", "layers", "steps", "epochs", "seed"):
            assert one[name] == other[name], name
        _same_rows(*(f / f"seed-{seed}" / "metrics.csv" for f in (alone, tmp_path)))


def test_stopped_runs_go_on_together(alone, tmp_path, monkeypatch):
    command = [*FLAGS, "--at-once=2", f"--run-dir={tmp_path}"]
    for steps, epochs in ((20, 1), (35, 3)):  # of 15 in an epoch: in the search, then in the finetuning
        with monkeypatch.context() as patch:
            _stop_after(patch, steps)
            assert run("digits", command) == 75
        assert not (tmp_path / "seed-42" / "summary.json").exists()
        assert len((tmp_path / "seed-42" / "metrics.csv").read_text().splitlines()) == 1 + epochs
    assert run("digits", command) == 0
    _same(alone, tmp_path)


def test_a_run_that_is_behind_is_trained_by_itself(alone, tmp_path, monkeypatch):
    one = [flag for flag in FLAGS if not flag.startswith("--num-seeds")]
    with monkeypatch.context() as patch:
        _stop_after(patch, 20)
        assert run("digits", [*one, f"--run-dir={tmp_path}/seed-42"]) == 75
    assert run("digits", [*FLAGS, "--at-once=2", f"--run-dir={tmp_path}"]) == 0
    _same(alone, tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--at-once=3"], "--at-once: expected at most the 2 runs that there are, got 3"),
        (["--at-once=0"], "--at-once: expected 1 or more, got 0"),
        (["--at-once=2", "--train-examples=200"], "--at-once: --train-examples gives each seed training images"),
        (["--at-once=2", "--validation-examples=20"], "--at-once: --validation-examples gives"),
        (["--at-once=2", "--batch-norm=per-device", "--devices=2"], "--at-once: runs that train at once do not share"),
    ],
)
def test_what_cannot_train_at_once(flags, message):
    with pytest.raises(UsageError, match=message):
        sweep.expand("digits", [*FLAGS, *flags])


def test_statistics_per_device_are_of_runs_that_share_their_batches_out():
    """Runs at once have a device each, and once took the statistics of the whole batch without a word."""
    config = sweep.expand("digits", [*FLAGS, "--batch-norm=per-device", "--devices=2"])[0].config
    assert grouping.trains_alone(config)
    assert not grouping.trains_alone(sweep.expand("digits", FLAGS)[0].config)
