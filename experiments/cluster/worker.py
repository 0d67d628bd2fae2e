"""What runs in a job: the worker, told to stop in time, on the devices that are its own.

Nothing here imports JAX, since jobs import this module.
"""

import contextlib
import os
import signal
import subprocess
from typing import Any

__all__ = ["SHARE", "cores", "devices", "in_job", "work"]

SHARE = "RARE_GEMS_JOB"  # "2/4" in the environment of a worker: the third of four


def in_job() -> bool:
    """Whether this process is a worker that a collector waits for."""
    return SHARE in os.environ


def work(command: list[str], own: dict[str, str | None], on: frozenset[int] = frozenset()) -> int:
    """Runs the worker in its job, and hands it the first of the signals that ask to stop.

    Args:
      own: changes of its environment; None removes.
      on: cores that it keeps to; none: wherever the system puts it.
    Returns:
      its exit status; 75 if it was told to stop and had not finished.
    """
    env = {name: value for name, value in (os.environ | own).items() if value is not None}
    child: subprocess.Popen | None = None
    told: list[int] = []
    handed: list[bool] = []

    def hand_on() -> None:
        if child is not None and told and not handed:  # a second one would end it before it has saved
            handed.append(True)
            child.send_signal(signal.SIGTERM)

    def stop(signum: int, frame: Any) -> None:
        told.append(signum)
        hand_on()

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the collector's, which then tells its local jobs
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # as it was submitted
    for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):  # the last: SLURM's time is nearly up
        signal.signal(signum, stop)
    if on:
        os.sched_setaffinity(0, on)  # its child has the same
    child = subprocess.Popen(command, env=env, start_new_session=True)
    hand_on()  # of a signal that came before there was a child
    status = None
    while status is None:  # it polls: a signal right before a wait that blocks would be seen at the end of it
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = child.wait(60)
    return 75 if told and status else status


def cores(share: str) -> frozenset[int]:
    """The cores of a local job: its share of this process's, so that jobs do not take turns at them.

    Two trainings of LeNet-300-100, each on one of two cores, end in half the time of one after the other on both.
    None where there are fewer cores than jobs, or where the system cannot do it.
    """
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return frozenset()
    job, jobs = (int(part) for part in share.split("/"))
    given = sorted(os.sched_getaffinity(0))
    return frozenset(given[job * len(given) // jobs : (job + 1) * len(given) // jobs] if jobs <= len(given) else ())


def devices(share: str) -> dict[str, str | None]:
    """Changes of the environment by which each local job sees one GPU; jobs that share one share its memory."""
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
