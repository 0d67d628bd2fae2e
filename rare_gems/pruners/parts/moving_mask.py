"""What methods share whose mask drops and grows weights while it trains (RigL, SET, Deep R, sparse momentum, DSR)."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rare_gems import masks, transforms
from rare_gems.phase import Context, Mask, Phase, Recipe, Rounds, Scores, Step, Ticket
from rare_gems.pruners.parts.counts import check_whole, target_counts
from rare_gems.pruners.parts.random_scores import random_scores
from rare_gems.structures import check_structure
from rare_gems.training import hyperparams

__all__ = ["check_moves", "evolve", "held", "random_start", "regrow"]


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
    by_gradient: bool = False,
) -> Recipe:
    """Draws a random mask at `counts`, then trains and moves it by `transforms.drop_and_grow`: RigL and SET.

    Args:
      fraction: drop fraction -> step -> the fraction at that step. grow: scores by which weights grow.
      every: steps from one move to the next. end: the step from which the mask stays.
      training: the phase that trains the weights. by_gradient: whether `grow` looks at the gradient of a step, so that
        the mask moves within it rather than between steps. The others: as in `rigl.rigl`.
    Returns:
      (edit, search) or (edit, search, finetune).
    Raises:
      ValueError: as `rigl.rigl`.
    """
    first_mask = random_start(mask, sparsity, counts)
    check_moves(every, end, drop_fraction=drop_fraction)
    move = hyperparams.transform(lambda zeta: transforms.drop_and_grow(fraction(zeta), grow), zeta=drop_fraction)
    if by_gradient:
        is_due = lambda step: ((step + 1) % every == 0) & (step + 1 < math.ceil(end))  # noqa: E731
        search = training._replace(during=transforms.when(is_due, move), name="search")
    else:
        search = training._replace(rounds=Rounds(move, range(every, math.ceil(end), every)), name="search")
    recipe = (first_mask, search)
    return recipe if finetune is None else (*recipe, finetune)


def random_start(
    mask: Mask, sparsity: float, counts: Any, score: Callable[[Ticket, Context], Scores] | None = None
) -> Phase:
    """An edit that draws a random mask which keeps `counts` of each layer.

    Args:
      counts: a tree of integers like `mask`, that sum to the target. score: what the scores become after the draw;
        by default they stay those of the draw.
    Raises:
      ValueError: for counts of another structure, below 1 or above their layer's size, or of another sum.
    """
    target = target_counts(mask, sparsity)
    check_structure("counts", counts, mask, "mask")
    for (path, leaf), count in zip(jax.tree_util.tree_leaves_with_path(mask), jax.tree.leaves(counts), strict=True):
        if not 1 <= count <= math.prod(leaf.shape):
            raise ValueError(
                f"counts of {masks.path_name(path)}: expected an integer from 1 to {math.prod(leaf.shape)}, got {count}"
            )
    if sum(jax.tree.leaves(counts)) != target:
        raise ValueError(
            f"counts: expected a sum of {target} for sparsity {sparsity}, got {sum(jax.tree.leaves(counts))}"
        )
    after = [] if score is None else [transforms.scores_from(score)]
    return transforms.edit(transforms.scores_from(random_scores), transforms.keep_top(counts, "layer"), *after)


def check_moves(every: int, end: float, **fractions: float) -> None:
    """Raises ValueError unless 1 <= every < end (in steps), and the fractions lie in (0, 1), naming what does not."""
    check_whole(every=every)
    if not 1 <= every < end:
        raise ValueError(
            f"every: expected a number of steps from 1 to below {end:g}, where the mask stops, got {every}"
        )
    for name, fraction in fractions.items():
        if not 0 < fraction < 1:
            raise ValueError(f"{name}: expected a fraction in (0, 1), got {fraction}")


def held(mask: Mask) -> Any:
    """How many weights each layer keeps: a tree of int32 scalars."""
    return jax.tree.map(lambda m: jnp.sum(m, dtype=jnp.int32), mask)


def regrow(ticket: Ticket, stay: Mask, grown: Any, scores: Scores) -> Ticket:
    """The ticket with what stays of its mask, and in each layer the `grown` highest scores of the rest, from zero.

    What grows although the mask had it keeps its value, as in `transforms.drop_and_grow`.

    Args:
      stay: a part of the ticket's mask. grown: a tree of integers, traced or not; no more than there is room for.
    """
    new = masks.keep_top(scores, grown, "layer", jax.tree.map(jnp.logical_not, stay))
    mask = jax.tree.map(jnp.logical_or, stay, new)
    older = jax.tree.map(jnp.logical_and, mask, ticket.mask)
    return ticket._replace(params=masks.apply(ticket.params, older), mask=mask)
