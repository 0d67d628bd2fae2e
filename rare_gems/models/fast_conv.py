"""Convolutions that are fast on CPU; elsewhere they are plain XLA operations.

XLA's CPU compiler (seen in jaxlib 0.10 to 0.12) loses time in three ways that this file works around: its convolutions
take two to three times as long as oneDNN's (which `onednn` calls where a program asks for it), most of all those of 16
channels or fewer and those over maps of 2x2 pixels; and it computes a kernel's gradient as a convolution with an image
for a kernel (`kernel_gradient`).
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from rare_gems.models import onednn
from rare_gems.models.kernel_gradient import kernel_gradient
from rare_gems.models.platforms import apart, platform

__all__ = ["conv2d"]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int | tuple[int, int] = 0) -> jax.Array:
    """Convolve windows, y[n, i, j, o] = sum_{u, v, c} x[n, i s + u - p, j s + v - p, c] k[u, v, c, o].

    Equal to `lax.conv_general_dilated` within rounding, and that very operation where the default backend is
    not the CPU. There the gradient of an ungrouped convolution is its own, so `jax.jvp` and `jax.linearize` do
    not reach through it; `jax.grad`, `jax.vjp` and forward over reverse (`jax.jvp` of `jax.grad`) do.

    Args:
      x: [batch, height, width, inputs].
      kernel: [rows, columns, inputs / groups, outputs], of x's dtype; with fewer inputs than x has channels, these are
        split into groups that do not see each other (as many as channels: depthwise).
      stride: step s between windows in both directions.
      padding: zero rows and columns p added on both sides, one number or (rows, columns).

    Returns:
      [batch, (height + 2 p - rows) // s + 1, (width + 2 p - columns) // s + 1, outputs], of x's dtype.

    Raises:
      ValueError: if the kernel does not fit x's channels.

    Example:
      >>> conv2d(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), padding=1)[0, :, :, 0].tolist()[0]
      [4.0, 6.0, 6.0, 4.0]
    """
    if (
        kernel.ndim != 4
        or x.ndim != 4
        or x.shape[3] % kernel.shape[2]
        or kernel.shape[3] * kernel.shape[2] % x.shape[3]
    ):
        raise ValueError(
            "expected x [batch, height, width, inputs] and kernel [rows, columns, inputs / groups, outputs], "
            f"got {x.shape} and {kernel.shape}"
        )
    pads = (padding, padding) if isinstance(padding, int) else padding
    if platform() == "cpu" and _is_usual(x, kernel, pads):
        return _own(x, kernel, stride, pads)
    return _plain(x, kernel, stride, pads)


def _is_usual(x: jax.Array, kernel: jax.Array, pads: tuple[int, int]) -> bool:
    """Ungrouped, of one dtype, with windows that fit into the padded image, padded by less than a window."""
    sizes = list(zip(x.shape[1:3], kernel.shape[:2], pads, strict=True))
    fits = all(0 <= pad < min(kernel.shape[:2]) and size + 2 * pad >= window for size, window, pad in sizes)
    return fits and kernel.shape[2] == x.shape[3] and kernel.dtype == x.dtype


def _plain(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]) -> jax.Array:
    pads, groups = [(p, p) for p in padding], x.shape[3] // kernel.shape[2]
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=_DIMENSIONS, feature_group_count=groups
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _own(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]) -> jax.Array:
    return _forward(x, kernel, stride, padding)


def _save(x, kernel, stride, padding):  # type: ignore
    return _forward(x, kernel, stride, padding), (x, kernel)


def _pull(stride, padding, saved, g):  # type: ignore
    x, kernel = saved
    of_kernel = kernel_gradient(x, g, kernel.shape[:2], stride, padding)
    if stride == 1:
        # Also a forward convolution, with the kernel turned by 180 degrees and its channels exchanged.
        turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        rest = tuple(size - 1 - pad for size, pad in zip(kernel.shape, padding, strict=False))
        return _forward(g, turned, 1, rest), of_kernel
    _, pull_x = jax.vjp(lambda x: _plain(x, kernel, stride, padding), x)
    return *pull_x(g), of_kernel


_own.defvjp(_save, _pull)


def _forward(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]) -> jax.Array:
    same = kernel.shape[:2] == (3, 3) and stride == 1 and padding == (1, 1)
    if same and x.shape[1] * x.shape[2] <= 4:
        return _product(x, kernel)
    sizes = zip(x.shape[1:3], kernel.shape, padding, strict=False)
    pixels = math.prod((size + 2 * pad - window) // stride + 1 for size, window, pad in sizes)
    if onednn.is_usable(x.dtype, x.shape[0] * pixels * kernel.size):
        return onednn.convolve(x, kernel, stride, padding, _elsewhere)
    return _elsewhere(x, kernel, stride, padding)


def _elsewhere(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]) -> jax.Array:
    """The convolution in XLA's own operations."""
    same = kernel.shape[:2] == (3, 3) and stride == 1 and padding == (1, 1)
    if same and max(kernel.shape[2:]) <= 16 and x.shape[2] % 2 == 0:
        return _pairs(x, kernel)
    return _plain(x, kernel, stride, padding)


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # One matrix product over all windows laid out: with 512 channels and 2x2 pixels 16 ms against 1.2 s.
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(windows, -1) @ kernel.reshape(-1, kernel.shape[-1])


def _pairs(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # A 3x3 convolution as one of size 3x2 over pairs of neighbouring columns, twice the channels. Outputs
    # 2j and 2j + 1 need columns 2j - 1 to 2j + 2: two pairs once one column is padded. A third of the
    # products is with zeros; 32 channels make good for it.
    batch, height, width, inputs = x.shape
    outputs = kernel.shape[3]
    x = apart(_pad_rows, x).reshape(batch, height, width // 2 + 1, 2 * inputs)
    wide = [jnp.pad(kernel, ((0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in (0, 1)]
    kernel = jnp.concatenate(wide, -1).reshape(3, 2, 2 * inputs, 2 * outputs)
    y = lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (0, 0)), dimension_numbers=_DIMENSIONS)
    return y.reshape(batch, height, width, outputs)


def _pad_rows(x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    rows = x.reshape(batch, height, width * channels)
    return lax.pad(rows, jnp.zeros((), x.dtype), ((0, 0, 0), (0, 0, 0), (channels, channels, 0)))
