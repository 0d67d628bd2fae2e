"""One run in its folder: trains a recipe with checkpoints, metrics and progress; the same call resumes it."""

import dataclasses
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


@dataclasses.dataclass
class _Run:
    """What changes while `train` runs. `notes` goes into each checkpoint; `logged` counts this phase's epochs."""

    job: Job
    problem: Problem
    folder: Path
    config: Config
    manager: Any
    table: metrics.Table
    notes: dict[str, Any]
    offsets: list[int]
    held_out: str
    ticket: Ticket
    model_state: ModelState
    found: Found | None
    previous: Mask
    best: tuple[Params, ModelState]
    logged: int = 0


def train(job: Job, problem: Problem, folder: Path, config: Config) -> Result:
    """Runs `job` to its end, or goes on from the newest whole checkpoint in `folder`.

    Raises:
      RunFailed: if the loss is not finite, or (on_collapse="error") a layer loses its last weight.
      Interrupted: after SIGTERM or SIGINT, with everything saved.
      OSError: if the folder cannot be written.
    """
    manager = checkpoint.open_folder(folder / "checkpoints")
    state, notes = _restore(manager, job, folder, problem.fingerprint)
    offsets = [sum(p.num_steps for p in job.recipe[:i]) for i in range(len(job.recipe) + 1)]
    done = int(state.carry.step) if state.carry else 0
    held_out = "validation" if "validation" in problem.splits else "test"
    display = progress.start(job.title, offsets[-1], offsets[notes["index"]] + done)
    table = metrics.Table(folder, display, notes, held_out, config.on_collapse)
    found = _load_found(job, notes["index"], folder)
    run = _Run(
        job, problem, folder, config, manager, table, notes, offsets, held_out, job.ticket, job.model_state, found,
        state.previous, state.best, done // problem.feed.num_batches,
    )  # fmt: skip

    def poll(index: int, step: int) -> bool:
        progress.steps(display, offsets[index] + step)
        return bool(caught)

    moments = trainer.epochs(
        job.recipe, job.ticket, job.model_state, loss_fn=problem.loss_fn, feed=problem.feed, key=job.key,
        resume=(notes["index"], state.carry) if state.carry else None, poll=poll,
    )  # fmt: skip
    try:
        with _signals() as caught:
            for moment in moments:
                if moment.ended:
                    _end_phase(run, moment)
                    continue
                if moment.epoch > run.logged:
                    _log_epoch(run, moment)
                if moment.interrupted or moment.epoch % config.checkpoint_every == 0:
                    _save(run, moment)
                if moment.interrupted:
                    raise Interrupted(f"stopped and saved in {folder}; the same command goes on from there", caught[0])
    except metrics.RunFailed as failure:
        _close_quietly(manager)
        kept = max(manager.all_steps(), default=None)
        raise metrics.RunFailed(f"{failure}" + (f"; the checkpoint of step {kept} is kept" if kept else "")) from None
    except BaseException:
        _close_quietly(manager)
        raise
    finally:
        table.close()
    checkpoint.close(manager)
    return _result(run)


def _close_quietly(manager: Any) -> None:
    """Lets the last save end, where an error is already on its way."""
    with suppress(OSError):
        checkpoint.close(manager)


def _log_epoch(run: _Run, moment: trainer.Moment) -> None:
    run.logged, carry, phase = moment.epoch, moment.carry, moment.phase
    observed, seen = metrics.measure(phase, carry, run.previous)
    accuracy = run.problem.accuracy(seen, carry.model_state, run.problem.splits[run.held_out])
    run.previous = observed.support
    bound = None
    if phase.name == "search":
        bound = schedules.sparsity_bound(moment.epoch, run.config.epochs, run.config.sparsity)
    step = run.offsets[moment.index] + moment.epoch * run.problem.feed.num_batches
    row = {"phase": phase.name, "epoch": moment.epoch, "step": step, "bound": bound}
    run.table.add(row, observed, accuracy)
    if run.held_out == "validation" and phase.name == "finetune":
        best = run.notes["best"]
        if best is None or float(accuracy) > best["validation"]:
            run.notes["best"] = {"epoch": moment.epoch, "validation": float(accuracy)}
            run.best = jax.tree.map(jnp.copy, (seen, carry.model_state))


