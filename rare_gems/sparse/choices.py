"""What methods choose among: scores that rank weights, and shares of layers."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rare_gems import keep_ratios, masks, transforms
from rare_gems.phase import Context, Mask, Scores, Ticket
from rare_gems.pruners.parts.counts import check_counts
from rare_gems.pruners.parts.random_scores import random_scores
from rare_gems.pruners.parts.saliency import saliency
from rare_gems.sparse.updates import shaped_like

__all__ = ["Scope", "Score", "checked_mask", "counts_at", "layers_of", "score_fn", "shared_out"]

Scope = Literal["global", "uniform", "erk"] | Callable[[Mask, int], Any]
Score = Literal["magnitude", "saliency", "random"] | Callable[[Ticket, Context], Scores]


def score_fn(score: Score) -> Callable[[Ticket, Context], Scores]:
    """The function (ticket, context) -> scores that a name stands for.

    Raises:
      ValueError: for an unknown name.
    """
    known: dict[Any, Callable[[Ticket, Context], Scores]] = {
        "magnitude": lambda ticket, context: transforms.magnitude(ticket),
        "saliency": lambda ticket, context: jax.tree.map(jnp.abs, saliency(ticket, context)),
        "random": random_scores,
    }
    if not callable(score) and (not isinstance(score, str) or score not in known):
        raise ValueError(f"score: expected one of {', '.join(known)}, or a function, got {score!r}")
    return score if callable(score) else known[score]


def layers_of(scope: Scope) -> Literal["global", "layer"]:
    """The scope of `masks.keep_top`."""
    return "global" if scope == "global" else "layer"


def counts_at(mask: Mask, sparsity: float, scope: Scope) -> Any:
    """How many weights are kept: an integer, or of each layer one.

    Raises:
      ValueError: for a sparsity outside [0, 1) or an unknown scope, and where nothing, or nothing of a layer, is kept.
    """
    n = masks.num_prunable(mask)
    total = masks.count_for(n, sparsity)
    if total < 1:
        raise ValueError(f"sparsity: {sparsity} keeps none of {n} weights; expected a lower one")
    return shared_out(mask, total, scope)


def shared_out(mask: Mask, total: int, scope: Scope) -> Any:
    """That many weights, shared out among the layers as `scope` says.

    Raises:
      ValueError: as `counts_at`, and for counts of a function that do not sum to the total.
    """
    known = {"global": lambda mask, total: total, "uniform": keep_ratios.uniform, "erk": keep_ratios.erk}
    if not callable(scope):
        if not isinstance(scope, str) or scope not in known:
            raise ValueError(f"scope: expected one of {', '.join(known)}, or a function, got {scope!r}")
        return known[scope](mask, total)
    counts = shaped_like("scope", scope(mask, total), mask, "the mask")
    check_counts(mask, counts)
    if sum(jax.tree.leaves(counts)) != total:
        raise ValueError(f"scope: expected counts of {total} in all, got {sum(jax.tree.leaves(counts))}")
    return counts


def checked_mask(mask: Mask, like: Mask) -> Mask:
    """The mask that a user's function has selected, once it is seen to be one.

    Raises:
      ValueError: for another structure, shape or dtype, and outside of `jit` for one that keeps nothing.
    """
    mask = shaped_like("select", mask, like, "the masks")
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(like), jax.tree.leaves(mask), strict=True):
        spelled = f"{getattr(new, 'dtype', type(new).__name__)}{list(jnp.shape(new))}"
        if spelled != f"bool{list(old.shape)}":
            raise ValueError(f"select: expected bool{list(old.shape)} for {masks.path_name(path)}, got {spelled}")
    kept = masks.num_kept(mask)
    if isinstance(kept, int) and not kept:
        raise ValueError("select: expected to keep a weight, got none in the whole network")
    return mask
