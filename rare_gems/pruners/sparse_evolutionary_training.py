"""SET: trains a sparse network whose mask moves at random, away from its smallest weights.

Source: Mocanu et al., Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity, 2018.
"""

from typing import Any, Literal

from rare_gems.phase import Mask, Phase, Recipe
from rare_gems.pruners.parts.counts import counts_at, stop_step
from rare_gems.pruners.parts.finetune import finetune as train
from rare_gems.pruners.parts.moving_mask import evolve
from rare_gems.pruners.parts.random_scores import random_scores

__all__ = ["sparse_evolutionary_training"]


def sparse_evolutionary_training(
    mask: Mask,
    *,
    sparsity: float,
    num_epochs: int,
    steps_per_epoch: int,
    finetune: Phase | None = None,
    counts: Any = None,
    drop_fraction: float = 0.3,
    every: int | None = None,
    stop: float = 1.0,
    ratios: Literal["uniform", "erk"] = "erk",
    learning_rate: float = 0.1,
    **training: Any,
) -> Recipe:
    """Starts from a random mask; after every epoch each layer drops its smallest weights and grows as many at random.

      drop the round(zeta k_l) lowest |w| of the k_l kept, grow as many of those not kept, uniformly, from zero

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      num_epochs, steps_per_epoch: the length of the search, which is a whole training.
      finetune: a last phase under the final mask, on the weights as they are then; None stops after the search.
      counts: how many weights each layer keeps, integers in the structure of `mask` that sum to the target, instead
        of `ratios`.
      every: steps from one change of the mask to the next; None: an epoch
      drop_fraction: of a layer's kept weights at each change (zeta)
      stop: fraction of the search after which the mask stays, so that the last weights grown are trained
      ratios: layer ratios: equal, or Erdos-Renyi-kernel
      learning_rate, training: milestones, momentum, weight_decay, descent, loss_fn, as in `pruners.parts.finetune`.
    Returns:
      (edit, search) or (edit, search, finetune).
    Raises:
      ValueError: as `pruners.rigl.rigl`.
    Example:
      >>> import jax
      >>> mask = [jax.ShapeDtypeStruct((30, 10), bool)]
      >>> _, search = sparse_evolutionary_training(mask, sparsity=0.9, num_epochs=10, steps_per_epoch=40)
      >>> search.num_steps, search.trains
      (400, 'params')

    Deviations: the lowest |w| go (the paper removes the same share of the positive and of the negative weights).
    Grown weights start from zero (there: as at initialization).
    """
    if not 0 < stop <= 1:
        raise ValueError(f"stop: expected a fraction in (0, 1], got {stop}")
    phase = train(num_epochs=num_epochs, steps_per_epoch=steps_per_epoch, learning_rate=learning_rate, **training)
    every = steps_per_epoch if every is None else every
    return evolve(
        mask,
        sparsity=sparsity,
        counts=counts_at(mask, sparsity, ratios) if counts is None else counts,
        drop_fraction=drop_fraction,
        fraction=lambda zeta: lambda step: zeta,
        grow=random_scores,
        every=every,
        end=stop_step(stop, phase.num_steps),
        training=phase,
        finetune=finetune,
    )
