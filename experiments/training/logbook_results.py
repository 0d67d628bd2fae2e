"""What a phase leaves in a logbook at its end, and the result of a run that is over."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.distributed import processes
from experiments.run_folder import paths
from experiments.run_folder.summary import RunResult, SearchResult
from experiments.terminal import progress
from experiments.training import effective_weights, kept_rounds, measure
from experiments.training.logbook import Logbook, count_seconds
from experiments.training.run import Run
from rare_gems import masks
from rare_gems.phase import Params
from rare_gems.storage import ticket_file
from rare_gems.training import sharding, trainer

__all__ = ["end_phase", "result_of"]


def end_phase(book: Logbook, moment: trainer.Moment) -> None:
    """Notes the ticket that a phase ends with, and of the search what it found: file, accuracies, effective weights."""
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
    count_seconds(book, moment.phase)


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


def result_of(book: Logbook, at_once: int) -> RunResult:
    """What is left of a book that is over, and its accuracies on the test set. at_once: how many books were written
    together."""
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
        at_once=at_once,
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
