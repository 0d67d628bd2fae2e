"""Trains runs in their folders, one or several of one recipe at once; the same call resumes them."""

import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax

from experiments.config.config import Config
from experiments.distributed import processes
from experiments.problem.problem import Problem
from experiments.run_folder import paths
from experiments.run_folder.summary import RunResult
from experiments.terminal import progress, signals
from experiments.terminal.errors import HostLost, Interrupted, RunFailed
from experiments.training import collapse, logbook, logbook_moments, logbook_results, profiling, stacking
from experiments.training.run import Run
from rare_gems.storage import checkpoint
from rare_gems.training import trainer

__all__ = ["train_together"]


_ASKED_EVERY = 20  # steps from one question to the other processes, whether to stop, to the next


def train_together(
    runs: Sequence[Run], problem: Problem, folders: Sequence[Path], configs: Sequence[Config]
) -> list[RunResult]:
    """Trains one run, or several of one program and feed, to the end, or goes on from the newest whole checkpoints.

    Several differ in where they start, in their randomness, and in numbers that the states of their phases hold. They
    train under `jax.vmap`, in step; each has its own folder and configuration, and does what it does alone. Where
    their checkpoints are not of one step, they train one after another.

    Raises:
      RunFailed: if a loss is not finite, or (on_collapse="error") a mask leaves a layer without a weight; all stop.
      Interrupted: after SIGTERM or SIGINT in any process of the run, with everything saved.
      HostLost: if another process of the run is gone.
      OSError: if a folder cannot be written.
    """
    books = [logbook.open_logbook(run, problem, folder, config, i > 0)
             for i, (run, folder, config) in enumerate(zip(runs, folders, configs, strict=True))]  # fmt: skip
    positions = {(book.notes["index"], -1 if book.carry is None else int(book.carry.step)) for book in books}
    if len(positions) > 1:
        for book in books:
            book.table.close()
            checkpoint.close(book.manager)
        each = zip(runs, folders, configs, strict=True)
        return [train_together([run], problem, [at], [config])[0] for run, at, config in each]
    first, many = books[0], len(books) > 1

    def poll(index: int, step: int) -> bool:
        progress.steps(first.table.display, first.offsets[index] + step)
        if jax.process_count() == 1:
            return bool(caught)
        asked = step % _ASKED_EVERY == 0 or step % first.run.feeds[index].num_batches == 0
        return processes.any_of(bool(caught)) if asked else False  # all stop at one step

    resume = None
    if first.carry is not None:
        resume = first.notes["index"], stacking.stack_carries([book.carry for book in books]) if many else first.carry
    start = first.run.ticket, first.run.model_state, first.run.key, first.run.data_key
    if many:
        logbook.together(books)
        start = stacking.stack([(run.ticket, run.model_state, run.key, run.data_key) for run in runs])
    ticket, state, key, data_key = start
    moments: Iterable[trainer.Moment] = trainer.epochs(
        first.run.recipe, ticket, state, loss_fn=problem.loss_fn, feed=first.run.feeds, key=key, data_key=data_key,
        resume=resume, poll=poll, many=many, variants=[run.recipe for run in runs] if many else None, mesh=problem.mesh,
        programs=first.run.programs,
    )  # fmt: skip
    if first.config.profile and processes.is_main():
        moments = profiling.profiled(moments, first.folder / paths.PROFILE)
    try:
        with signals.collected() as caught, processes.guard():
            for book in books:
                step = 0 if book.carry is None else book.offsets[book.notes["index"]] + int(book.carry.step)
                collapse.check_start(book.table, book.run, book.carry, step, book.slot)
            for book in books:
                book.table.clock.start()  # of the first epoch: what was opened and read is not its time
            for moment in moments:
                logbook_moments.take(books, moment)
                if moment.interrupted:
                    where = first.folder if not many else f"{first.folder} and {len(books) - 1} more"
                    told = f"stopped and saved in {where}; the same command goes on from there"
                    raise Interrupted(told, caught[0] if caught else signal.SIGTERM)
    except RunFailed as failure:
        for book in books:
            logbook.close_quietly(book.manager)
        kept = max(first.manager.all_steps(), default=None)
        raise RunFailed(f"{failure}" + (f"; the checkpoint of step {kept} is kept" if kept else "")) from None
    except HostLost:  # Orbax would wait for it
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
    return [logbook_results.result_of(book, len(books)) for book in books]
