"""--profile traces a whole epoch, whichever phase has one that follows another."""

from types import SimpleNamespace

import jax
import pytest

from experiments.terminal import progress
from experiments.training.profiling import profiled


def moments(*phases):
    """What the trainer yields of phases of (steps), with epochs of 10."""
    for num_steps in phases:
        ends = [*range(10, num_steps, 10), num_steps]
        for step, ended in [*((end, False) for end in ends), (num_steps, True)]:
            yield SimpleNamespace(
                epoch=step // 10, carry=SimpleNamespace(step=step), phase=SimpleNamespace(num_steps=num_steps),
                ended=ended, interrupted=False,
            )  # fmt: skip


@pytest.mark.parametrize(
    ("phases", "traced"),
    [
        ((20,), [(10, 20)]),
        ((3, 30), [(10, 20)]),  # SNIP: a phase without a whole epoch, and one moment before its end
        ((10, 30), [(10, 20)]),  # a search of one epoch
        ((15, 25), [(10, 20)]),  # rewound: the last part is no epoch
        ((10, 15), []),
    ],
)
def test_an_epoch_is_traced_that_follows_another_in_its_phase(phases, traced, monkeypatch, tmp_path):
    log, told = [], []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: log.append([seen[-1]]))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: log[-1].append(arriving[-1]))
    monkeypatch.setattr(progress, "note", told.append)
    seen, arriving = [], []

    def noted():
        for moment in moments(*phases):
            arriving.append(moment.carry.step)
            yield moment

    for moment in profiled(noted(), tmp_path):
        seen.append(moment.carry.step)
    assert [tuple(each) for each in log] == traced
    assert told == [told[0]]
    assert ("the trace of an epoch" in told[0]) == bool(traced)
