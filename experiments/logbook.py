"""What one run keeps while it trains: rows, checkpoints, the ticket found, and at the end its result."""

import dataclasses
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import hosts, members, metrics, progress
from experiments.before import accuracies_before, rounds, spell
from experiments.config import Config
from experiments.problem import Problem
from experiments.resuming import Found, Job, State, load_found, restore
from rare_gems import checkpoint, masks, schedules, sharding, ticket_io, trainer
from rare_gems.phase import Mask, ModelState, Params, Phase, Ticket

__all__ = ["Logbook", "Result", "close_quietly", "open_logbook", "result", "take", "together"]


class Result(NamedTuple):
    """What is left at the end. Accuracies are on the test set; `before` by mask; `after` None without finetuning;
    `best` the best validation epoch {epoch, validation, test} or None; `overlap` with the mask that a search which
    re-selects began with; `cost` and `seconds` of search and finetuning."""

    ticket: Ticket
    model_state: ModelState
    found: Found
    rows: list[dict[str, Any]]
    before: dict[str, float | None]
    after: float | None
    best: dict[str, Any] | None
    overlap: float | None
    cost: dict[str, dict[str, float]]
    seconds: dict[str, float]


@dataclasses.dataclass
class Logbook:
    """What changes while a run trains. `notes` goes into each checkpoint; `carry` is that of the checkpoint it goes on
    from, or None; `member` is the place of this run among several at once, which share `previous` (None: it is alone);
    `logged` counts this phase's epochs; `clock` is the time up to which `notes["seconds"]` counts."""

    job: Job
    problem: Problem
    folder: Path
    config: Config
    manager: Any
    carry: trainer.Carry | None
    table: metrics.Table
    notes: dict[str, Any]
    offsets: list[int]
    held_out: str
    ticket: Ticket
    model_state: ModelState
    found: Found
    previous: Mask
    best: tuple[Params, ModelState]
    logged: int
    clock: float
    member: int | None = None


def open_logbook(job: Job, problem: Problem, folder: Path, config: Config, quiet: bool = False) -> Logbook:
    """The logbook of a run that begins, or goes on from the newest whole checkpoint in `folder`.

    Args:
      quiet: show no progress, where another run's stands for it.
    Raises:
      OSError: if the folder cannot be written.
    """
    manager = checkpoint.open_folder(folder / "checkpoints")
    state, notes = restore(manager, job, folder, problem.fingerprint, problem.mesh)
    offsets = [sum(p.num_steps for p in job.recipe[:i]) for i in range(len(job.recipe) + 1)]
    done = int(state.carry.step) if state.carry else 0
    held_out = "validation" if "validation" in problem.splits else "test"
    display = progress.start(job.title, offsets[-1], offsets[notes["index"]] + done, quiet)
    table = metrics.Table(folder, display, notes, job.ticket.mask, held_out, config.on_collapse)
    found = load_found(job, notes["index"], folder)
    return Logbook(
        job, problem, folder, config, manager, state.carry, table, notes, offsets, held_out, job.ticket,
        job.model_state, found, state.previous, state.best, done // job.feeds[notes["index"]].num_batches,
        time.monotonic(),
    )  # fmt: skip


def together(books: Sequence[Logbook]) -> None:
    """Makes logbooks of runs that train at once members of one group, before their first moment."""
    previous = members.stack([book.previous for book in books])
    for i, book in enumerate(books):
        book.member, book.previous = i, previous


def take(books: Sequence[Logbook], moment: trainer.Moment) -> None:
    """Writes down a moment of one run, or of several at once: rows, checkpoints where they are due, what a phase left
    at its end.

    Raises:
      RunFailed: if a loss is not finite, or (on_collapse="error") a layer loses its last weight.
    """
    first = books[0]
    if moment.ended:
        previous = metrics.masked_support(moment.ticket)
        for book in books:
            _end_phase(book, members.moment_of(moment, book.member))
            book.previous = previous
        return
    if moment.epoch > first.logged:
        _log_epoch(books, moment)
    epochs = _steps(first, moment) // first.problem.feed.num_batches
    if moment.interrupted or epochs % first.config.checkpoint_every == 0:
        for book in books:
            _save(book, members.moment_of(moment, book.member))


def close_quietly(manager: Any) -> None:
    """Lets the last save end, where an error is already on its way."""
    with suppress(OSError):
        checkpoint.close(manager)


def _log_epoch(books: Sequence[Logbook], moment: trainer.Moment) -> None:
    first, carry, phase = books[0], moment.carry, moment.phase
    problem, many = first.problem, first.member is not None
    measure = metrics.measure_many if many else metrics.measure
    evaluate = problem.accuracies if many else problem.accuracy
    observed, support, seen = measure(phase, carry, first.previous)
    accuracy = evaluate(seen, carry.model_state, problem.splits[first.held_out])
    for run in books:
        run.logged, run.previous = moment.epoch, support
        bound = None
        if run.config.pruner == "gem_miner" and phase.name == "search":
            bound = schedules.sparsity_bound(moment.epoch, run.config.epochs, run.config.sparsity)
        epoch = _epochs_before(run.job, moment.index) + moment.epoch
        row = {"phase": phase.name, "epoch": epoch, "step": _steps(run, moment), "bound": bound}
        run.table.add(row, observed, accuracy, run.member)
        if run.held_out == "validation" and phase.name == "finetune":
            own, best = float(np.asarray(accuracy).ravel()[run.member or 0]), run.notes["best"]
            if best is None or own > best["validation"]:
                run.notes["best"] = {"epoch": moment.epoch, "validation": own}
                shown = seen, carry.model_state
                run.best = members.pick(shown, run.member) if many else jax.tree.map(jnp.copy, shown)


