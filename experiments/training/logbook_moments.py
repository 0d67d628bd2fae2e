"""What a moment of training writes into logbooks: rows of epochs, checkpoints that are due, the end of a phase."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.training import collapse, measure, stacking
from experiments.training.epoch_table import fail_not_finite
from experiments.training.logbook import Logbook, count_seconds
from experiments.training.logbook_results import end_phase
from experiments.training.run import Checkpoint, Run
from rare_gems import masks, schedules
from rare_gems.storage import checkpoint
from rare_gems.training import trainer

__all__ = ["take"]


def take(books: Sequence[Logbook], moment: trainer.Moment) -> None:
    """Writes down a moment of one run, or of several at once; the clocks of the next epoch start when it is done.

    Raises:
      RunFailed: as `_write`.
    """
    _write(books, moment)
    for book in books:
        book.table.clock.start()


def _write(books: Sequence[Logbook], moment: trainer.Moment) -> None:
    """Writes down a moment of one run, or of several at once: rows, checkpoints where they are due, what a phase left
    at its end.

    Raises:
      RunFailed: if a loss is not finite, or (on_collapse="error") a layer loses its last weight.
    """
    first = books[0]
    if moment.ended:
        previous = measure.masked_support(moment.ticket)
        kept = np.asarray(measure.layer_counts(moment.ticket.mask, first.slot is not None))
        for book in books:  # of all runs, before any writes what it found
            book.table.finish()
            _check_finite(moment, book.slot)  # the last part of an epoch has no row
            collapse.check_end(book.table, book.run, moment, kept, book.slot)
        for book in books:
            end_phase(book, stacking.moment_of(moment, book.slot))
            book.previous = previous
        return
    if moment.epoch > first.logged:
        _log_epoch(books, moment)
    epochs = _steps(first, moment) // first.problem.feed.num_batches
    if moment.interrupted or epochs % first.config.checkpoint_every == 0:
        for book in books:
            _save(book, stacking.moment_of(moment, book.slot))


def _log_epoch(books: Sequence[Logbook], moment: trainer.Moment) -> None:
    first, carry, phase = books[0], moment.carry, moment.phase
    problem, many = first.problem, first.slot is not None
    evaluate = problem.ranked_many if many else problem.ranked
    observed, support, seen = measure.measure_fn(phase, many)(carry, first.previous)
    accuracy = evaluate(seen, carry.model_state, problem.splits[first.held_out])
    for book in books:
        book.logged, book.previous = moment.epoch, support
        bound = None
        if book.config.method.follows_bound and phase.name == "search":
            bound = schedules.sparsity_bound(moment.epoch, book.config.epochs, book.config.sparsity)
        epoch = _epochs_before(book.run, moment.index) + moment.epoch
        row = {"phase": phase.name, "epoch": epoch, "step": _steps(book, moment), "bound": bound}
        book.table.add(row, observed, accuracy, book.slot)
        if book.held_out != "validation":
            continue
        layers, target = len(book.table.layers), masks.count_for(book.table.size, book.config.sparsity)
        kept = lambda book=book, n=layers: int(np.asarray(observed.kept).reshape(-1, n)[book.slot or 0].sum())  # noqa: E731
        if measure.may_be_best(book.run.recipe, moment.index, kept, target):
            own, best = float(np.asarray(accuracy)[..., 0].ravel()[book.slot or 0]), book.notes["best"]
            if best is None or own > best["validation"]:
                book.notes["best"] = {"epoch": moment.epoch, "validation": own}
                shown = seen, carry.model_state
                book.best = stacking.pick(shown, book.slot) if many else jax.tree.map(jnp.copy, shown)


def _steps(book: Logbook, moment: trainer.Moment) -> int:
    """The steps of all phases, up to the end of the last whole epoch."""
    return book.offsets[moment.index] + moment.epoch * book.run.feeds[moment.index].num_batches


def _epochs_before(run: Run, index: int) -> int:
    """Whole epochs of earlier phases of the same name: rounds are counted through."""
    name = run.recipe[index].name
    earlier = zip(run.recipe[:index], run.feeds[:index], strict=True)
    return sum(phase.num_steps // feed.num_batches for phase, feed in earlier if phase.name == name)


def _save(book: Logbook, moment: trainer.Moment) -> None:
    book.table.finish()
    book.notes["index"] = moment.index
    _check_finite(moment, None)  # of an epoch that was not finished
    position = book.offsets[moment.index] + int(moment.carry.step)
    count_seconds(book, moment.phase)
    previous = book.previous if book.slot is None else stacking.pick(book.previous, book.slot)
    checkpoint.save(book.manager, position, Checkpoint(moment.carry, previous, book.best), book.notes)


def _check_finite(moment: trainer.Moment, slot: int | None) -> None:
    found = moment.carry.totals.first_bad
    first_bad = int(found if slot is None else stacking.pick(found, slot))
    if first_bad >= 0:
        fail_not_finite(first_bad, moment.phase.name, moment.epoch + 1)
