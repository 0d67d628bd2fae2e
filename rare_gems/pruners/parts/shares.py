"""Shares out a traced number of weights among layers, in whole numbers: exact, whatever the floats round to."""

import jax
import jax.numpy as jnp

__all__ = ["share_out", "whole"]


def share_out(total: jax.Array, weights: jax.Array, most: jax.Array) -> jax.Array:
    """Shares `total` out in proportion to `weights`; what a layer has no room for goes to the others.

      share_l = min(most_l, t weight_l), with the t for which they sum to `total`, made whole (see `whole`)

    Args:
      total: int32, from 0; above the sum of `most` everything is full. weights: float32 [L], 0 or more.
      most: int32 [L].
    Returns:
      int32 [L]. Layers of no weight get something only where all others are full, by their room.
    Example:
      >>> jax.jit(share_out)(jnp.int32(8), jnp.array([2.0, 1.0, 1.0]), jnp.array([3, 9, 9])).tolist()
      [3, 3, 2]
    """
    room = most.astype(jnp.float32)
    total = jnp.minimum(total, jnp.sum(most))
    weights = weights / jnp.maximum(jnp.sum(weights), jnp.finfo(jnp.float32).tiny)
    weights = weights + jnp.float32(1e-9) * room / jnp.maximum(jnp.sum(room), 1) + jnp.finfo(jnp.float32).tiny
    knots = jnp.concatenate([jnp.zeros(1), jnp.sort(room / weights)])  # where a layer is full
    full = jnp.sum(jnp.minimum(room[None], knots[:, None] * weights[None]), axis=1)
    factor = jnp.interp(total.astype(jnp.float32), full, knots)
    return whole(jnp.minimum(room, factor * weights), most, total)


def whole(shares: jax.Array, most: jax.Array, total: jax.Array, least: int = 0) -> jax.Array:
    """Integers near the shares, from `least` to `most`, that sum to `total`: the next to whom most is owed.

    Args:
      shares: float32 [L]. most: int32 [L]. total: int32, within what `least` and `most` allow.
    Returns:
      int32 [L].
    Example:
      >>> jax.jit(whole)(jnp.array([1.6, 1.6, 0.8]), jnp.array([3, 3, 3]), jnp.int32(4)).tolist()
      [2, 1, 1]
    """

    def move(counts: jax.Array) -> jax.Array:
        short = shares - counts.astype(jnp.float32)
        up = jnp.argmax(jnp.where(counts < most, short, -jnp.inf))
        down = jnp.argmin(jnp.where(counts > least, short, jnp.inf))
        return jnp.where(counts.sum() < total, counts.at[up].add(1), counts.at[down].add(-1))

    start = jnp.clip(jnp.floor(shares).astype(jnp.int32), least, most)
    return jax.lax.while_loop(lambda counts: counts.sum() != total, move, start)
