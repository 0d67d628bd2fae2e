"""Trains runs in their folders, one or several of one recipe at once; the same call resumes them."""

import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments import logbook, metrics, profiling, progress
from experiments.config import Config
from experiments.logbook import Result
from experiments.problem import Problem
from experiments.resuming import Job
from rare_gems import checkpoint, trainer

__all__ = ["Interrupted", "train_together"]


class Interrupted(RuntimeError):  # noqa: N818
    """A signal stopped the run after a checkpoint; `args[1]` is its number."""


def train_together(jobs: Sequence[Job], problem: Problem, folders: Sequence[Path], config: Config) -> list[Result]:
    """Runs one job, or several of one recipe and feed, to the end, or goes on from the newest whole checkpoints.

    Several differ in where they start and in their randomness, and train under `jax.vmap`, in step; each has its own
    folder, and does what it does alone. Where their checkpoints are not of one step, they train one after another.

    Raises:
      RunFailed: if a loss is not finite, or (on_collapse="error") a layer loses its last weight; all stop.
      Interrupted: after SIGTERM or SIGINT, with everything saved.
      OSError: if a folder cannot be written.
    """
    books = [logbook.open_logbook(job, problem, folder, config, i > 0)
             for i, (job, folder) in enumerate(zip(jobs, folders, strict=True))]  # fmt: skip
    positions = {(book.notes["index"], -1 if book.carry is None else int(book.carry.step)) for book in books}
    if len(positions) > 1:
        for book in books:
            book.table.close()
            checkpoint.close(book.manager)
        one_by_one = (train_together([job], problem, [at], config) for job, at in zip(jobs, folders, strict=True))
        return [result for (result,) in one_by_one]
    first, many = books[0], len(books) > 1

    def poll(index: int, step: int) -> bool:
        progress.steps(first.table.display, first.offsets[index] + step)
        return bool(caught)

    resume = None
    if first.carry is not None:
        resume = first.notes["index"], _stacked([book.carry for book in books]) if many else first.carry
    ticket, state, key = first.job.ticket, first.job.model_state, first.job.key
    if many:
        ticket, state, key = _stack([(job.ticket, job.model_state, job.key) for job in jobs])
    moments: Iterable[trainer.Moment] = trainer.epochs(
        first.job.recipe, ticket, state, loss_fn=problem.loss_fn, feed=first.job.feeds, key=key, resume=resume,
        poll=poll, many=many,
    )  # fmt: skip
    if config.profile:
        moments = profiling.profiled(moments, first.folder / "profile")
    try:
        with _signals() as caught:
            for moment in moments:
                for i, book in enumerate(books):
                    logbook.take(book, _of_member(moment, i) if many else moment)
                if moment.interrupted:
                    where = first.folder if not many else f"{first.folder} and {len(books) - 1} more"
                    raise Interrupted(f"stopped and saved in {where}; the same command goes on from there", caught[0])
    except metrics.RunFailed as failure:
        for book in books:
            logbook.close_quietly(book.manager)
        kept = max(first.manager.all_steps(), default=None)
        raise metrics.RunFailed(f"{failure}" + (f"; the checkpoint of step {kept} is kept" if kept else "")) from None
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


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _stacked(carries: Sequence[Any]) -> trainer.Carry:
    """Many runs' carries as one: the step is the same for all."""
    return trainer.Carry(carries[0].step, *_stack([carry[1:] for carry in carries]))


def _of_member(moment: trainer.Moment, i: int) -> trainer.Moment:
    """What one of many runs would have been handed."""
    pick = lambda tree: jax.tree.map(lambda leaf: leaf[i], tree)  # noqa: E731
    carry = trainer.Carry(moment.carry.step, *(pick(part) for part in moment.carry[1:]))
    return moment._replace(carry=carry, ticket=pick(moment.ticket), model_state=pick(moment.model_state))


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
