"""Straight-through estimators: discrete masks forward, the identity backward. Pure and jit-compiled.

NumPy's float64 is refused where JAX would cut it.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rare_gems.leaves import as_jax

__all__ = ["chosen", "drawn", "mask_of", "masked", "round_half"]


def round_half(scores: ArrayLike) -> jax.Array:
    """r(p) = 1[p >= 0.5], with dr/dp taken as 1 everywhere, also where p sits at 0 or 1.

    Args:
      scores: float, any shape.
    Returns:
      0.0 or 1.0 in the dtype of `scores`.
    Example:
      >>> round_half(jnp.array([0.2, 0.5, 1.0])).tolist()
      [0.0, 1.0, 1.0]
      >>> jax.grad(lambda p: (3 * round_half(p)).sum())(jnp.array([0.2, 1.0])).tolist()
      [3.0, 3.0]

    Source: Rare Gems, section 3. Deviation from the reference code: it keeps p > 0.5.
    """
    return _round_half(as_jax("scores", scores))


@jax.custom_jvp
@jax.jit
def _round_half(scores: jax.Array) -> jax.Array:
    return (scores >= 0.5).astype(scores.dtype)


@_round_half.defjvp
def _round_half_jvp(primals, tangents):
    return _round_half(*primals), tangents[0]


def drawn(scores: ArrayLike, noise: ArrayLike) -> jax.Array:
    """r(p) = 1[u < p], a draw from Bernoulli(p) if u ~ U[0, 1), with dr/dp taken as 1.

    Args:
      scores: p, float in [0, 1], the probability of keeping each weight. noise: u, same shape.
    Returns:
      0.0 or 1.0 in the dtype of `scores`.
    Source: Rare Gems, section 3 (randomised rounding); Zhou et al., Deconstructing Lottery Tickets.
    """
    return _drawn(as_jax("scores", scores), as_jax("noise", noise))


@jax.custom_jvp
@jax.jit
def _drawn(scores: jax.Array, noise: jax.Array) -> jax.Array:
    return (noise < scores).astype(scores.dtype)


@_drawn.defjvp
def _drawn_jvp(primals, tangents):
    return _drawn(*primals), tangents[0]


def mask_of(scores: ArrayLike, mask: ArrayLike) -> jax.Array:
    """The mask as numbers, with d(mask)/d|s| taken as 1: the gradient is sign(s) times the incoming one.

    Args:
      scores: float; mask: bool, chosen from them (for example the top k of |s|).
    Returns:
      0.0 or 1.0 in the dtype of `scores`.
    Source: edge-popup (Ramanujan et al.), whose straight-through estimator passes through |s|.
    """
    return _mask_of(as_jax("scores", scores), mask)


@jax.custom_jvp
@jax.jit
def _mask_of(scores: jax.Array, mask: jax.Array) -> jax.Array:
    return mask.astype(scores.dtype)


@_mask_of.defjvp
def _mask_of_jvp(primals, tangents):
    scores, _ = primals
    return _mask_of(*primals), tangents[0] * jnp.sign(scores)


def chosen(scores: ArrayLike, mask: ArrayLike) -> jax.Array:
    """The mask as numbers, with d(mask)/ds taken as 1, whatever the sign of s.

    Args:
      scores: float; mask: bool, chosen from them (for example the top k of s).
    Returns:
      0.0 or 1.0 in the dtype of `scores`.
    Example:
      >>> scores, mask = jnp.array([-2.0, 3.0]), jnp.array([False, True])
      >>> jax.grad(lambda s: (5 * chosen(s, mask)).sum())(scores).tolist()
      [5.0, 5.0]

    Source: Lottery Jackpots, Eq. 6.
    """
    return _chosen(as_jax("scores", scores), mask)


@jax.custom_jvp
@jax.jit
def _chosen(scores: jax.Array, mask: jax.Array) -> jax.Array:
    return mask.astype(scores.dtype)


@_chosen.defjvp
def _chosen_jvp(primals, tangents):
    return _chosen(*primals), tangents[0]


def masked(weights: ArrayLike, mask: jax.Array) -> jax.Array:
    """w * m, with the derivative in w taken as 1 everywhere, so that removed weights go on training.

    Args:
      weights: float; mask: bool, same shape, for example the top k of |w|.
    Returns:
      an array like `weights`, 0 where the mask is False.
    Example:
      >>> weights, mask = jnp.array([-2.0, 3.0]), jnp.array([False, True])
      >>> jax.grad(lambda w: (5 * masked(w, mask)).sum())(weights).tolist()
      [5.0, 5.0]

    Source: Zhou et al., Learning N:M Fine-grained Structured Sparse Neural Networks, Eq. 4; Lin et al., Dynamic Model
    Pruning with Feedback.
    """
    return _masked(as_jax("weights", weights), mask)


@jax.custom_jvp
@jax.jit
def _masked(weights: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, weights, jnp.zeros((), weights.dtype))


@_masked.defjvp
def _masked_jvp(primals, tangents):
    return _masked(*primals), tangents[0]
