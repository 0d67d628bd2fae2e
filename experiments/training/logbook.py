"""What one run keeps while it trains: rows, checkpoints, the ticket found."""

import dataclasses
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.config.config import Config
from experiments.problem.evaluation import tops_of
from experiments.problem.problem import Problem
from experiments.run_folder import paths
from experiments.run_folder.summary import SearchResult
from experiments.terminal import progress
from experiments.training import stacking
from experiments.training.epoch_table import Table
from experiments.training.run import Run, load_search_result, restore
from rare_gems.phase import Mask, ModelState, Params, Phase, Ticket
from rare_gems.storage import checkpoint
from rare_gems.training import trainer

__all__ = ["Logbook", "close_quietly", "count_seconds", "open_logbook", "together"]


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


def close_quietly(manager: Any) -> None:
    """Lets the last save end, where an error is already on its way."""
    with suppress(OSError):
        checkpoint.close(manager)


def count_seconds(book: Logbook, phase: Phase) -> None:
    """Adds the time since the last count to the phase's part of the run."""
    part, now = "finetune" if phase.name == "finetune" else "search", time.monotonic()
    book.notes["seconds"][part] += now - book.clock
    book.clock = now
