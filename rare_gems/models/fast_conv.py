"""Convolutions whose gradients are fast on CPU; elsewhere they are the plain XLA convolution."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["conv2d"]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0) -> jax.Array:
    if jax.default_backend() != "cpu":
        return _plain(x, kernel, stride, padding)
    return _fast(x, kernel, stride, padding)


def _plain(x, kernel, stride, padding):
    pad = (padding, padding)
    return lax.conv_general_dilated(x, kernel, (stride, stride), (pad, pad), dimension_numbers=_DIMENSIONS)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _fast(x, kernel, stride, padding):
    return _forward(x, kernel, stride, padding)


def _save(x, kernel, stride, padding):
    return _forward(x, kernel, stride, padding), (x, kernel)


def _pull(stride, padding, saved, g):
    # Without the barriers XLA fuses what made x and g into the transposes that the kernel's gradient starts
    # with, and such a fusion computes everything again, element by element in the wrong order.
    x, kernel = saved
    x, g = lax.optimization_barrier((x, g))
    _, pull = jax.vjp(lambda k: _plain(x, k, stride, padding), kernel)
    (dk,) = pull(g)
    if stride == 1 and kernel.shape[0] == 2 * padding + 1:
        dx = _forward(g, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), 1, padding)
    else:
        _, pull = jax.vjp(lambda x: _plain(x, kernel, stride, padding), x)
        (dx,) = pull(g)
    return dx, dk


_fast.defvjp(_save, _pull)


def _forward(x, kernel, stride, padding):
    size, _, inputs, outputs = kernel.shape
    pairs = size == 3 and stride == 1 and padding == 1 and x.shape[2] % 2 == 0 and inputs <= 16 and outputs <= 16
    return _pairs(x, kernel) if pairs and inputs > 3 else _plain(x, kernel, stride, padding)


def _pairs(x, kernel):
    """The 3x3 convolution as one of size 3x2 over pairs of neighbouring columns, with twice the channels.

    Outputs 2j and 2j + 1 need columns 2j - 1 to 2j + 2, which are two pairs once one column is padded.
    """
    batch, height, width, inputs = x.shape
    outputs = kernel.shape[3]
    x = x.reshape(batch, height, width * inputs)
    x = jnp.pad(x, ((0, 0), (0, 0), (inputs, inputs)))
    x = lax.optimization_barrier(x.reshape(batch, height, width // 2 + 1, 2 * inputs))
    wide = [jnp.pad(kernel, ((0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in (0, 1)]
    kernel = jnp.concatenate(wide, -1).reshape(3, 2, 2 * inputs, 2 * outputs)
    y = lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (0, 0)), dimension_numbers=_DIMENSIONS)
    return y.reshape(batch, height, width, outputs)
