"""--profile: a trace of what host and device do in one epoch, for Perfetto or TensorBoard."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import jax

from experiments.terminal import progress
from rare_gems.training.trainer import Moment

__all__ = ["profiled"]


def profiled(moments: Iterable[Moment], folder: Path) -> Iterator[Moment]:
    """Passes moments on, and writes a trace of what makes the second, since the first also compiles.

    The trace is `folder`/plugins/profile/*/perfetto_trace.json.gz, beside what TensorBoard reads.
    """
    running, told = False, False
    try:
        for moment in moments:
            if running:
                jax.block_until_ready(moment.carry)
                jax.profiler.stop_trace()
                running, told = False, True
                progress.note(f"the trace of an epoch is in {folder}; ui.perfetto.dev opens perfetto_trace.json.gz")
            yield moment
            if not (moment.ended or moment.interrupted or told) and _goes_on(moment):
                jax.profiler.start_trace(folder, create_perfetto_trace=True)
                running = True
        if not told:
            progress.note("--profile: nothing was traced; expected a phase of two epochs or more")
    finally:
        if running:
            jax.profiler.stop_trace()


def _goes_on(moment: Moment) -> bool:
    """Whether the phase has done a whole epoch and has another to come."""
    done = int(moment.carry.step)
    return moment.epoch >= 1 and done + done // moment.epoch <= moment.phase.num_steps
