"""Sparse momentum (SNFS): weights move to the layers and places where the smoothed gradient is large.

Source: Dettmers and Zettlemoyer, Sparse Networks from Scratch: Faster Training without Losing Performance, 2019.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rare_gems import masks, transforms
from rare_gems.phase import Context, Mask, Phase, Recipe, Rounds, Scores, Ticket, Transform
from rare_gems.pruners.parts.counts import counts_at, stop_step
from rare_gems.pruners.parts.finetune import finetune as train
from rare_gems.pruners.parts.moving_mask import check_moves, held, random_start, regrow
from rare_gems.pruners.parts.shares import share_out
from rare_gems.pruners.rigl import cosine_fraction
from rare_gems.training import hyperparams

__all__ = ["momentum_share", "snfs"]


def snfs(
    mask: Mask,
    *,
    sparsity: float,
    num_epochs: int,
    steps_per_epoch: int,
    finetune: Phase | None = None,
    counts: Any = None,
    drop_fraction: float = 0.5,
    every: int | None = None,
    stop: float = 1.0,
    smoothing: float = 0.9,
    ratios: Literal["uniform", "erk"] = "uniform",
    learning_rate: float = 0.1,
    **training: Any,
) -> Recipe:
    """Starts from a random mask; after every epoch weights go by size, and come back where the momentum is large.

      M = beta M + (1 - beta) dL/dw, dense, at every step;  layer l drops the round(p_t k_l) lowest |w| of its k_l;
      of all that were dropped it gets the share m_l / sum m, m_l = mean |M| over its kept weights before the drop,
      and grows its highest |M|, from zero;  p_t = p (1 + cos(pi t / t_end)) / 2 while t < t_end = stop * steps

    The number of weights is exact over the network; that of a layer follows the momentum, but for a last weight that
    stays. `ticket.scores` holds M.

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      num_epochs, steps_per_epoch: the length of the search, which is a whole training.
      finetune: a last phase under the final mask, on the weights as they are then; None stops after the search.
      counts: how many weights each layer keeps at first, integers in the structure of `mask` that sum to the target,
        instead of `ratios`.
      drop_fraction: of a layer's kept weights at first (p); falls to 0 along a cosine
      every: steps from one change of the mask to the next; None: an epoch
      stop: fraction of the search after which the mask stays
      smoothing: of the gradient (beta)
      ratios: layer ratios at first: equal, or Erdos-Renyi-kernel
      learning_rate, training: milestones, momentum, weight_decay, descent, loss_fn, as in `pruners.parts.finetune`.
    Returns:
      (edit, search) or (edit, search, finetune).
    Raises:
      ValueError: for a value outside its range, counts that do not sum to the target, and where a layer would be
        left without a weight.
    Example:
      >>> mask = [jax.ShapeDtypeStruct((30, 10), bool)]
      >>> _, search = snfs(mask, sparsity=0.9, num_epochs=10, steps_per_epoch=40)
      >>> search.num_steps, search.trains
      (400, 'params')

    Deviations: M is of its own, whatever the optimizer (theirs reads the buffer of SGD, in which weight decay is too,
    and fills the places that are not kept with the mean). Shares are exact: what a full layer cannot take goes to the
    others in proportion (their code spreads it evenly, and corrects the count over the next epochs). p falls to 0
    (there 0.005), and no layer drops its last weight. Their rule for layers that are nearly dense is left out.
    Devices that share a layer may sum |M| in another order, and so give it a weight more or less.
    """
    phase = train(num_epochs=num_epochs, steps_per_epoch=steps_per_epoch, learning_rate=learning_rate, **training)
    if not 0 < stop <= 1:
        raise ValueError(f"stop: expected a fraction in (0, 1], got {stop}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing: expected a number in [0, 1), got {smoothing}")
    every, end = steps_per_epoch if every is None else every, stop_step(stop, phase.num_steps)
    check_moves(every, end, drop_fraction=drop_fraction)
    counts = counts_at(mask, sparsity, ratios) if counts is None else counts
    first_mask = random_start(mask, sparsity, counts, lambda ticket, _: jax.tree.map(jnp.zeros_like, ticket.scores))

    def smooth(smoothing: jax.Array) -> Transform:
        return transforms.scores_from(lambda ticket, context: _smoothed(ticket, context, smoothing))

    search = phase._replace(
        during=hyperparams.transform(smooth, smoothing=float(smoothing)),
        rounds=Rounds(
            hyperparams.transform(lambda fraction: _move(fraction, end), fraction=drop_fraction),
            range(every, math.ceil(end), every),
        ),
        name="search",
    )
    recipe = (first_mask, search)
    return recipe if finetune is None else (*recipe, finetune)


def momentum_share(ticket: Ticket) -> jax.Array:
    """Mean |M| over each layer's kept weights, float32 [L] in leaf order; M lies in the scores."""

    def mean(scores: jax.Array, kept: jax.Array) -> jax.Array:
        total = jnp.sum(jnp.where(kept, jnp.abs(scores), 0).astype(jnp.float32))
        return total / jnp.maximum(jnp.sum(kept, dtype=jnp.int32), 1).astype(jnp.float32)

    return jnp.stack(jax.tree.leaves(jax.tree.map(mean, ticket.scores, ticket.mask)))


def _smoothed(ticket: Ticket, context: Context, smoothing: jax.Array) -> Scores:
    def mean(old: jax.Array, grad: jax.Array) -> jax.Array:
        beta = smoothing.astype(old.dtype)
        return beta * old + (1 - beta) * grad.astype(old.dtype)

    return jax.tree.map(mean, ticket.scores, masks.map_kept(lambda g: g, context.grads, ticket.mask))


def _move(drop_fraction: jax.Array, end: float) -> Transform:
    fraction_at = cosine_fraction(drop_fraction, end)

    def update(ticket: Ticket, state: tuple, context: Context) -> tuple[Ticket, tuple]:
        kept, share = held(ticket.mask), momentum_share(ticket)
        fraction = fraction_at(context.step)
        dropped = jax.tree.map(
            lambda k: jnp.minimum(jnp.round(fraction * k.astype(jnp.float32)).astype(jnp.int32), k - 1), kept
        )
        left = jax.tree.map(jnp.subtract, kept, dropped)
        stay = masks.keep_top(transforms.magnitude(ticket), left, "layer", ticket.mask)
        room = jnp.array([m.size for m in jax.tree.leaves(stay)], jnp.int32) - jnp.stack(jax.tree.leaves(left))
        grown = share_out(sum(jax.tree.leaves(dropped), jnp.int32(0)), share, room)
        grown = jax.tree.structure(stay).unflatten(list(grown))
        return regrow(ticket, stay, grown, jax.tree.map(jnp.abs, ticket.scores)), state

    return Transform(lambda ticket: (), update)
