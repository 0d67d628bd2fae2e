"""Where the runs of a comparison are made: the flags, and how several processes share the runs.

The same command is the worker's and the collector's. With --launcher it collects: `submitting` has jobs run it without
--launcher. Workers share the runs by locking their folders. A worker that can take the lock that its collector holds
knows that locks do not reach it (some network file systems), or that the collector is gone, and keeps to its own share.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from experiments import progress, records  # nothing that imports JAX: jobs import this module
from experiments.config import UsageError

__all__ = ["SHARE", "Launch", "Slurm", "check", "devices", "go_through", "in_job", "work"]

SHARE = "RARE_GEMS_JOB"  # "2/4" in the environment of a worker: the third of four


@dataclasses.dataclass(frozen=True)
class Slurm:
    """What each job asks of the cluster."""

    partition: str | None = None
    """default: the cluster's"""
    account: str | None = None
    constraint: str | None = None
    """features of the node, such as h200"""
    time_minutes: int = 1440
    """a job that runs out of time saves, ends, and is submitted again"""
    gpus_per_job: int = 1
    cpus_per_job: int = 4
    memory_gb: float | None = None
    """of a node; default: the cluster's"""


@dataclasses.dataclass(frozen=True)
class Launch:
    """Where the runs are made."""

    launcher: Literal["local", "slurm"] | None = None
    """spread the runs over jobs, on this machine or with SLURM (pip install 'rare_gems[slurm]'); default: run here"""
    num_jobs: int | None = None
    """how many, at most one for each run"""
    slurm: Slurm = Slurm()


def check(launch: Launch) -> None:
    """Refuses flags that do not fit together, or that this machine cannot serve.

    Raises:
      UsageError: in one line.
    """
    slurm, how = launch.slurm, f"--launcher={launch.launcher}"
    for name, value in vars(slurm).items():
        if launch.launcher != "slurm" and value != getattr(Slurm(), name):
            raise UsageError(f"--slurm.{name.replace('_', '-')}: expected --launcher=slurm with it")
    if launch.launcher is None:
        if launch.num_jobs is not None:
            raise UsageError("--num-jobs: expected --launcher=local or --launcher=slurm with it")
        return
    if launch.num_jobs is None:
        raise UsageError(f"{how}: expected --num-jobs too, the number of jobs")
    lowest = {
        "num-jobs": (launch.num_jobs, 1), "slurm.time-minutes": (slurm.time_minutes, 1),
        "slurm.gpus-per-job": (slurm.gpus_per_job, 0), "slurm.cpus-per-job": (slurm.cpus_per_job, 1),
        "slurm.memory-gb": (1 if slurm.memory_gb is None else slurm.memory_gb, 0.001),
    }  # fmt: skip
    for name, (value, low) in lowest.items():
        if not low <= value < math.inf:
            raise UsageError(f"--{name}: expected {low} or more, got {value}")
    if importlib.util.find_spec("submitit") is None:
        raise UsageError(f"{how}: expected submitit, which is not installed; pip install 'rare_gems[slurm]'")
    for program in ("sbatch", "srun") if launch.launcher == "slurm" else ():
        if shutil.which(program) is None:
            raise UsageError(f"{how}: expected SLURM's {program} on the PATH, as on a login node; it is not there")


def in_job() -> bool:
    """Whether this process is a worker that a collector waits for."""
    return SHARE in os.environ


def go_through(names: Sequence[str], settle: Callable[[int], str | None], folder: Path) -> list[str]:
    """Settles every run, and says what failed. What another process is at is waited for at the end, unless in a job,
    whose collector waits.

    Args:
      names: of the runs.
      settle: makes the run of that number, or raises Busy; returns what failed.
      folder: of the comparison.
    """
    failures: list[str] = []
    left, told = _order(len(names), folder), False
    while left:
        busy = []
        for i in left:
            if not told:
                progress.note(f"{i + 1} of {len(names)}: {names[i]}")
            try:
                failure = settle(i)
            except records.Busy:
                busy.append(i)
                continue
            if failure:
                failures.append(f"{names[i]}: {failure}")
                progress.note(f"failed: {failure}")
        if busy == left:
            if in_job():
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
        records.check_free(folder / "jobs")
    except records.Busy:
        return [*range(first, number), *range(first)]
    progress.note("locks do not work between this process and its collector: only its own share is done")
    return list(range(first, end))


def work(command: list[str], own: dict[str, str | None]) -> int:
    """In the job: runs the worker, and hands it the first of the signals that ask to stop.

    Args:
      own: changes of its environment; None removes.
    Returns:
      its exit status; 75 if it was told to stop and had not finished.
    """
    env = {name: value for name, value in (os.environ | own).items() if value is not None}
    child = subprocess.Popen(command, env=env, start_new_session=True)
    told: list[int] = []

    def hand_on(signum: int, frame: Any) -> None:
        if not told:  # a second one would end it before it has saved
            child.send_signal(signal.SIGTERM)
        told.append(signum)

    for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):  # the last: SLURM's time is nearly up
        signal.signal(signum, hand_on)
    status = child.wait()
    return 75 if told and status else status


def devices(share: str) -> dict[str, str | None]:
    """Of several GPUs each local job sees one; jobs that must share one share its memory."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [name for name in (given or "").split(",") if name]
    if given is None:
        with contextlib.suppress(OSError):
            listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
            gpus = [str(i) for i in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]
    job, jobs = (int(part) for part in share.split("/"))
    own = {"CUDA_VISIBLE_DEVICES": gpus[job % len(gpus)] if len(gpus) > 1 else given}  # submitit would hide them all
    if 0 < len(gpus) < jobs:
        together = -(-jobs // len(gpus))
        own["XLA_PYTHON_CLIENT_MEM_FRACTION"] = os.environ.get(
            "XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / together:.3f}"
        )
    return own
