"""Magnitude pruning at initialization: keeps the largest weights as they were drawn."""

from typing import Literal

from rare_gems import transforms
from rare_gems.phase import Mask, Phase, Recipe
from rare_gems.pruners.parts.counts import check_floors, target_counts

__all__ = ["magnitude"]


def magnitude(
    mask: Mask,
    *,
    sparsity: float,
    finetune: Phase | None = None,
    scope: Literal["global", "layer"] = "global",
    at_least: int = 0,
    invert: bool = False,
) -> Recipe:
    """Keeps the largest |w| of the initial weights, without looking at data.

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      finetune: the last phase; None stops at the mask.
      scope: rank over the whole network (under initializations scaled by fan-in, wide layers empty first), or within
        each layer at equal ratios
      at_least: weights that each layer keeps at least, in the global scope; all where it has fewer
      invert: keep the smallest instead (the inverted-scores sanity check).
    Returns:
      (edit, finetune).
    Raises:
      ValueError: if nothing is kept, or ("layer") a layer would be left without a weight; for floors beyond the count.
    Example:
      >>> import jax
      >>> (phase,) = magnitude([jax.ShapeDtypeStruct((10,), bool)], sparsity=0.8)
      >>> phase.name, phase.num_steps
      ('edit', 0)

    Source: the baseline "magnitude" of Tanaka et al. (SynFlow), section 7. With weights of constant magnitude
    (`init.signed_constant`) all of a layer ties, and the front of each is kept.
    """
    count = target_counts(mask, sparsity, scope)
    floor = check_floors(mask, at_least, count, scope)
    search = transforms.edit(
        transforms.scores_from(lambda ticket, context: transforms.magnitude(ticket)),
        transforms.keep_top(count, scope, invert=invert, at_least=floor),
    )
    return (search,) if finetune is None else (search, finetune)
