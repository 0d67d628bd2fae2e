"""Trains runs in their folders, one or several of one recipe at once; the same call resumes them."""

import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from experiments import hosts, logbook, members, metrics, profiling, progress
from experiments.config import Config
from experiments.logbook import Result
from experiments.problem import Problem
from experiments.resuming import Job
from rare_gems import checkpoint, trainer

__all__ = ["Interrupted", "train_together"]


_ASKED_EVERY = 20  # steps from one question to the other processes, whether to stop, to the next


class Interrupted(RuntimeError):  # noqa: N818
    """A signal stopped the run after a checkpoint; `args[1]` is its number."""


def train_together(
    jobs: Sequence[Job], problem: Problem, folders: Sequence[Path], configs: Sequence[Config]
) -> list[Result]:
    """Runs one job, or several of one program and feed, to the end, or goes on from the newest whole checkpoints.

    Several differ in where they start, in their randomness, and in numbers that the states of their phases hold. They
    train under `jax.vmap`, in step; each has its own folder and configuration, and does what it does alone. Where
    their checkpoints are not of one step, they train one after another.

    Raises:
      RunFailed: if a loss is not finite, or (on_collapse="error") a layer loses its last weight; all stop.
      Interrupted: after SIGTERM or SIGINT in any process of the run, with everything saved.
      HostLost: if another process of the run is gone.
      OSError: if a folder cannot be written.
    """
    books = [logbook.open_logbook(job, problem, folder, config, i > 0)
             for i, (job, folder, config) in enumerate(zip(jobs, folders, configs, strict=True))]  # fmt: skip
    positions = {(book.notes["index"], -1 if book.carry is None else int(book.carry.step)) for book in books}
    if len(positions) > 1:
        for book in books:
            book.table.close()
            checkpoint.close(book.manager)
        each = zip(jobs, folders, configs, strict=True)
        return [train_together([job], problem, [at], [config])[0] for job, at, config in each]
    first, many = books[0], len(books) > 1

    def poll(index: int, step: int) -> bool:
        progress.steps(first.table.display, first.offsets[index] + step)
        if jax.process_count() == 1:
            return bool(caught)
        asked = step % _ASKED_EVERY == 0 or step % first.job.feeds[index].num_batches == 0
        return hosts.any_of(bool(caught)) if asked else False  # all stop at one step

    resume = None
    if first.carry is not None:
        resume = first.notes["index"], members.stack_carries([book.carry for book in books]) if many else first.carry
    ticket, state, key = first.job.ticket, first.job.model_state, first.job.key
    if many:
        logbook.together(books)
        ticket, state, key = members.stack([(job.ticket, job.model_state, job.key) for job in jobs])
    moments: Iterable[trainer.Moment] = trainer.epochs(
        first.job.recipe, ticket, state, loss_fn=problem.loss_fn, feed=first.job.feeds, key=key, resume=resume,
        poll=poll, many=many, variants=[job.recipe for job in jobs] if many else None, mesh=problem.mesh,
    )  # fmt: skip
    if first.config.profile and hosts.is_main():
        moments = profiling.profiled(moments, first.folder / "profile")
    try:
        with _signals() as caught, hosts.guard():
            for moment in moments:
                logbook.take(books, moment)
                if moment.interrupted:
                    where = first.folder if not many else f"{first.folder} and {len(books) - 1} more"
                    told = f"stopped and saved in {where}; the same command goes on from there"
                    raise Interrupted(told, caught[0] if caught else signal.SIGTERM)
    except metrics.RunFailed as failure:
        for book in books:
            logbook.close_quietly(book.manager)
        kept = max(first.manager.all_steps(), default=None)
        raise metrics.RunFailed(f"{failure}" + (f"; the checkpoint of step {kept} is kept" if kept else "")) from None
    except hosts.HostLost:  # Orbax would wait for it
        raise
    except BaseException:
        for book in books:
            logbook.close_quietly(book.manager)
        raise
    finally:
        for book in books:
            book.table.close()
    for book in books:
        checkpoint.close(book.manager)
    return [logbook.result(book) for book in books]


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them; a second one takes its usual effect."""
    caught: list[int] = []
    before = {}

    def remember(signum: int, frame: Any) -> None:
        caught.append(signum)
        signal.signal(signum, before[signum])

    for signum in (signal.SIGTERM, signal.SIGINT):
        before[signum] = signal.signal(signum, remember)
    try:
        yield caught
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
