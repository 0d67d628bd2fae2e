"""How several processes share the runs of a comparison.

Each locks the folder of the run that it makes. A worker that can take the lock of its collector knows that locks
do not reach it (some network file systems), or that the collector is gone, and keeps to its own share.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.cluster.worker import SHARE, in_job
from experiments.run_folder import paths
from experiments.run_folder.folder import check_free
from experiments.terminal import progress
from experiments.terminal.errors import Busy

__all__ = ["Waiting", "go_through"]


class Waiting(Busy):
    """Another process makes what a run needs: it can be made as soon as that is there."""


def go_through(names: Sequence[str], finish: Callable[[int], str | None], folder: Path) -> list[str]:
    """Finishes every run, and says what failed. It waits at the end for runs that another process makes, but not in a
    job, whose collector waits; there it waits for what its runs need.

    Args:
      names: of the runs.
      finish: makes the run of that number, or raises Busy; returns what failed.
      folder: of the comparison.
    """
    failures: list[str] = []
    left, told = _order(len(names), folder), False
    while left:
        busy, waiting = [], False
        for i in left:
            if not told:
                progress.note(f"{i + 1} of {len(names)}: {names[i]}")
            try:
                failure = finish(i)
            except Busy as error:
                busy.append(i)
                waiting |= isinstance(error, Waiting)
                continue
            if failure:
                failures.append(f"{names[i]}: {failure}")
                progress.note(f"failed: {failure}")
        if busy == left:
            if in_job() and not waiting:
                break
            if not told:
                progress.note(f"{len(busy)} of the runs are another process's; waiting")
            told = True
            time.sleep(5)
        left = busy
    return failures


def _order(number: int, folder: Path) -> list[int]:
    """Each worker begins at another run, so that they rarely meet."""
    if not in_job():
        return list(range(number))
    share, shares = (int(part) for part in os.environ[SHARE].split("/"))
    first, end = share * number // shares, (share + 1) * number // shares
    try:
        check_free(folder / paths.JOBS)
    except Busy:
        return [*range(first, number), *range(first)]
    progress.note("locks do not work between this process and its collector: only its own share is done")
    return list(range(first, end))