def _end_phase(run: _Run, moment: trainer.Moment) -> None:
    run.table.finish()
    run.ticket, run.model_state = moment.ticket, jax.tree.map(jnp.copy, moment.model_state)
    run.logged = 0
    if moment.phase.name != "finetune":
        searched = moment.phase.trains == "scores"
        run.found = Found(moment.carry.ticket if searched else run.ticket, run.model_state)
        metadata = {"method": run.config.pruner, "seed": run.config.seed}
        file = run.folder / "search.safetensors"
        ticket_io.save(file, run.found.ticket, metadata=metadata, model_state=run.model_state)
        if run.held_out == "test":
            run.notes["before"] = _before(run.job, run.problem, run.found, run.ticket.mask)
            progress.note(_spell(run.notes["before"]))
    run.previous = views.support(views.masked, run.ticket, 0, run.job.key)


def _save(run: _Run, moment: trainer.Moment) -> None:
    run.table.finish()
    run.notes["index"] = moment.index
    if int(moment.carry.totals.first_bad) >= 0:  # of an epoch that was not finished
        metrics.fail_not_finite(int(moment.carry.totals.first_bad), moment.phase.name, moment.epoch + 1)
    position = run.offsets[moment.index] + int(moment.carry.step)
    checkpoint.save(run.manager, position, _State(moment.carry, run.previous, run.best), run.notes)


def _result(run: _Run) -> Result:
    test, best = run.problem.splits["test"], run.notes["best"]
    found = run.found or Found(run.job.ticket, run.job.model_state)
    before = run.notes.get("before") or _before(run.job, run.problem, found, run.ticket.mask)
    after = float(run.problem.accuracy(run.ticket.params, run.model_state, test))
    if best is not None:
        best["test"] = float(run.problem.accuracy(run.best[0], run.best[1], test))
    return Result(run.ticket, run.model_state, found, run.table.rows, before, after, best)


def _restore(manager: Any, job: Job, folder: Path, fingerprint: int) -> tuple[_State, dict[str, Any]]:
    start = views.support(job.recipe[0].view, job.ticket, 0, job.key)
    best = (job.ticket.params, job.model_state)

    def template(notes: dict[str, Any]) -> _State:
        if notes.get("title") != job.title or notes["index"] >= len(job.recipe):
            raise ValueError(f"{folder / 'checkpoints'}: holds checkpoints of another run, {notes.get('title')!r}")
        if notes["data"] != fingerprint:
            raise ValueError(f"{folder}: was begun on other training data than is there now; expected the same")
        phase = job.recipe[notes["index"]]
        carry = jax.eval_shape(lambda: trainer.begin(phase, job.ticket, job.model_state, job.key))
        return _State(carry, start, best)

    restored = checkpoint.restore_latest(manager, template)
    if restored is None:
        return _State(None, start, best), {
            "title": job.title,
            "data": fingerprint,
            "index": 0,
            "rows": [],
            "warned": [],
            "best": None,
        }
    return restored.tree, restored.notes


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
        "before_finetune_rounded": under(
            search.view(found.ticket, search.num_steps, jax.random.fold_in(job.key, 2**31 - 3))
        )
        if search
        else None,
    }


def _spell(before: dict[str, float | None]) -> str:
    q, rounded = before["before_finetune_frozen"], before["before_finetune_rounded"]
    both = f" (q {100 * q:.2f} %, q and r(p) {100 * rounded:.2f} %)" if q is not None and rounded is not None else ""
    return f"the ticket is found: test accuracy before finetuning {100 * (before['before_finetune'] or 0):.2f} %{both}"


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
