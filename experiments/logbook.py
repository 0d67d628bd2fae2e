"""What one run keeps while it trains: rows, checkpoints, the ticket found, and at the end its result."""

import dataclasses
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import metrics, progress
from experiments.config import Config
from experiments.problem import Problem
from experiments.resuming import Found, Job, State, load_found, restore
from rare_gems import checkpoint, masks, schedules, ticket_io, trainer, views
from rare_gems.phase import Mask, ModelState, Params, Phase, Ticket

__all__ = ["Logbook", "Result", "close_quietly", "open_logbook", "result", "take"]


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
    from, or None; `logged` counts this phase's epochs; `clock` is the time up to which `notes["seconds"]` counts."""

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


def open_logbook(job: Job, problem: Problem, folder: Path, config: Config, quiet: bool = False) -> Logbook:
    """The logbook of a run that begins, or goes on from the newest whole checkpoint in `folder`.

    Args:
      quiet: show no progress, where another run's stands for it.
    Raises:
      OSError: if the folder cannot be written.
    """
    manager = checkpoint.open_folder(folder / "checkpoints")
    state, notes = restore(manager, job, folder, problem.fingerprint)
    offsets = [sum(p.num_steps for p in job.recipe[:i]) for i in range(len(job.recipe) + 1)]
    done = int(state.carry.step) if state.carry else 0
    held_out = "validation" if "validation" in problem.splits else "test"
    display = progress.start(job.title, offsets[-1], offsets[notes["index"]] + done, quiet)
    table = metrics.Table(folder, display, notes, held_out, config.on_collapse)
    found = load_found(job, notes["index"], folder)
    return Logbook(
        job, problem, folder, config, manager, state.carry, table, notes, offsets, held_out, job.ticket,
        job.model_state, found, state.previous, state.best, done // job.feeds[notes["index"]].num_batches,
        time.monotonic(),
    )  # fmt: skip


def take(run: Logbook, moment: trainer.Moment) -> None:
    """Writes down a moment: a row, a checkpoint where one is due, what a phase left at its end.

    Raises:
      RunFailed: if the loss is not finite, or (on_collapse="error") a layer loses its last weight.
    """
    if moment.ended:
        _end_phase(run, moment)
        return
    if moment.epoch > run.logged:
        _log_epoch(run, moment)
    steps = run.offsets[moment.index] + moment.epoch * run.job.feeds[moment.index].num_batches
    if moment.interrupted or steps // run.problem.feed.num_batches % run.config.checkpoint_every == 0:
        _save(run, moment)


def close_quietly(manager: Any) -> None:
    """Lets the last save end, where an error is already on its way."""
    with suppress(OSError):
        checkpoint.close(manager)


def _log_epoch(run: Logbook, moment: trainer.Moment) -> None:
    run.logged, carry, phase = moment.epoch, moment.carry, moment.phase
    observed, seen = metrics.measure(phase, carry, run.previous)
    accuracy = run.problem.accuracy(seen, carry.model_state, run.problem.splits[run.held_out])
    run.previous = observed.support
    bound = None
    if run.config.pruner == "gem_miner" and phase.name == "search":
        bound = schedules.sparsity_bound(moment.epoch, run.config.epochs, run.config.sparsity)
    step = run.offsets[moment.index] + moment.epoch * run.job.feeds[moment.index].num_batches
    epoch = _epochs_before(run.job, moment.index) + moment.epoch
    row = {"phase": phase.name, "epoch": epoch, "step": step, "bound": bound}
    run.table.add(row, observed, accuracy)
    if run.held_out == "validation" and phase.name == "finetune":
        best = run.notes["best"]
        if best is None or float(accuracy) > best["validation"]:
            run.notes["best"] = {"epoch": moment.epoch, "validation": float(accuracy)}
            run.best = jax.tree.map(jnp.copy, (seen, carry.model_state))


def _epochs_before(job: Job, index: int) -> int:
    """Whole epochs of earlier phases of the same name: rounds are counted through."""
    name = job.recipe[index].name
    earlier = zip(job.recipe[:index], job.feeds[:index], strict=True)
    return sum(phase.num_steps // feed.num_batches for phase, feed in earlier if phase.name == name)


def _end_phase(run: Logbook, moment: trainer.Moment) -> None:
    run.table.finish()
    run.ticket, run.model_state = moment.ticket, jax.tree.map(jnp.copy, moment.model_state)
    run.logged = 0
    if moment.phase.name != "finetune":
        whole = _whole(run, moment)
        run.found = Found(moment.carry.ticket if _rounds(moment.phase) else run.ticket, run.model_state, whole)
        metadata = {"method": run.config.pruner, "seed": run.config.seed}
        file = run.folder / "search.safetensors"
        ticket_io.save(file, run.found.ticket, metadata=metadata, model_state=run.model_state, initial=whole)
        first, reselects = moment.carry.ticket.mask, moment.phase.trains == "scores" and not moment.phase.hold_dead
        if reselects and masks.num_kept(first) == masks.num_kept(run.ticket.mask) < masks.num_prunable(first):
            run.notes["overlap"] = masks.overlap(first, run.ticket.mask)  # a jackpot, with the mask it began with
        if run.held_out == "test" and all(phase.name == "finetune" for phase in run.job.recipe[moment.index + 1 :]):
            run.notes["before"] = _before(run.job, run.problem, run.found, run.ticket.mask)
            progress.note(_spell(run.notes["before"]))
    run.previous = views.support(views.masked, run.ticket, 0, run.job.key)
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
    checkpoint.save(run.manager, position, State(moment.carry, run.previous, run.best), run.notes)


def result(run: Logbook) -> Result:
    """What is left of a run that is over, and its accuracies on the test set."""
    test, best = run.problem.splits["test"], run.notes["best"]
    before = run.notes.get("before") or _before(run.job, run.problem, run.found, run.ticket.mask)
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


def _rounds(phase: Phase) -> bool:
    """Whether the network sees rounded scores in this phase (GEM-MINER), so that q and q * r(p) are two masks."""
    return phase.view in (views.rounded, views.sampled) and phase.hold_dead


def _before(job: Job, problem: Problem, found: Found, mask: Mask) -> dict[str, float | None]:
    """Test accuracy of the weights under the mask to be finetuned; of GEM-MINER also under q, and as it saw them."""
    search = next((phase for phase in job.recipe if _rounds(phase)), None)
    test = problem.splits["test"]

    def under(params: Params) -> float:
        return float(problem.accuracy(params, found.model_state, test))

    both: dict[str, float | None] = {"before_finetune_frozen": None, "before_finetune_rounded": None}
    if search:
        seen = search.view(found.ticket, search.num_steps, jax.random.fold_in(job.key, 2**31 - 3))
        frozen = masks.apply(found.ticket.params, found.ticket.mask)
        both = {"before_finetune_frozen": under(frozen), "before_finetune_rounded": under(seen)}
    return {"before_finetune": under(masks.apply(found.ticket.params, mask))} | both


def _spell(before: dict[str, float | None]) -> str:
    q, rounded = before["before_finetune_frozen"], before["before_finetune_rounded"]
    both = f" (q {100 * q:.2f} %, q and r(p) {100 * rounded:.2f} %)" if q is not None and rounded is not None else ""
    return f"the ticket is found: test accuracy before finetuning {100 * (before['before_finetune'] or 0):.2f} %{both}"