def _steps(run: Logbook, moment: trainer.Moment) -> int:
    """Of all phases, up to the end of the last whole epoch."""
    return run.offsets[moment.index] + moment.epoch * run.job.feeds[moment.index].num_batches


def _epochs_before(job: Job, index: int) -> int:
    """Whole epochs of earlier phases of the same name: rounds are counted through."""
    name = job.recipe[index].name
    earlier = zip(job.recipe[:index], job.feeds[:index], strict=True)
    return sum(phase.num_steps // feed.num_batches for phase, feed in earlier if phase.name == name)


def _end_phase(run: Logbook, moment: trainer.Moment) -> None:
    run.table.finish()
    moment = moment._replace(
        carry=moment.carry._replace(ticket=sharding.gathered(moment.carry.ticket, run.problem.mesh)),
        ticket=sharding.gathered(moment.ticket, run.problem.mesh),
    )
    run.ticket, run.model_state = moment.ticket, jax.tree.map(jnp.copy, moment.model_state)
    run.logged = 0
    if moment.phase.name != "finetune":
        whole = _whole(run, moment)
        run.found = Found(moment.carry.ticket if rounds(moment.phase) else run.ticket, run.model_state, whole)
        metadata = {"method": run.config.pruner, "seed": run.config.seed}
        file = run.folder / "search.safetensors"
        if hosts.is_main():
            ticket_io.save(file, run.found.ticket, metadata=metadata, model_state=run.model_state, initial=whole)
        first, reselects = moment.carry.ticket.mask, moment.phase.trains == "scores" and not moment.phase.hold_dead
        if reselects and masks.num_kept(first) == masks.num_kept(run.ticket.mask) < masks.num_prunable(first):
            run.notes["overlap"] = masks.overlap(first, run.ticket.mask)  # a jackpot, with the mask it began with
        if run.held_out == "test" and all(phase.name == "finetune" for phase in run.job.recipe[moment.index + 1 :]):
            run.notes["before"] = accuracies_before(run.job, run.problem, run.found, run.ticket.mask)
            progress.note(spell(run.notes["before"]))
    _count_seconds(run, moment.phase)


def _whole(run: Logbook, moment: trainer.Moment) -> Params:
    """The weights when nothing was removed yet: trained ones, unless this phase goes back behind its training."""
    size = masks.num_prunable(run.ticket.mask)
    if masks.num_kept(run.ticket.mask) == size:
        return run.ticket.params
    trained = moment.carry.ticket
    if moment.phase.trains != "params" or masks.num_kept(trained.mask) < size:
        return run.found.whole
    stays = jax.tree.map(jnp.array_equal, masks.apply(trained.params, run.ticket.mask), run.ticket.params)
    return jax.tree.map(jnp.copy, trained.params) if all(jax.tree.leaves(stays)) else run.found.whole


def _count_seconds(run: Logbook, phase: Phase) -> None:
    part, now = "finetune" if phase.name == "finetune" else "search", time.monotonic()
    run.notes["seconds"][part] += now - run.clock
    run.clock = now


def _save(run: Logbook, moment: trainer.Moment) -> None:
    run.table.finish()
    run.notes["index"] = moment.index
    if int(moment.carry.totals.first_bad) >= 0:  # of an epoch that was not finished
        metrics.fail_not_finite(int(moment.carry.totals.first_bad), moment.phase.name, moment.epoch + 1)
    position = run.offsets[moment.index] + int(moment.carry.step)
    _count_seconds(run, moment.phase)
    previous = run.previous if run.member is None else members.pick(run.previous, run.member)
    checkpoint.save(run.manager, position, State(moment.carry, previous, run.best), run.notes)


def result(run: Logbook) -> Result:
    """What is left of a run that is over, and its accuracies on the test set."""
    test, best = run.problem.splits["test"], run.notes["best"]
    before = run.notes.get("before") or accuracies_before(run.job, run.problem, run.found, run.ticket.mask)
    after = None
    if run.job.recipe[-1].name == "finetune":
        after = float(run.problem.accuracy(run.ticket.params, run.model_state, test))
    if best is not None:
        best["test"] = float(run.problem.accuracy(run.best[0], run.best[1], test))
    return Result(
        run.ticket, run.model_state, run.found, run.table.rows, before, after, best, run.notes.get("overlap"),
        {part: _cost(run.job, part) for part in ("search", "finetune")}, run.notes["seconds"],
    )  # fmt: skip


def _cost(job: Job, part: str) -> dict[str, float]:
    """Epochs, optimizer or scoring steps, and forward and backward passes of a batch."""
    phases = [
        (p, f) for p, f in zip(job.recipe, job.feeds, strict=True) if (p.name == "finetune") == (part == "finetune")
    ]
    return {
        "epochs": round(sum(phase.num_steps / feed.num_batches for phase, feed in phases if phase.uses_data), 3),
        "steps": sum(phase.num_steps for phase, _ in phases),
        "passes": sum(phase.num_steps * phase.passes for phase, _ in phases),
    }
