"""Kept weights that cannot matter, since no kept path leads through them: counted once a ticket is found, and told."""

from typing import Any

from experiments.problem.problem import Problem
from experiments.terminal import progress
from rare_gems import masks
from rare_gems.analysis import effective
from rare_gems.phase import Mask, ModelState, Params

__all__ = ["count", "tell"]

_MOST_DEAD = 0.1  # of the kept weights, without a warning
_MOST_NAMES = 8


def count(problem: Problem, params: Params, state: ModelState, mask: Mask) -> dict[str, Any] | None:
    """The effective sparsity of a ticket, how many of its weights can matter, and the names of the layers that are cut.

    Args:
      params, state: of the network. mask: of the ticket; all of them on this process.
    Returns:
      {"sparsity", "num_kept", "cut_layers"}, or None for a network that cannot be followed.
    """
    try:
        alive = effective.mask(problem.model.apply, params, state, mask, problem.image_shape)
    except ValueError:
        return None
    cut = effective.cut_layers(mask, alive)
    return {"sparsity": masks.sparsity(alive), "num_kept": masks.num_kept(alive), "cut_layers": list(cut)}


def tell(counted: dict[str, Any] | None, mask: Mask, whose: str = "") -> None:
    """A warning if more than a tenth of the kept weights are dead; it names the layers that are cut.

    Args:
      counted: as from `count`. mask: of the ticket. whose: what the line begins with, among several runs.
    """
    kept = masks.num_kept(mask)
    if counted is None or kept - counted["num_kept"] <= _MOST_DEAD * kept:
        return
    dead, cut = kept - counted["num_kept"], counted["cut_layers"]
    names = ", ".join(cut[:_MOST_NAMES]) + (f" and {len(cut) - _MOST_NAMES} more" if len(cut) > _MOST_NAMES else "")
    progress.note(
        f"warning: {whose}{dead:,} of the {kept:,} kept weights lie on no path from the images to the logits "
        f"(effective sparsity {100 * counted['sparsity']:.2f} %)" + (f"; nothing passes {names}" if cut else "")
    )
