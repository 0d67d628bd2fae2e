"""RigL: trains a sparse network whose mask moves, dropping small weights and growing where gradients are large.

Source: Evci et al., Rigging the Lottery: Making All Tickets Winners, 2020.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rare_gems import masks
from rare_gems.phase import Context, Mask, Phase, Recipe, Scores, Step, Ticket
from rare_gems.pruners.parts.counts import counts_at, stop_step
from rare_gems.pruners.parts.finetune import finetune as train
from rare_gems.pruners.parts.moving_mask import evolve

__all__ = ["cosine_fraction", "gradient_size", "rigl"]


def rigl(
    mask: Mask,
    *,
    sparsity: float,
    num_epochs: int,
    steps_per_epoch: int,
    finetune: Phase | None = None,
    counts: Any = None,
    drop_fraction: float = 0.3,
    every: int = 100,
    stop: float = 0.75,
    ratios: Literal["uniform", "erk"] = "erk",
    learning_rate: float = 0.1,
    **training: Any,
) -> Recipe:
    """Starts from a random mask; after every `every` steps each layer drops and grows as many weights.

      drop the round(f_t k_l) lowest |w| of the k_l kept, grow the highest |dL/dw| of those not kept, from zero;
      f_t = drop_fraction (1 + cos(pi t / t_end)) / 2 while t < t_end = stop * steps

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      num_epochs, steps_per_epoch: the length of the search, which is a whole training.
      finetune: a last phase under the final mask, on the weights as they are then; None stops after the search.
      counts: how many weights each layer keeps, integers in the structure of `mask` that sum to the target, instead
        of `ratios`.
      every: steps from one change of the mask to the next
      drop_fraction: of a layer's kept weights at the first change; falls to 0 along a cosine
      stop: fraction of the search after which the mask stays
      ratios: layer ratios: equal, or Erdos-Renyi-kernel
      learning_rate, training: milestones, momentum, weight_decay, descent, loss_fn, as in `pruners.parts.finetune`.
    Returns:
      (edit, search) or (edit, search, finetune).
    Raises:
      ValueError: for a value outside its range, counts that do not sum to the target, and where a layer would be
        left without a weight.
    Example:
      >>> mask = [jax.ShapeDtypeStruct((30, 10), bool)]
      >>> _, search = rigl(mask, sparsity=0.9, num_epochs=10, steps_per_epoch=40)
      >>> search.num_steps, search.trains
      (400, 'params')

    Deviations: the optimizer's step is taken at updates too (the paper and jaxpruner skip it), with the gradient that
    growing looks at. A weight that is dropped and grows again at once stays as it was.
    With equal ratios the first layer is pruned as all others (the paper leaves it dense).
    """
    steps = num_epochs * steps_per_epoch
    if not 0 < stop <= 1:
        raise ValueError(f"stop: expected a fraction in (0, 1], got {stop}")
    return evolve(
        mask,
        sparsity=sparsity,
        counts=counts_at(mask, sparsity, ratios) if counts is None else counts,
        drop_fraction=drop_fraction,
        fraction=lambda zeta: cosine_fraction(zeta, stop_step(stop, steps)),
        grow=gradient_size,
        every=every,
        end=stop_step(stop, steps),
        training=train(num_epochs=num_epochs, steps_per_epoch=steps_per_epoch, learning_rate=learning_rate, **training),
        finetune=finetune,
        by_gradient=True,
    )


def cosine_fraction(drop_fraction: float | jax.Array, num_steps: float) -> Callable[[Step], jax.Array]:
    """step -> drop_fraction (1 + cos(pi (step + 1) / num_steps)) / 2, counted in steps done; 0 from `num_steps` on.

    Source: RigL, section 3.
    """

    def fraction(step: Step) -> jax.Array:
        share = jnp.minimum((jnp.asarray(step) + 1).astype(jnp.float32) / jnp.float32(num_steps), 1)
        return jnp.float32(drop_fraction / 2) * (1 + jnp.cos(jnp.float32(math.pi) * share))

    return fraction


def gradient_size(ticket: Ticket, context: Context) -> Scores:
    """|dL/dw|, the dense gradient, of the prunable weights."""
    return masks.map_kept(jnp.abs, context.grads, ticket.mask)
