"""Dynamic sparse reparameterization (DSR): weights below one adaptive threshold move to where others survive it.

Source: Mostafa and Wang, Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic Sparse
Reparameterization, 2019.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rare_gems import masks, transforms
from rare_gems.phase import Context, Mask, Phase, Recipe, Rounds, Ticket, Transform
from rare_gems.pruners.parts.counts import check_whole, counts_at, stop_step, target_counts
from rare_gems.pruners.parts.finetune import finetune as train
from rare_gems.pruners.parts.moving_mask import check_moves, held, random_start, regrow
from rare_gems.pruners.parts.random_scores import random_scores
from rare_gems.pruners.parts.shares import share_out
from rare_gems.training import hyperparams

__all__ = ["dsr", "next_threshold"]


def dsr(
    mask: Mask,
    *,
    sparsity: float,
    num_epochs: int,
    steps_per_epoch: int,
    finetune: Phase | None = None,
    counts: Any = None,
    moved: float = 0.1,
    threshold: float = 1e-3,
    tolerance: float = 0.1,
    every: int = 100,
    doublings: int = 0,
    stop: float = 0.95,
    ratios: Literal["uniform", "erk"] = "uniform",
    learning_rate: float = 0.1,
    **training: Any,
) -> Recipe:
    """Starts from a random mask; after every `every` steps small weights go, and as many come back at random.

      layer l drops its weights |w| < H;  of the K that were dropped in all it gets the share L_l / sum L, L_l being how
      many it has left, and grows them at random places, from zero;
      H = 2 H if K < (1 - delta) K_p, H / 2 if K > (1 + delta) K_p, with K_p = moved * number kept

    The number of weights is exact over the network; that of a layer follows what survives the threshold.

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      num_epochs, steps_per_epoch: the length of the search, which is a whole training.
      finetune: a last phase under the final mask, on the weights as they are then; None stops after the search.
      counts: how many weights each layer keeps at first, integers in the structure of `mask` that sum to the target,
        instead of `ratios`.
      moved: fraction of the kept weights that a change should move; the threshold follows it
      threshold: under which weights are dropped at the first change (H)
      tolerance: how far from `moved` the threshold lets it stray, as a fraction of it (delta)
      every: steps from one change of the mask to the next, at first
      doublings: how often `every` doubles, at equal parts of the search (3: after each quarter)
      stop: fraction of the search after which the mask stays
      ratios: layer ratios at first: equal, or Erdos-Renyi-kernel
      learning_rate, training: milestones, momentum, weight_decay, descent, loss_fn, as in `pruners.parts.finetune`.
    Returns:
      (edit, search) or (edit, search, finetune).
    Raises:
      ValueError: for a value outside its range, counts that do not sum to the target, and where a layer would be
        left without a weight.
    Example:
      >>> mask = [jax.ShapeDtypeStruct((30, 10), bool)]
      >>> _, search = dsr(mask, sparsity=0.9, num_epochs=10, steps_per_epoch=40)
      >>> search.num_steps, search.trains
      (400, 'params')

    Source: its Algorithm 1. Deviations: the largest weight of a layer stays, whatever the threshold. Shares are exact,
    and what a full layer cannot take goes to the others in proportion (the code hands what rounding leaves to a random
    layer). K_p is a fraction, not a number of weights. All layers take part (there the first, and the linear ones on
    CIFAR-10, are dense: `--dense`).
    """
    phase = train(num_epochs=num_epochs, steps_per_epoch=steps_per_epoch, learning_rate=learning_rate, **training)
    if not 0 < stop <= 1:
        raise ValueError(f"stop: expected a fraction in (0, 1], got {stop}")
    if not 0 < threshold < math.inf:
        raise ValueError(f"threshold: expected a positive number, got {threshold}")
    check_whole(doublings=doublings)
    end = stop_step(stop, phase.num_steps)
    first_mask = random_start(mask, sparsity, counts_at(mask, sparsity, ratios) if counts is None else counts)
    check_moves(every, end, moved=moved, tolerance=tolerance)
    part = max(1, -(-phase.num_steps // (doublings + 1)))
    due = tuple(done for done in range(1, math.ceil(end)) if done % (every << min(done // part, doublings)) == 0)
    numbers = {
        "threshold": float(threshold),
        "wanted": float(moved * target_counts(mask, sparsity)),
        "tolerance": float(tolerance),
    }
    rounds = Rounds(hyperparams.transform(_move, **numbers), due)
    recipe = (first_mask, phase._replace(rounds=rounds, name="search"))
    return recipe if finetune is None else (*recipe, finetune)


def next_threshold(threshold: jax.Array, moved: jax.Array, wanted: jax.Array, tolerance: jax.Array) -> jax.Array:
    """Twice the threshold where too few weights moved, half of it where too many did, else the threshold.

    Example:
      >>> wanted, tolerance = jnp.float32(100), jnp.float32(0.1)
      >>> [float(next_threshold(jnp.float32(1), jnp.int32(k), wanted, tolerance)) for k in (89, 95, 111)]
      [2.0, 1.0, 0.5]
    """
    share = moved.astype(jnp.float32) / wanted
    return threshold * jnp.where(share < 1 - tolerance, 2.0, jnp.where(share > 1 + tolerance, 0.5, 1.0))


def _move(threshold: jax.Array, wanted: jax.Array, tolerance: jax.Array) -> Transform:
    def update(ticket: Ticket, state: jax.Array, context: Context) -> tuple[Ticket, jax.Array]:
        kept, size = held(ticket.mask), transforms.magnitude(ticket)
        above = jax.tree.map(lambda m, s: m & (s >= state.astype(s.dtype)), ticket.mask, size)
        left = jax.tree.map(lambda m: jnp.maximum(jnp.sum(m, dtype=jnp.int32), 1), above)
        stay = masks.keep_top(size, left, "layer", ticket.mask)
        survivors, before = (jnp.stack(jax.tree.leaves(tree)) for tree in (left, kept))
        room = jnp.array([m.size for m in jax.tree.leaves(stay)], jnp.int32) - survivors
        moved = jnp.sum(before - survivors)
        grown = jax.tree.structure(stay).unflatten(list(share_out(moved, survivors.astype(jnp.float32), room)))
        ticket = regrow(ticket, stay, grown, random_scores(ticket, context))
        return ticket, next_threshold(state, moved, wanted, tolerance)

    return Transform(lambda ticket: threshold, update)
