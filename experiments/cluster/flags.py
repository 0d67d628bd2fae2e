"""The flags that say where the runs of a comparison are made."""

import dataclasses
import importlib.util
import math
import shutil
from typing import Literal

from experiments.config.flag_names import flag_of
from experiments.terminal.errors import UsageError

__all__ = ["Launch", "Slurm", "check", "has_submitit"]


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

    launcher: Literal["here", "local", "slurm"] | None = None
    """run here, one after the other, or spread the runs over jobs, on this machine or with SLURM (pip install
    'rare_gems[slurm]'); default: here, but long runs of lenet_300_100 on a CPU as local jobs, one a core"""
    num_jobs: int | None = None
    """how many, at most one for each run"""
    slurm: Slurm = Slurm()


def has_submitit() -> bool:
    """Whether jobs can be started at all."""
    return importlib.util.find_spec("submitit") is not None


def check(launch: Launch) -> None:
    """Refuses flags that do not fit together, or that this machine cannot serve.

    Raises:
      UsageError: in one line.
    """
    slurm, how = launch.slurm, f"--launcher={launch.launcher}"
    for name, value in vars(slurm).items():
        if launch.launcher != "slurm" and value != getattr(Slurm(), name):
            raise UsageError(f"{flag_of(f'slurm.{name}')}: expected --launcher=slurm with it")
    if launch.launcher in (None, "here"):
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
    if not has_submitit():
        raise UsageError(f"{how}: expected submitit, which is not installed; pip install 'rare_gems[slurm]'")
    for program in ("sbatch", "srun") if launch.launcher == "slurm" else ():
        if shutil.which(program) is None:
            raise UsageError(f"{how}: expected SLURM's {program} on the PATH, as on a login node; it is not there")
