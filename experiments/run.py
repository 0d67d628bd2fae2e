"""One run in its folder: trains a recipe with checkpoints, metrics and progress; the same call resumes it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import metrics, progress
from experiments.config import Config
from experiments.problem import Problem
from rare_gems import checkpoint, masks, schedules, ticket_io, trainer, views
from rare_gems.phase import Mask, ModelState, Params, Phase, Recipe, Ticket

__all__ = ["Found", "Interrupted", "Job", "Result", "train"]


class Interrupted(RuntimeError):  # noqa: N818
    """A signal stopped the run after a checkpoint; `args[1]` is its number."""


class Job(NamedTuple):
    """What to train: a recipe, where it starts, its randomness, and what the display calls it."""

    title: str
    recipe: Recipe
    ticket: Ticket
    model_state: ModelState
    key: jax.Array


class Found(NamedTuple):
    """What the search left: initial weights, scores, q (before `after` chose the mask), BatchNorm statistics."""

    ticket: Ticket
    model_state: ModelState


class Result(NamedTuple):
    """What is left at the end. Accuracies are on the test set; `before` by mask, `best` the best validation epoch
    {epoch, validation, test} or None."""

    ticket: Ticket
    model_state: ModelState
    found: Found
    rows: list[dict[str, Any]]
    before: dict[str, float | None]
    after: float
    best: dict[str, Any] | None


class _State(NamedTuple):
    """The arrays of a checkpoint. `previous`: the effective mask an epoch ago; `best`: of the validation."""

    carry: Any
    previous: Mask
    best: tuple[Params, ModelState]


def train(job: Job, problem: Problem, folder: Path, config: Config) -> Result:
    """Runs `job` to its end, or goes on from the newest whole checkpoint in `folder`.

    Raises:
      RunFailed: if the loss is not finite, or (on_collapse="error") a layer loses its last weight.
      Interrupted: after SIGTERM or SIGINT, with everything saved.
      OSError: if the folder cannot be written.
    """
    manager = checkpoint.open_folder(folder / "checkpoints")
    state, notes = _restore(manager, job, folder)
    offsets = [sum(p.num_steps for p in job.recipe[:i]) for i in range(len(job.recipe) + 1)]
    done = offsets[notes["index"]] + int(state.carry.step) if state.carry else 0
    held_out = "validation" if "validation" in problem.splits else "test"
    display = progress.start(job.title, offsets[-1], done)
    table = metrics.Table(folder, display, notes, held_out, config.on_collapse)
    found, ticket, model_state = _load_found(job, notes["index"], folder), job.ticket, job.model_state
    previous, best, logged = state.previous, state.best, 0
    resume = None
    if state.carry:
        resume, logged = (notes["index"], state.carry), int(state.carry.step) // problem.feed.num_batches

    def poll(index: int, step: int) -> bool:
        progress.steps(display, offsets[index] + step)
        return bool(caught)

    try:
        with _signals() as caught:
            for moment in trainer.epochs(
                job.recipe, ticket, model_state, loss_fn=problem.loss_fn, feed=problem.feed, key=job.key,
                resume=resume, poll=poll,
            ):  # fmt: skip
                carry, phase = moment.carry, moment.phase
                if moment.ended:
                    table.finish()
                    ticket, model_state, logged = moment.ticket, jax.tree.map(jnp.copy, carry.model_state), 0
                    if phase.name != "finetune":
                        found = Found(carry.ticket if phase.trains == "scores" else ticket, model_state)
                        _save_found(folder, found, config)
                        if held_out == "test":
                            notes["before"] = _before(job, problem, found, ticket.mask)
                            progress.note(_spell(notes["before"]))
                    previous = views.support(views.masked, ticket, 0, job.key)
                    continue
                if moment.epoch > logged:
                    logged = moment.epoch
                    observed, seen = metrics.measure(phase, carry, previous)
                    accuracy = problem.accuracy(seen, carry.model_state, problem.splits[held_out])
                    previous = observed.support
                    table.add(_row(phase, logged, offsets[moment.index] + logged * problem.feed.num_batches, config), observed, accuracy)
                    if held_out == "validation" and phase.name == "finetune":
                        best = _better(notes, best, logged, float(accuracy), (seen, carry.model_state))
                if moment.interrupted or logged % config.checkpoint_every == 0:
                    table.finish()
                    notes["index"] = moment.index
                    position = offsets[moment.index] + int(carry.step)
                    checkpoint.save(manager, position, _State(carry, previous, best), notes)
                if moment.interrupted:
                    checkpoint.close(manager)
                    raise Interrupted(f"stopped and saved in {folder}; the same command goes on from there", caught[0])
        checkpoint.close(manager)
    finally:
        table.close()
    found = found or Found(job.ticket, job.model_state)
    before = notes.get("before") or _before(job, problem, found, ticket.mask)
    test = problem.splits["test"]
    after = float(problem.accuracy(ticket.params, model_state, test))
    if notes["best"]:
        notes["best"]["test"] = float(problem.accuracy(best[0], best[1], test))
    return Result(ticket, model_state, found, table.rows, before, after, notes["best"])


def _restore(manager: Any, job: Job, folder: Path) -> tuple[_State, dict[str, Any]]:
    start = views.support(job.recipe[0].view, job.ticket, 0, job.key)
    best = (job.ticket.params, job.model_state)

    def template(notes: dict[str, Any]) -> _State:
        if notes.get("title") != job.title or notes["index"] >= len(job.recipe):
            raise ValueError(f"{folder / 'checkpoints'}: holds checkpoints of another run, {notes.get('title')!r}")
        phase = job.recipe[notes["index"]]
        carry = jax.eval_shape(lambda: trainer.begin(phase, job.ticket, job.model_state, job.key))
        return _State(carry, start, best)

    restored = checkpoint.restore_latest(manager, template)
    if restored is None:
        return _State(None, start, best), {"title": job.title, "index": 0, "rows": [], "warned": [], "best": None}
    return restored.tree, restored.notes


def _row(phase: Phase, epoch: int, step: int, config: Config) -> dict[str, Any]:
    bound = None
    if phase.name == "search":
        bound = schedules.sparsity_bound(epoch, config.epochs, config.sparsity)
    return {"phase": phase.name, "epoch": epoch, "step": step, "bound": bound}


def _better(notes: dict[str, Any], best: Any, epoch: int, accuracy: float, candidate: Any) -> Any:
    if notes["best"] is not None and accuracy <= notes["best"]["validation"]:
        return best
    notes["best"] = {"epoch": epoch, "validation": accuracy}
    return jax.tree.map(jnp.copy, candidate)


def _search_phase(job: Job) -> Phase | None:
    """The phase that trained scores, if there is one: its view is the effective mask of the search."""
    return next((phase for phase in job.recipe if phase.trains == "scores"), None)


def _before(job: Job, problem: Problem, found: Found, mask: Mask) -> dict[str, float | None]:
    """Test accuracy of the initial weights under the mask to be finetuned, under q, and as the search saw them."""
    search, test = _search_phase(job), problem.splits["test"]

    def under(params: Params) -> float:
        return float(problem.accuracy(params, found.model_state, test))

    return {
        "before_finetune": under(masks.apply(found.ticket.params, mask)),
        "before_finetune_frozen": under(masks.apply(found.ticket.params, found.ticket.mask)) if search else None,
        "before_finetune_rounded": under(search.view(found.ticket, search.num_steps, job.key)) if search else None,
    }


def _spell(before: dict[str, float | None]) -> str:
    q, rounded = before["before_finetune_frozen"], before["before_finetune_rounded"]
    both = f" (q {100 * q:.2f} %, q and r(p) {100 * rounded:.2f} %)" if q is not None and rounded is not None else ""
    return f"the ticket is found: test accuracy before finetuning {100 * (before['before_finetune'] or 0):.2f} %{both}"


def _save_found(folder: Path, found: Found, config: Config) -> None:
    metadata = {"method": config.pruner, "seed": config.seed}
    ticket_io.save(
        folder / "search.safetensors", found.ticket, metadata=metadata, model_state=found.model_state
    )


def _load_found(job: Job, index: int, folder: Path) -> Found | None:
    """What an earlier process found, where this one resumes in a later phase."""
    if index == 0:
        return None
    file = ticket_io.load(folder / "search.safetensors", like=job.ticket, like_state=job.model_state)
    return Found(file.ticket, file.model_state)


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
