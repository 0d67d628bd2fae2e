"""What one run keeps while it trains: rows, checkpoints, the ticket found, and at the end its result."""

import dataclasses
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config.config import Config
from experiments.distributed import processes
from experiments.problem.evaluation import tops_of
from experiments.problem.problem import Problem
from experiments.run_folder import paths
from experiments.run_folder.summary import RunResult, SearchResult
from experiments.terminal import progress
from experiments.training import collapse, effective_weights, kept_rounds, measure, stacking
from experiments.training.epoch_table import Table, fail_not_finite
from experiments.training.run import Checkpoint, Run, load_search_result, restore
from rare_gems import masks, schedules
from rare_gems.phase import Mask, ModelState, Params, Phase, Ticket
from rare_gems.storage import checkpoint, ticket_file
from rare_gems.training import sharding, trainer

__all__ = ["Logbook", "close_quietly", "open_logbook", "result_of", "take", "together"]


@dataclasses.dataclass
class Logbook:
    """What changes while a run trains. `notes` goes into each checkpoint; `carry` is that of the checkpoint it goes on
    from, or None; `slot` is the place of this run among several at once, which share `previous` (None: it is alone);
    `logged` counts this phase's epochs; `clock` is the time up to which `notes["seconds"]` counts; `effective` is the
    last mask whose weights were counted by `effective_weights`, with the counts."""

    run: Run
    problem: Problem
    folder: Path
    config: Config
    manager: Any
    carry: trainer.Carry | None
    table: Table
    notes: dict[str, Any]
    offsets: list[int]
    held_out: str
    ticket: Ticket
    model_state: ModelState
    found: SearchResult
    previous: Mask
    best: tuple[Params, ModelState]
    logged: int
    clock: float
    slot: int | None = None
    effective: tuple[Mask, dict[str, Any] | None] | None = None


def open_logbook(run: Run, problem: Problem, folder: Path, config: Config, quiet: bool = False) -> Logbook:
    """The logbook of a run that begins, or goes on from the newest whole checkpoint in `folder`.

    Args:
      quiet: show no progress, where another run's stands for it.
    Raises:
      OSError: if the folder cannot be written.
    """
    manager = checkpoint.open_folder(folder / paths.CHECKPOINTS)
    state, notes = restore(manager, run, folder, problem.fingerprint, problem.mesh)
    offsets = [sum(p.num_steps for p in run.recipe[:i]) for i in range(len(run.recipe) + 1)]
    done = int(state.carry.step) if state.carry else 0
    held_out = "validation" if "validation" in problem.splits else "test"
    display = progress.start(run.title, offsets[-1], offsets[notes["index"]] + done, quiet)
    many_classes = len(tops_of(problem.data)) > 1
    table = Table(folder, display, notes, run.ticket.mask, held_out, config.on_collapse, top5=many_classes)
    found = load_search_result(run, notes["index"], folder)
    return Logbook(
        run=run,
        problem=problem,
        folder=folder,
        config=config,
        manager=manager,
        carry=state.carry,
        table=table,
        notes=notes,
        offsets=offsets,
        held_out=held_out,
        ticket=run.ticket,
        model_state=run.model_state,
        found=found,
        previous=state.previous,
        best=state.best,
        logged=done // run.feeds[notes["index"]].num_batches,
        clock=time.monotonic(),
    )


def together(books: Sequence[Logbook]) -> None:
    """Joins the logbooks of runs that train at once, before their first moment."""
    previous = stacking.stack([book.previous for book in books])
    for i, book in enumerate(books):
        book.slot, book.previous = i, previous


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
            collapse.check_end(book.table, book.run, moment, kept, book.slot)
        for book in books:
            _end_phase(book, stacking.moment_of(moment, book.slot))
            book.previous = previous
        return
    if moment.epoch > first.logged:
        _log_epoch(books, moment)
    epochs = _steps(first, moment) // first.problem.feed.num_batches
    if moment.interrupted or epochs % first.config.checkpoint_every == 0:
        for book in books:
            _save(book, stacking.moment_of(moment, book.slot))


def close_quietly(manager: Any) -> None:
    """Lets the last save end, where an error is already on its way."""
    with suppress(OSError):
        checkpoint.close(manager)


def _log_epoch(books: Sequence[Logbook], moment: trainer.Moment) -> None:
    first, carry, phase = books[0], moment.carry, moment.phase
    problem, many = first.problem, first.slot is not None
    measuring = measure.measure_many if many else measure.measure
    evaluate = problem.ranked_many if many else problem.ranked
    observed, support, seen = measuring(phase, carry, first.previous)
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


