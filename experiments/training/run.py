"""A run: what it begins with, and what it goes on from: its newest checkpoint, and what its search had found."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from experiments.run_folder import paths
from experiments.run_folder.summary import SearchResult
from rare_gems import views
from rare_gems.phase import Mask, ModelState, Params, Recipe, Ticket
from rare_gems.storage import checkpoint, ticket_file
from rare_gems.training import sharding, trainer
from rare_gems.training.feeds import Feed, Stream
from rare_gems.training.programs import Programs

__all__ = ["Checkpoint", "Run", "load_search_result", "restore"]


class Run(NamedTuple):
    """What to train: a recipe, where it starts, its randomness, the batches of each phase, what the display calls it,
    the randomness of batches, where it is one of its own, and the programs that runs of one recipe share."""

    title: str
    recipe: Recipe
    ticket: Ticket
    model_state: ModelState
    key: jax.Array
    feeds: tuple[Feed | Stream, ...]
    data_key: jax.Array | None = None
    programs: dict[Any, Programs] | None = None


class Checkpoint(NamedTuple):
    """The arrays of a checkpoint. `previous`: the effective mask an epoch ago; `best`: of the validation."""

    carry: Any
    previous: Mask
    best: tuple[Params, ModelState]


def restore(
    manager: Any, run: Run, folder: Path, fingerprint: int, mesh: Mesh | None = None
) -> tuple[Checkpoint, dict[str, Any]]:
    """The newest whole checkpoint and its notes; without one, how a run begins (the carry is None).

    Raises:
      ValueError: if it is of another run, or was begun on other training data.
    """
    start = views.support(run.recipe[0].view, run.ticket, 0, run.key)
    best = (run.ticket.params, run.model_state)

    def template(notes: dict[str, Any]) -> Checkpoint:
        if notes.get("title") != run.title or notes["index"] >= len(run.recipe):
            raise ValueError(f"{folder / paths.CHECKPOINTS}: holds checkpoints of another run, {notes.get('title')!r}")
        if notes["data"] != fingerprint:
            raise ValueError(f"{folder}: was begun on other training data than is there now; expected the same")
        phase = run.recipe[notes["index"]]
        carry = jax.eval_shape(lambda: trainer.begin(phase, run.ticket, run.model_state, run.key, run.data_key))
        return sharding.shapes(Checkpoint(carry, start, best), mesh)

    restored = checkpoint.restore_latest(manager, template)
    if restored is None:
        return Checkpoint(None, start, best), {
            "title": run.title,
            "data": fingerprint,
            "index": 0,
            "rows": [],
            "warned": [],
            "best": None,
            "seconds": {"search": 0.0, "finetune": 0.0},
        }
    return restored.tree, restored.notes


def load_search_result(run: Run, index: int, folder: Path) -> SearchResult:
    """What an earlier process found, where this one resumes in a later phase; the start of the run elsewhere."""
    if index == 0:
        return SearchResult(run.ticket, run.model_state, run.ticket.params)
    file = ticket_file.load(folder / paths.SEARCH, like=run.ticket, like_state=run.model_state)
    return SearchResult(file.ticket, file.model_state, file.initial)
