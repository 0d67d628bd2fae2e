"""Jobs for the runs of a comparison, on this machine or with SLURM, through submitit: submit, wait, submit again."""

import contextlib
import io
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.cluster import worker
from experiments.cluster.flags import Launch
from experiments.run_folder.folder import check_free, held
from experiments.terminal import progress, signals
from experiments.terminal.errors import Busy, Interrupted, UsageError

__all__ = ["run_jobs"]

_RESTARTS = 10  # of one job
_STOPPED = ("BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "TIMEOUT")  # states in SLURM after which the same command goes on
_YEAR = 365 * 24 * 60  # minutes


class _Running(NamedTuple):
    """A job, which share of the runs it has, and how often that was submitted (0: by a collector before this one)."""

    job: Any
    share: str
    tries: int


def run_jobs(launch: Launch, command: list[str], folder: Path, left: Callable[[], Sequence[Path]]) -> list[str]:
    """Has the runs made by jobs, those that are still there from an earlier collector first; returns when none is left.

    Args:
      command: of a worker.
      folder: for logs and submitit's files.
      left: the folders of the runs that are not finished.
    Returns:
      what went wrong, a line for each job.
    Raises:
      Interrupted: after SIGTERM or SIGINT; local jobs have saved and ended, those of SLURM go on.
      UsageError: if another collector waits for these jobs, or no job can be submitted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    with held(folder, busy="another process waits for these jobs"), signals.collected(stop.set) as caught:
        executor = _executor(launch, folder)
        running, failures = _still_there(launch, folder), []
        number, total = min(launch.num_jobs or 1, len(left())), len(left())
        taken = {entry.share for entry in running}
        free = [share for share in (f"{i}/{number}" for i in range(number)) if share not in taken]
        for share in free[: max(0, number - len(running))]:
            try:
                running.append(_submit(executor, launch, command, share, 1))
            except UsageError as error:
                if not running:
                    raise
                progress.note(f"{error}; going on with {len(running)} jobs")
                break
        done, pause = 0, 0.1
        while running or any(map(_busy, left())):
            stop.wait(pause)
            pause = min(1.5 * pause, 1 if launch.launcher == "local" else 5)
            if stop.is_set():
                _end(launch, running, caught[0], folder)
            if total - len(left()) > done:
                done = total - len(left())
                progress.note(f"{done} of {total} done")
            for entry in [entry for entry in running if _ended(launch, entry.job, folder)]:
                running.remove(entry)
                restart, failure = _outcome(entry)
                if not left() or not (restart or failure or not entry.tries):
                    continue
                if entry.tries <= _RESTARTS and (restart or not entry.tries):
                    try:
                        running.append(_submit(executor, launch, command, entry.share, entry.tries + 1))
                        continue
                    except UsageError as error:
                        failure = str(error)
                failures.append(failure or f"job {entry.job.job_id} was stopped, as were {entry.tries - 1} before it")
                progress.note(failures[-1])
    return failures


def _submit(executor: Any, launch: Launch, command: list[str], share: str, tries: int) -> _Running:
    """Raises UsageError with what sbatch says."""
    local = launch.launcher == "local"
    own = {worker.SHARE: share} | (worker.devices(share) if local else {})
    on = worker.cores(share) if local else frozenset()  # a cluster gives a job its own
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # it is this process's, not the job's: `worker`
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # what submitit raises, it prints too
            job = executor.submit(worker.work, command, own, on)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise UsageError(f"--launcher={launch.launcher}: the job was refused: {said}") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    again = f" (again, {tries - 1} of at most {_RESTARTS} times)" if tries > 1 else ""
    if local:  # an old process of that number
        job.paths.result_pickle.unlink(missing_ok=True)
    progress.note(f"job {job.job_id} submitted{again}; its log: {job.paths.stderr}")
    return _Running(job, share, tries)


def _executor(launch: Launch, folder: Path) -> Any:
    import submitit

    logging.getLogger("submitit").setLevel(logging.CRITICAL)  # it would log on standard output
    executor = submitit.AutoExecutor(folder, cluster=launch.launcher)
    slurm = launch.slurm
    asked = {"timeout_min": _YEAR} if launch.launcher == "local" else {
        "name": "rare_gems", "timeout_min": slurm.time_minutes, "gpus_per_node": slurm.gpus_per_job or None,
        "cpus_per_task": slurm.cpus_per_job, "mem_gb": slurm.memory_gb, "slurm_partition": slurm.partition,
        "slurm_account": slurm.account, "slurm_constraint": slurm.constraint,
        "slurm_srun_args": [f"--cpus-per-task={slurm.cpus_per_job}"],  # since SLURM 22.05 srun does not take sbatch's
    }  # fmt: skip
    executor.update_parameters(**asked)  # None: not asked
    return executor


def _still_there(launch: Launch, folder: Path) -> list[_Running]:
    """The jobs of an earlier collector that still run, or wait for their turn."""
    import submitit

    slurm, found = launch.launcher == "slurm", []
    for file in sorted(folder.glob("*_submission.sh" if slurm else "*_submitted.pkl")):
        name = file.name.rsplit("_", 1)[0]
        job = submitit.SlurmJob(folder, name) if slurm else submitit.LocalJob(folder, name)
        if job.paths.result_pickle.exists() or not job.paths.submitted_pickle.exists():
            continue
        if (slurm and not job.get_info()) or _ended(launch, job, folder):
            continue
        found.append(_Running(job, job.submission().args[1][worker.SHARE], 0))
        progress.note(f"job {name} is still there; its log: {job.paths.stderr}")
    return found


def _ended(launch: Launch, job: Any, folder: Path) -> bool:
    if launch.launcher == "slurm":
        return job.done() or job.state == "PREEMPTED"  # and not queued again, which would be another state
    with contextlib.suppress(OSError):  # of a job of an earlier collector submitit does not know whether it runs
        command = Path(f"/proc/{job.job_id}/cmdline").read_bytes()
        return not (b"submitit.local" in command and os.fsencode(folder.absolute()) in command) and job.done()
    return job.done()


def _outcome(entry: _Running) -> tuple[bool, str | None]:
    """Whether a job that has ended asks to be submitted again, and what went wrong."""
    job, state = entry.job, str(entry.job.state)
    if state == "PREEMPTED" and not job.paths.result_pickle.exists():
        return True, None
    try:
        status = job.result()
    except RuntimeError:  # submitit has no result
        status = None
    if status in (0, 75):
        return status == 75, None
    how = f"ended with status {status}" if status is not None else f"ended without a status ({state.lower()})"
    log = job.paths.stderr
    said = [line for line in (log.read_text(errors="replace") if log.exists() else "").splitlines() if line.strip()]
    failure = f"job {job.job_id} {how}{': ' + said[-1].strip() if said else ''}; its log: {log}"
    return status is None and state.startswith(_STOPPED), failure


def _busy(folder: Path) -> bool:
    try:
        check_free(folder)
    except Busy:
        return True
    return False


def _end(launch: Launch, running: Sequence[_Running], signum: int, folder: Path) -> None:
    left = [entry.job for entry in running]
    if launch.launcher == "slurm":
        ids = " ".join(job.job_id for job in left)
        raise Interrupted(
            f"stopped; the jobs go on, the same command waits for them, and scancel {ids} ends them", signum
        )
    while left := [job for job in left if not _ended(launch, job, folder)]:
        for job in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGTERM)
        time.sleep(0.2)
    raise Interrupted(f"stopped and saved in {folder.parent}; the same command goes on from there", signum)