def _end_phase(book: Logbook, moment: trainer.Moment) -> None:
    moment = moment._replace(
        carry=moment.carry._replace(ticket=sharding.gathered(moment.carry.ticket, book.problem.mesh)),
        ticket=sharding.gathered(moment.ticket, book.problem.mesh),
    )
    book.ticket, book.model_state = moment.ticket, jax.tree.map(jnp.copy, moment.model_state)
    book.logged = 0
    metadata = {"method": book.config.pruner, "seed": book.config.seed}
    if book.config.keep == "rounds" and processes.is_main():
        kept_rounds.keep_phase(book.folder, book.run, moment, metadata)
    if moment.phase.name != "finetune":
        whole = _whole(book, moment)
        book.found = SearchResult(
            moment.carry.ticket if measure.has_two_masks(moment.phase) else book.ticket, book.model_state, whole
        )
        file = book.folder / paths.SEARCH
        if processes.is_main():
            ticket_file.save(file, book.found.ticket, metadata=metadata, model_state=book.model_state, initial=whole)
        first, reselects = moment.carry.ticket.mask, moment.phase.trains == "scores" and not moment.phase.hold_dead
        if reselects and masks.num_kept(first) == masks.num_kept(book.ticket.mask) < masks.num_prunable(first):
            book.notes["overlap"] = masks.overlap(first, book.ticket.mask)  # a jackpot, with the mask it began with
        is_found = all(phase.name == "finetune" for phase in book.run.recipe[moment.index + 1 :])
        if is_found:
            whose = "" if book.slot is None else f"{book.folder}: "
            effective_weights.tell(_effective(book), book.ticket.mask, whose)
        if is_found and book.held_out == "test":
            book.notes["before"] = measure.accuracies_before(book.run, book.problem, book.found, book.ticket.mask)
            progress.note(measure.spell_accuracies(book.notes["before"]))
    _count_seconds(book, moment.phase)


def _effective(book: Logbook) -> dict[str, Any] | None:
    """The counts of the ticket's weights that can matter, on the process that writes."""
    if not processes.is_main():
        return None
    mask = book.ticket.mask
    if book.effective is None or not all(jax.tree.leaves(jax.tree.map(np.array_equal, book.effective[0], mask))):
        mask = jax.tree.map(np.asarray, mask)
        book.effective = mask, effective_weights.count(book.problem, book.ticket.params, book.model_state, mask)
    return book.effective[1]


def _whole(book: Logbook, moment: trainer.Moment) -> Params:
    """The weights when nothing was removed yet: trained ones, unless this phase goes back behind its training."""
    size = masks.num_prunable(book.ticket.mask)
    if masks.num_kept(book.ticket.mask) == size:
        return book.ticket.params
    trained = moment.carry.ticket
    if moment.phase.trains != "params" or masks.num_kept(trained.mask) < size:
        return book.found.whole
    stays = jax.tree.map(jnp.array_equal, masks.apply(trained.params, book.ticket.mask), book.ticket.params)
    return jax.tree.map(jnp.copy, trained.params) if all(jax.tree.leaves(stays)) else book.found.whole


def _count_seconds(book: Logbook, phase: Phase) -> None:
    part, now = "finetune" if phase.name == "finetune" else "search", time.monotonic()
    book.notes["seconds"][part] += now - book.clock
    book.clock = now


def _save(book: Logbook, moment: trainer.Moment) -> None:
    book.table.finish()
    book.notes["index"] = moment.index
    if int(moment.carry.totals.first_bad) >= 0:  # of an epoch that was not finished
        fail_not_finite(int(moment.carry.totals.first_bad), moment.phase.name, moment.epoch + 1)
    position = book.offsets[moment.index] + int(moment.carry.step)
    _count_seconds(book, moment.phase)
    previous = book.previous if book.slot is None else stacking.pick(book.previous, book.slot)
    checkpoint.save(book.manager, position, Checkpoint(moment.carry, previous, book.best), book.notes)


def result_of(book: Logbook) -> RunResult:
    """What is left of a book that is over, and its accuracies on the test set."""
    test, best, many_classes = book.problem.splits["test"], book.notes["best"], book.table.top5 is not None
    before = book.notes.get("before") or measure.accuracies_before(book.run, book.problem, book.found, book.ticket.mask)
    after, top5 = None, {}
    if book.run.recipe[-1].name == "finetune":
        after, *more = np.asarray(book.problem.ranked(book.ticket.params, book.model_state, test)).tolist()
        top5 = {"top5_after_finetune": more[0]} if many_classes else {}
    if best is not None:
        best["test"], *more = np.asarray(book.problem.ranked(book.best[0], book.best[1], test)).tolist()
        best |= {"test_top5": more[0]} if many_classes else {}
    return RunResult(
        ticket=book.ticket,
        model_state=book.model_state,
        found=book.found,
        rows=book.table.rows,
        before=before,
        after=after,
        top5=top5,
        best=best,
        overlap=book.notes.get("overlap"),
        effective=_effective(book),
        cost={part: _cost(book.run, part) for part in ("search", "finetune")},
        seconds=book.notes["seconds"],
    )


def _cost(run: Run, part: str) -> dict[str, float]:
    """Epochs, optimizer or scoring steps, and forward and backward passes of a batch."""
    phases = [
        (p, f) for p, f in zip(run.recipe, run.feeds, strict=True) if (p.name == "finetune") == (part == "finetune")
    ]
    return {
        "epochs": round(sum(phase.num_steps / feed.num_batches for phase, feed in phases if phase.uses_data), 3),
        "steps": sum(phase.num_steps for phase, _ in phases),
        "passes": sum(phase.num_steps * phase.passes for phase, _ in phases),
    }
