"""Random tickets: masks drawn without looking at data or weights."""

import math
from typing import Any, Literal

import jax

from rare_gems import init, masks, transforms
from rare_gems.phase import Context, Mask, Phase, Recipe, Scores, Ticket
from rare_gems.pruners.saliency import target_counts

__all__ = ["check_counts", "random", "random_scores", "random_ticket"]


def random_scores(ticket: Ticket, context: Context) -> Scores:
    """Scores U[0, 1), so that their top k is a uniformly random subset."""
    return init.uniform_scores(context.key, ticket.mask)


def random_ticket(mask: Mask, counts: Any, finetune: Phase | None = None) -> Recipe:
    """A random mask with a given number of weights in each layer: what a set of layer ratios alone is worth.

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s).
      counts: a tree of integers like it, for example from `keep_ratios.erk` or `smart_ratios.smart_ratio`.
      finetune: the last phase; None stops at the mask.
    Returns:
      (edit, finetune).
    Raises:
      ValueError: if the counts are of another structure, or a count is not between 0 and the layer's size.
    Example:
      >>> from rare_gems import keep_ratios
      >>> mask = {"a": jax.ShapeDtypeStruct((10,), bool), "b": jax.ShapeDtypeStruct((30,), bool)}
      >>> [phase.name for phase in random_ticket(mask, keep_ratios.uniform(mask, 4))]
      ['edit']

    Source: Sanity-Checking Pruning, section 4; Rare Gems (v1), Appendix B.
    """
    check_counts(mask, counts)
    return _ticket(counts, "layer", finetune)


def check_counts(mask: Mask, counts: Any) -> None:
    """Raises ValueError unless `counts` is a tree of integers like `mask`, each from 0 to its layer's size."""
    if jax.tree.structure(counts) != jax.tree.structure(mask):
        raise ValueError(f"counts: expected the structure of the mask, {jax.tree.structure(mask)}, got {counts}")
    for (path, leaf), count in zip(jax.tree_util.tree_leaves_with_path(mask), jax.tree.leaves(counts), strict=True):
        size = math.prod(leaf.shape)
        if not 0 <= count <= size:
            raise ValueError(f"counts of {masks.path_name(path)}: expected an integer from 0 to {size}, got {count}")


def random(
    mask: Mask, *, sparsity: float, finetune: Phase | None = None, scope: Literal["global", "layer"] = "global"
) -> Recipe:
    """Keeps a uniformly random subset of the weights, of exact size.

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      finetune: the last phase; None stops at the mask.
      scope: "global" draws from all weights at once; "layer" keeps the same ratio of each layer.
    Returns:
      (edit, finetune).
    Raises:
      ValueError: if nothing is kept, or ("layer") a layer would be left without a weight.
    Source: Sanity-Checking Pruning, section 4 ("layer": uniform ratios); Rare Gems, section 4.
    """
    return _ticket(target_counts(mask, sparsity, scope), scope, finetune)


def _ticket(counts: Any, scope: Literal["global", "layer"], finetune: Phase | None) -> Recipe:
    search = transforms.edit(transforms.scores_from(random_scores), transforms.keep_top(counts, scope))
    return (search,) if finetune is None else (search, finetune)
