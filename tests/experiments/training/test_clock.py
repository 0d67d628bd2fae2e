"""Seconds of epochs: each row has those of its own, whenever its numbers are fetched; compiling is told apart."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.run_folder import metrics_csv
from experiments.terminal import progress
from experiments.training import logbook_moments
from experiments.training.clock import Clock
from experiments.training.epoch_table import Table
from experiments.training.measure import Observed
from rare_gems.phase import Info


class Slow:
    """A number that the device takes a while to have, by a clock of the test's own."""

    def __init__(self, value, spend):
        self.value, self.spend = np.float32(value), spend

    def block_until_ready(self):
        self.spend(10.0)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.value, dtype)


@pytest.fixture
def now():
    return [100.0]


@pytest.fixture
def clock(now):
    made = Clock(lambda: now[0])
    yield made
    made.close()


def test_each_row_has_the_seconds_of_its_own_epoch(tmp_path, now, clock):
    def spend(seconds):
        now[0] += seconds

    display, notes, mask = progress.start("toy", 3, 0, True), {"rows": [], "warned": []}, {"a": jnp.ones(2, bool)}
    table = Table(tmp_path, display, notes, mask, "test", "warn", clock=clock)
    for epoch in (1, 2, 3):  # dispatched within a second; the device is done ten seconds later
        spend(1.0)
        info = Info(Slow(0.5, spend), np.float32(1), np.float32(0), np.int32(0))
        observed = Observed(info, np.int32(-1), np.int32([2]), np.int32([2]))
        table.add({"phase": "search", "epoch": epoch, "step": epoch, "bound": None}, observed, np.float32([0.5]))
        spend(50.0)  # a checkpoint
        clock.start()
    table.finish()
    table.close()
    assert [row["seconds"] for row in table.rows] == [11.0] * 3
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert header.endswith(",seconds,compile_seconds")
    assert [row.split(",")[-2] for row in rows] == ["11"] * 3
    assert float(rows[-1].split(",")[-1]) == 0  # nothing was compiled any more


def test_what_follows_an_epoch_is_no_part_of_the_next(now, clock, monkeypatch):
    monkeypatch.setattr(logbook_moments, "_write", lambda books, moment: now.__setitem__(0, 500.0))
    logbook_moments.take([SimpleNamespace(table=SimpleNamespace(clock=clock))], None)
    now[0] += 3
    assert clock.read()["seconds"] == 3


def test_compiling_is_told_apart(now, clock):
    fn = jax.jit(lambda x: jnp.sin(x) + 41)
    fn(jnp.ones(3)).block_until_ready()
    assert clock.read()["compile_seconds"] == 0  # no more than the seconds, of which there are none yet
    now[0] += 1000
    assert 0 < clock.read()["compile_seconds"] < 1000
    fn(jnp.ones(3)).block_until_ready()
    clock.start()
    fn(jnp.ones(3)).block_until_ready()
    now[0] += 1000
    assert clock.read()["compile_seconds"] == 0
    clock.close()
    clock.start()
    jax.jit(lambda x: jnp.sin(x) + 42)(jnp.ones(3)).block_until_ready()
    assert clock.read()["compile_seconds"] == 0


def test_rows_of_earlier_versions_are_written_again(tmp_path):
    metrics_csv.write_rows(tmp_path / "metrics.csv", [{"phase": "search", "epoch": 1, "seconds": 2.5}])
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1] == "search,1,,,,,,,,,,2.5,"
