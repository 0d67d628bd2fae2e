"""The gradient of a convolution's kernel on CPU: one matrix product, where XLA convolves with an image for a kernel."""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
from jax import lax

from rare_gems.models import onednn
from rare_gems.models.platforms import apart

__all__ = ["kernel_gradient"]


def kernel_gradient(
    x: jax.Array, g: jax.Array, size: tuple[int, int], stride: int, padding: tuple[int, int]
) -> jax.Array:
    """dk[u, v, c, o] = sum_{n, i, j} x[n, i s + u - p, j s + v - p, c] g[n, i, j, o], as one matrix product."""
    (rows, columns), (top, left) = size, padding
    inputs, (high, wide, outputs) = x.shape[3], g.shape[1:]
    if stride > 1:
        x = jnp.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))
        down, across = stride * (high - 1) + 1, stride * (wide - 1) + 1
        windows = [x[:, u : u + down : stride, v : v + across : stride] for u in range(rows) for v in range(columns)]
        dk = _over_pixels(jnp.concatenate(windows, -1), g)
        return dk.reshape(rows, columns, inputs, outputs)
    # Columns of x are shifted, and rows of g: u + v copies instead of u v, and a product that is nearly square.
    if x.shape[1:3] == g.shape[1:3]:
        x = _beside(x, 2, tuple(left - v for v in range(columns)))
        g = _beside(g, 1, tuple(u - top for u in range(rows)))
    else:
        x = jnp.pad(x, ((0, 0), (0, 0), (left, left), (0, 0)))
        x = jnp.concatenate([x[:, :, v : v + wide] for v in range(columns)], -1)
        rest = rows - 1 - top
        g = jnp.pad(g, ((0, 0), (rest, rest), (0, 0), (0, 0)))
        g = jnp.concatenate([g[:, rows - 1 - u : rows - 1 - u + x.shape[1]] for u in range(rows)], -1)
    return _over_pixels(x, g).reshape(columns, inputs, rows, outputs).transpose(2, 0, 1, 3)


def _beside(x: jax.Array, axis: int, shifts: tuple[int, ...]) -> jax.Array:
    """Copies of x side by side in its last axis, each shifted along an axis, with zeros where nothing comes from."""
    return x if shifts == (0,) else apart(_copies(axis, shifts), x)


@cache
def _copies(axis: int, shifts: tuple[int, ...]) -> Callable[[jax.Array], jax.Array]:
    # Concatenated with zeros, since XLA makes two passes of a padded array and its slices.

    def shifted(x: jax.Array, by: int) -> jax.Array:
        by = max(-x.shape[axis], min(by, x.shape[axis]))
        zeros = jnp.zeros_like(lax.slice_in_dim(x, 0, abs(by), axis=axis))
        kept = lax.slice_in_dim(x, max(-by, 0), x.shape[axis] - max(by, 0), axis=axis)
        return lax.concatenate([zeros, kept] if by > 0 else [kept, zeros], axis)

    return lambda x: jnp.concatenate([shifted(x, by) if by else x for by in shifts], -1)


def _over_pixels(x: jax.Array, g: jax.Array) -> jax.Array:
    """Sum over all but the last axes of x[..., c] g[..., o]."""
    x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])  # with three axes to sum over, XLA copies both
    if onednn.is_usable(x.dtype, x.size * g.shape[1]):
        return onednn.product(x, g, _product_over_rows)
    return _product_over_rows(x, g)


def _product_over_rows(x: jax.Array, g: jax.Array) -> jax.Array:
    return lax.dot_general(x, g, (((0,), (0,)), ((), ())))
