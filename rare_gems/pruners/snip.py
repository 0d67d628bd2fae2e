"""SNIP: keeps the weights whose removal would change the loss most, by a first-order estimate on one batch.

Source: Lee et al., SNIP: Single-shot Network Pruning based on Connection Sensitivity, 2019.
"""

from typing import Literal

from rare_gems.phase import LossFn, Mask, Phase, Recipe
from rare_gems.pruners.parts import saliency

__all__ = ["snip"]


def snip(
    mask: Mask,
    *,
    sparsity: float,
    loss_fn: LossFn,
    finetune: Phase | None = None,
    batches: int = 1,
    scope: Literal["global", "layer"] = "global",
    at_least: int = 0,
    invert: bool = False,
) -> Recipe:
    """Connection sensitivity: keeps the largest

      s = |sum over batches of w * dL/dw|  (= |dL/dc| at c = 1, where the network sees c * w)

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      loss_fn: the loss, with BatchNorm as it trains (batch statistics); the model state it returns is dropped.
      finetune: the last phase; None stops at the mask.
      batches: training batches whose gradients are summed
      scope: rank over the whole network, or within each layer at equal ratios
      at_least: weights that each layer keeps at least, in the global scope; all where it has fewer
      invert: keep the lowest scores instead (the inverted-scores sanity check).
    Returns:
      (search, finetune).
    Raises:
      ValueError: if nothing is kept ("layer": of some layer), for floors beyond the count, and for fewer than
        one batch.
    Example:
      >>> import jax
      >>> loss_fn = lambda params, state, batch, key: ((params[0] * batch).sum(), (state, 0.0))
      >>> (phase,) = snip([jax.ShapeDtypeStruct((10,), bool)], sparsity=0.8, loss_fn=loss_fn, batches=3)
      >>> phase.num_steps, phase.trains
      (3, 'params')

    Source: SNIP, Algorithm 1. Deviations: scores are not divided by their sum, which changes no ranking. BatchNorm
    normalizes by the batch (the SynFlow code scores in evaluation mode, with statistics that are still 0 and 1).
    The kept count is exact, where thresholds remove or keep all ties.
    """
    search = saliency.one_shot(
        saliency.still(loss_fn), mask=mask, sparsity=sparsity, num_batches=batches, scope=scope, at_least=at_least,
        invert=invert,
    )  # fmt: skip
    return (search,) if finetune is None else (search, finetune)
