"""Batch normalization, shortcut and ReLU in few passes over memory, with a gradient of their own."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from rare_gems.leaves import wide
from rare_gems.models.platforms import apart, platform

__all__ = ["batch_normalize", "exact", "normalize"]

Vector = jax.Array | None


def normalize(
    x: jax.Array,
    shortcut: jax.Array | None,
    mean: jax.Array,
    var: jax.Array,
    scale: Vector,
    bias: Vector,
    eps: float,
    relu: bool,
) -> jax.Array:
    """Normalize by given statistics: y = (x - mean) / sqrt(var + eps) * scale + bias + shortcut, then ReLU.

    Args:
      x: [..., features], float.
      shortcut: as x, or None to add nothing.
      mean: [features], float32.
      var: [features], float32.
      scale: [features], float32, or None for 1.
      bias: [features], float32, or None for 0.
      eps: added to the variance.
      relu: whether negative values become zero.

    Returns:
      y, of x's shape and dtype; float32 inside, float64 where x is.

    Example:
      >>> normalize(jnp.ones((1, 2)), None, jnp.zeros(2), jnp.full(2, 4.0), None, None, 0.0, False).tolist()
      [[0.5, 0.5]]
    """
    factor = lax.rsqrt(var + eps) if scale is None else lax.rsqrt(var + eps) * scale
    return apart(_relu if relu else _linear, x, shortcut, mean, factor, bias)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def batch_normalize(
    x: jax.Array, shortcut: jax.Array | None, scale: Vector, bias: Vector, eps: float, relu: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalize by the statistics of the batch, over all axes but the last.

    The variance is the mean of (x - c)^2 less (mean - c)^2, at least 0, with c the first value of the batch: one pass
    instead of two, as in Flax (where c is 0, which loses digits where a mean is large against its deviation).

    Args:
      x, shortcut, scale, bias, eps, relu: as in `normalize`.

    Returns:
      y (see `normalize`), mean and biased variance of the batch, float32 [features], without gradient.
      `jax.jvp` does not reach through this function; it does through its `jax.grad`.

    Example:
      >>> y, mean, var = batch_normalize(jnp.asarray([[1.0], [3.0]]), None, None, None, 0.0, True)
      >>> y.ravel().tolist(), mean.item(), var.item()
      ([0.0, 1.0], 2.0, 1.0)
    """
    return _save(x, shortcut, scale, bias, eps, relu)[0]


def _save(x, shortcut, scale, bias, eps, relu):  # type: ignore
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    first = exact(x[(0,) * len(axes)])  # a value of each feature, so that squares are of deviations and do not cancel
    deviation = exact(x) - _wide(first, x)
    total, squares = _sums(deviation, deviation * deviation)
    shift = total / count
    mean, var = first + shift, jnp.maximum(squares / count - shift * shift, 0)
    y = normalize(x, shortcut, mean, var, scale, bias, eps, relu)
    return (y, mean, var), (x, y if relu else None, mean, var, shortcut is None, scale, bias)


def _pull(eps, relu, saved, cotangents):  # type: ignore
    x, y, mean, var, no_shortcut, scale, bias = saved
    count = x.size // x.shape[-1]
    g = cotangents[0]
    g = lax.select(y > 0, g, lax.full_like(g, 0)) if relu else g
    inverse = lax.rsqrt(var + eps)
    precise = exact(g)
    total, along = _sums(precise, precise * (exact(x) - _wide(mean, x)))
    along = inverse * along  # sum of g (x - mean) / std
    factor = inverse if scale is None else inverse * scale
    dx = apart(_centre, g, x, total / count, mean, inverse * along / count, factor)
    return dx, None if no_shortcut else g, None if scale is None else along, None if bias is None else total


batch_normalize.defvjp(_save, _pull)


def _sums(a: jax.Array, b: jax.Array) -> jax.Array | tuple[jax.Array, jax.Array]:
    """The sums of both over all axes but the last.

    On GPUs over places first, then over images, the latter of both together: XLA makes a kernel of each in turn of sums
    by themselves. A TPU takes both sums in one pass as they are.
    """
    if platform() != "gpu" or a.ndim < 3:
        axes = tuple(range(a.ndim - 1))
        return a.sum(axes), b.sum(axes)
    places = tuple(range(1, a.ndim - 1))
    return jnp.stack([a.sum(places), b.sum(places)]).sum(1)


def _wide(vector: jax.Array, x: jax.Array) -> jax.Array:
    return lax.broadcast_in_dim(vector, x.shape, (x.ndim - 1,))


def _linear(x: jax.Array, shortcut: jax.Array | None, mean: jax.Array, factor: jax.Array, bias: Vector) -> jax.Array:
    y = (exact(x) - _wide(mean, x)) * _wide(factor, x)
    y = y if bias is None else y + _wide(bias, x)
    return (y if shortcut is None else y + shortcut.astype(y.dtype)).astype(x.dtype)


def _relu(x: jax.Array, shortcut: jax.Array | None, mean: jax.Array, factor: jax.Array, bias: Vector) -> jax.Array:
    y = _linear(x, shortcut, mean, factor, bias)
    return lax.max(y, lax.full_like(y, 0))


def _centre(
    g: jax.Array, x: jax.Array, shift: jax.Array, mean: jax.Array, slope: jax.Array, factor: jax.Array
) -> jax.Array:
    deviation = exact(x) - _wide(mean, x)
    centred = exact(g) - _wide(shift, x) - deviation * _wide(slope, x)
    return (centred * _wide(factor, x)).astype(x.dtype)


def exact(x: jax.Array) -> jax.Array:
    """x in float32, or in float64 where it is that already: SynFlow runs networks in float64."""
    return x.astype(wide(x.dtype))
