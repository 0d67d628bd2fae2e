"""Random tickets: masks drawn without looking at data or weights."""

from typing import Any, Literal

from rare_gems import transforms
from rare_gems.phase import Mask, Phase, Recipe
from rare_gems.pruners.parts.counts import check_counts, target_counts
from rare_gems.pruners.parts.random_scores import random_scores

__all__ = ["random", "random_ticket"]


def random_ticket(mask: Mask, counts: Any, finetune: Phase | None = None) -> Recipe:
    """A random mask with a given number of weights in each layer: what a set of layer ratios alone is worth.

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s).
      counts: a tree of integers like it, for example from `keep_ratios.erk` or `smart_ratio_counts`.
      finetune: the last phase; None stops at the mask.
    Returns:
      (edit, finetune).
    Raises:
      ValueError: if the counts are of another structure, or a count is not between 0 and the layer's size.
    Example:
      >>> import jax
      >>> from rare_gems import keep_ratios
      >>> mask = {"a": jax.ShapeDtypeStruct((10,), bool), "b": jax.ShapeDtypeStruct((30,), bool)}
      >>> [phase.name for phase in random_ticket(mask, keep_ratios.uniform(mask, 4))]
      ['edit']

    Source: Sanity-Checking Pruning, section 4; Rare Gems (v1), Appendix B.
    """
    check_counts(mask, counts)
    return _ticket(counts, "layer", finetune)


def random(
    mask: Mask, *, sparsity: float, finetune: Phase | None = None, scope: Literal["global", "layer"] = "global"
) -> Recipe:
    """Keeps a uniformly random subset of the weights, of exact size.

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      finetune: the last phase; None stops at the mask.
      scope: draw from all weights at once, or keep the same ratio of each layer
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
