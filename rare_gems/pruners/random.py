"""Random tickets: masks drawn without looking at data or weights."""

from typing import Literal

from rare_gems import init, keep_ratios, masks, transforms
from rare_gems.phase import Context, Mask, Phase, Recipe, Scores, Ticket

__all__ = ["random", "random_scores"]


def random_scores(ticket: Ticket, context: Context) -> Scores:
    """Scores U[0, 1), so that their top k is a uniformly random subset."""
    return init.uniform_scores(context.key, ticket.mask)


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
    count = masks.count_for(masks.num_prunable(mask), sparsity)
    if count < 1:
        raise ValueError(f"sparsity: {sparsity} keeps none of {masks.num_prunable(mask)} weights; expected a lower one")
    if scope not in ("global", "layer"):
        raise ValueError(f"scope: expected 'global' or 'layer', got {scope!r}")
    counts = count if scope == "global" else keep_ratios.uniform(mask, count)
    search = transforms.edit(transforms.scores_from(random_scores), transforms.keep_top(counts, scope))
    return (search,) if finetune is None else (search, finetune)
