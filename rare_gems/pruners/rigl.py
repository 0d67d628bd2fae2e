"""RigL: trains a sparse network whose mask moves, dropping small weights and growing where gradients are large.

Source: Evci et al., Rigging the Lottery: Making All Tickets Winners, 2020.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rare_gems import keep_ratios, masks, transforms, variants
from rare_gems.phase import Context, Mask, Phase, Recipe, Scores, Step, Ticket
from rare_gems.pruners.finetune import finetune as train
from rare_gems.pruners.random import random_scores
from rare_gems.pruners.saliency import target_counts

__all__ = ["cosine_fraction", "evolve", "gradient_size", "rigl"]


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
      counts: how many weights each layer keeps, integers in the structure of `mask` that sum to the target; by
        default equal keep ratios (`keep_ratios.uniform`).
      drop_fraction, every, stop: as above; `stop` is a fraction of the search.
      learning_rate, training: milestones, momentum, weight_decay, as in `pruners.finetune`.
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
    Layers have equal ratios by default (the paper also: the first dense; ERK).
    """
    steps = num_epochs * steps_per_epoch
    if not 0 < stop <= 1:
        raise ValueError(f"stop: expected a fraction in (0, 1], got {stop}")
    return evolve(
        mask, sparsity, counts, drop_fraction, lambda zeta: cosine_fraction(zeta, stop * steps), gradient_size, every,
        stop * steps,
        train(num_epochs=num_epochs, steps_per_epoch=steps_per_epoch, learning_rate=learning_rate, **training),
        finetune,
    )  # fmt: skip


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


def evolve(
    mask: Mask,
    sparsity: float,
    counts: Any,
    drop_fraction: float,
    fraction: Callable[[jax.Array], Callable[[Step], jax.Array]],
    grow: Callable[[Ticket, Context], Scores],
    every: int,
    end: float,
    training: Phase,
    finetune: Phase | None,
) -> Recipe:
    """A random mask at `counts`, then `training` with `transforms.drop_and_grow` after every `every` steps before
    the step `end`: what RigL and SET share. `fraction` makes of the drop fraction what it is at each step; the other
    arguments, errors and return are as in `rigl`."""
    target = target_counts(mask, sparsity)
    counts = keep_ratios.uniform(mask, target) if counts is None else counts
    if jax.tree.structure(counts) != jax.tree.structure(mask):
        raise ValueError(f"counts: expected the structure of mask {jax.tree.structure(mask)}, "
                         f"got {jax.tree.structure(counts)}")  # fmt: skip
    for (path, leaf), count in zip(jax.tree_util.tree_leaves_with_path(mask), jax.tree.leaves(counts), strict=True):
        if not 1 <= count <= math.prod(leaf.shape):
            raise ValueError(
                f"counts of {masks.path_name(path)}: expected an integer from 1 to {math.prod(leaf.shape)}, got {count}"
            )
    if sum(jax.tree.leaves(counts)) != target:
        raise ValueError(
            f"counts: expected a sum of {target} for sparsity {sparsity}, got {sum(jax.tree.leaves(counts))}"
        )
    if not 1 <= every < end:
        raise ValueError(
            f"every: expected a number of steps from 1 to below {end:g}, where the mask stops, got {every}"
        )
    if not 0 < drop_fraction < 1:
        raise ValueError(f"drop_fraction: expected a fraction in (0, 1), got {drop_fraction}")
    first_mask = transforms.edit(transforms.scores_from(random_scores), transforms.keep_top(counts, "layer"))
    move = transforms.when(
        lambda step: ((step + 1) % every == 0) & (step + 1 < math.ceil(end)),
        variants.transform(lambda zeta: transforms.drop_and_grow(fraction(zeta), grow), zeta=drop_fraction),
    )
    recipe = (first_mask, training._replace(during=move, name="search"))
    return recipe if finetune is None else (*recipe, finetune)
