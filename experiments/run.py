"""One run in its folder: trains a recipe with checkpoints, metrics and progress; the same call resumes it."""

import dataclasses
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import metrics, profiling, progress
from experiments.config import Config
from experiments.problem import Problem
from rare_gems import checkpoint, masks, schedules, ticket_io, trainer, views
from rare_gems.feeds import Feed, Stream
from rare_gems.phase import Mask, ModelState, Params, Phase, Recipe, Ticket

__all__ = ["Found", "Interrupted", "Job", "Result", "train"]


class Interrupted(RuntimeError):  # noqa: N818
    """A signal stopped the run after a checkpoint; `args[1]` is its number."""


class Job(NamedTuple):
    """What to train: a recipe, where it starts, its randomness, the batches of each phase, and what the display
    calls it."""

    title: str
    recipe: Recipe
    ticket: Ticket
    model_state: ModelState
    key: jax.Array
    feeds: tuple[Feed | Stream, ...]


class Found(NamedTuple):
    """What the search left: the weights to finetune, scores, mask (GEM-MINER: q, before r(p) may thin it), BatchNorm
    statistics, and `whole`: the weights when the network last was whole (initial, or of the step rewound to)."""

    ticket: Ticket
    model_state: ModelState
    whole: Params


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


class _State(NamedTuple):
    """The arrays of a checkpoint. `previous`: the effective mask an epoch ago; `best`: of the validation."""

    carry: Any
    previous: Mask
    best: tuple[Params, ModelState]


@dataclasses.dataclass
class _Run:
    """What changes while `train` runs. `notes` goes into each checkpoint; `logged` counts this phase's epochs;
    `clock` is the time up to which `notes["seconds"]` counts."""

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
    found: Found
    previous: Mask
    best: tuple[Params, ModelState]
    logged: int
    clock: float


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
        state.previous, state.best, done // job.feeds[notes["index"]].num_batches, time.monotonic(),
    )  # fmt: skip

    def poll(index: int, step: int) -> bool:
        progress.steps(display, offsets[index] + step)
        return bool(caught)

    moments = trainer.epochs(
        job.recipe, job.ticket, job.model_state, loss_fn=problem.loss_fn, feed=job.feeds, key=job.key,
        resume=(notes["index"], state.carry) if state.carry else None, poll=poll,
    )  # fmt: skip
    if config.profile:
        moments = profiling.profiled(moments, folder / "profile")
    try:
        with _signals() as caught:
            for moment in moments:
                if moment.ended:
                    _end_phase(run, moment)
                    continue
                if moment.epoch > run.logged:
                    _log_epoch(run, moment)
                steps = offsets[moment.index] + moment.epoch * job.feeds[moment.index].num_batches
                if moment.interrupted or steps // problem.feed.num_batches % config.checkpoint_every == 0:
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


def _end_phase(run: _Run, moment: trainer.Moment) -> None:
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


def _whole(run: _Run, moment: trainer.Moment) -> Params:
    """The weights when nothing was removed yet: trained ones, unless this phase goes back behind its training."""
    size = masks.num_prunable(run.ticket.mask)
    if masks.num_kept(run.ticket.mask) == size:
        return run.ticket.params
    trained = moment.carry.ticket
    if moment.phase.trains != "params" or masks.num_kept(trained.mask) < size:
        return run.found.whole
    stays = jax.tree.map(jnp.array_equal, masks.apply(trained.params, run.ticket.mask), run.ticket.params)
    return jax.tree.map(jnp.copy, trained.params) if all(jax.tree.leaves(stays)) else run.found.whole


def _count_seconds(run: _Run, phase: Phase) -> None:
    part, now = "finetune" if phase.name == "finetune" else "search", time.monotonic()
    run.notes["seconds"][part] += now - run.clock
    run.clock = now


def _save(run: _Run, moment: trainer.Moment) -> None:
    run.table.finish()
    run.notes["index"] = moment.index
    if int(moment.carry.totals.first_bad) >= 0:  # of an epoch that was not finished
        metrics.fail_not_finite(int(moment.carry.totals.first_bad), moment.phase.name, moment.epoch + 1)
    position = run.offsets[moment.index] + int(moment.carry.step)
    _count_seconds(run, moment.phase)
    checkpoint.save(run.manager, position, _State(moment.carry, run.previous, run.best), run.notes)


def _result(run: _Run) -> Result:
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
            "seconds": {"search": 0.0, "finetune": 0.0},
        }
    return restored.tree, restored.notes


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


def _load_found(job: Job, index: int, folder: Path) -> Found:
    """What an earlier process found, where this one resumes in a later phase; the start of the job elsewhere."""
    if index == 0:
        return Found(job.ticket, job.model_state, job.ticket.params)
    file = ticket_io.load(folder / "search.safetensors", like=job.ticket, like_state=job.model_state)
    return Found(file.ticket, file.model_state, file.initial)


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
