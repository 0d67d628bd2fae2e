"""FORCE and iterative SNIP: connection sensitivity of the network as it will be, approached in many rounds.

Source: de Jorge et al., Progressive Skeletonization: Trimming more fat from a network at initialization, 2021.
"""

from rare_gems.phase import LossFn, Mask, Phase, Recipe
from rare_gems.pruners.parts import saliency

__all__ = ["force"]


def force(
    mask: Mask,
    *,
    sparsity: float,
    loss_fn: LossFn,
    finetune: Phase | None = None,
    rounds: int = 60,
    revive: bool = True,
    invert: bool = False,
) -> Recipe:
    """Foresight connection sensitivity: at round r of R keeps the round(n (1 - s)^(r / R)) largest

      s = |w * dL/dw|,  the gradient taken at the network pruned so far

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      loss_fn: the loss, with BatchNorm as it trains; the model state it returns is dropped.
      finetune: the last phase; None stops at the mask.
      rounds: rounds of scoring and pruning, a batch each (R)
      revive: let pruned weights come back (FORCE): they are ranked with the rest, by the gradient they would get;
        without it: iterative SNIP
      invert: keep the lowest scores instead (the inverted-scores sanity check).
    Returns:
      (search, finetune).
    Raises:
      ValueError: if nothing is kept, and for fewer than one round.
    Example:
      >>> import jax
      >>> loss_fn = lambda params, state, batch, key: ((params[0] * batch).sum(), (state, 0.0))
      >>> force([jax.ShapeDtypeStruct((10,), bool)], sparsity=0.8, loss_fn=loss_fn)[0].num_steps
      60

    Source: Progressive Skeletonization, sections 3 and 4 (exponential schedule). Deviation: the kept count is exact
    at every round.
    """
    search = saliency.iterative(
        saliency.still(loss_fn), mask=mask, sparsity=sparsity, num_rounds=rounds, revive=revive, invert=invert
    )
    return (search,) if finetune is None else (search, finetune)
