"""What RigL and SET share: a mask that drops and grows weights while it trains."""

import math
from collections.abc import Callable
from typing import Any

import jax

from rare_gems import masks, transforms
from rare_gems.phase import Context, Mask, Phase, Recipe, Scores, Step, Ticket
from rare_gems.pruners.parts.counts import target_counts
from rare_gems.pruners.parts.random_scores import random_scores
from rare_gems.training import hyperparams

__all__ = ["evolve"]


def evolve(
    mask: Mask,
    *,
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
    """Draws a random mask at `counts`, then trains and moves it by `transforms.drop_and_grow`: RigL and SET.

    Args:
      fraction: drop fraction -> step -> the fraction at that step. grow: scores by which weights grow.
      every: steps from one move to the next. end: the step from which the mask stays.
      training: the phase that trains the weights. The others: as in `rigl.rigl`.
    Returns:
      (edit, search) or (edit, search, finetune).
    Raises:
      ValueError: as `rigl.rigl`.
    """
    target = target_counts(mask, sparsity)
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
        hyperparams.transform(lambda zeta: transforms.drop_and_grow(fraction(zeta), grow), zeta=drop_fraction),
    )
    recipe = (first_mask, training._replace(during=move, name="search"))
    return recipe if finetune is None else (*recipe, finetune)
