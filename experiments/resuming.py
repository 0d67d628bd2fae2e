"""What a run starts from, and what it goes on from: its job, its newest checkpoint, the ticket it had found."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from rare_gems import checkpoint, sharding, ticket_io, trainer, views
from rare_gems.feeds import Feed, Stream
from rare_gems.phase import Mask, ModelState, Params, Recipe, Ticket

__all__ = ["Found", "Job", "State", "load_found", "restore"]


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


class State(NamedTuple):
    """The arrays of a checkpoint. `previous`: the effective mask an epoch ago; `best`: of the validation."""

    carry: Any
    previous: Mask
    best: tuple[Params, ModelState]


def restore(
    manager: Any, job: Job, folder: Path, fingerprint: int, mesh: Mesh | None = None
) -> tuple[State, dict[str, Any]]:
    """The newest whole checkpoint and its notes; without one, how a run begins (the carry is None).

    Raises:
      ValueError: if it is of another job, or was begun on other training data.
    """
    start = views.support(job.recipe[0].view, job.ticket, 0, job.key)
    best = (job.ticket.params, job.model_state)

    def template(notes: dict[str, Any]) -> State:
        if notes.get("title") != job.title or notes["index"] >= len(job.recipe):
            raise ValueError(f"{folder / 'checkpoints'}: holds checkpoints of another run, {notes.get('title')!r}")
        if notes["data"] != fingerprint:
            raise ValueError(f"{folder}: was begun on other training data than is there now; expected the same")
        phase = job.recipe[notes["index"]]
        carry = jax.eval_shape(lambda: trainer.begin(phase, job.ticket, job.model_state, job.key))
        return sharding.shapes(State(carry, start, best), mesh)

    restored = checkpoint.restore_latest(manager, template)
    if restored is None:
        return State(None, start, best), {
            "title": job.title,
            "data": fingerprint,
            "index": 0,
            "rows": [],
            "warned": [],
            "best": None,
            "seconds": {"search": 0.0, "finetune": 0.0},
        }
    return restored.tree, restored.notes


def load_found(job: Job, index: int, folder: Path) -> Found:
    """What an earlier process found, where this one resumes in a later phase; the start of the job elsewhere."""
    if index == 0:
        return Found(job.ticket, job.model_state, job.ticket.params)
    file = ticket_io.load(folder / "search.safetensors", like=job.ticket, like_state=job.model_state)
    return Found(file.ticket, file.model_state, file.initial)
