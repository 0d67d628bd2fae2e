"""Convolutions and element-wise passes that are fast on CPU; elsewhere they are plain XLA operations.

XLA's CPU compiler (seen in jaxlib 0.10) loses time in four ways that this file works around:
it fuses what made an activation into the transposes that a kernel's gradient starts with, and computes it all
again there in the wrong memory order; it has no good convolution for 16 channels or fewer, nor for maps of 2x2
pixels; and the memory of each step is given back to the system and faulted in again (`keep_freed_memory`).
"""

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

__all__ = ["apart", "conv2d", "keep_freed_memory"]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int | tuple[int, int] = 0) -> jax.Array:
    """Convolve windows, y[n, i, j, o] = sum_{u, v, c} x[n, i s + u - p, j s + v - p, c] k[u, v, c, o].

    Equal to `lax.conv_general_dilated` within rounding, and that very operation where the default backend is
    not the CPU. There the gradient of a square, ungrouped convolution is its own, so `jax.jvp` and `jax.linearize` do
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
    rows, columns = (padding, padding) if isinstance(padding, int) else padding
    square = kernel.shape[0] == kernel.shape[1] and rows == columns and kernel.shape[2] == x.shape[3]
    if square and _on_cpu():
        return _own(x, kernel, stride, rows)
    return _plain(x, kernel, stride, (rows, columns))


def apart(fn: Callable, *args: Any) -> Any:
    """Compute `fn(*args)`; on CPU as a computation that XLA neither inlines nor fuses into its users.

    For a cheap element-wise `fn` with several users, of which one reads it in another order.

    Args:
      fn: a function of arrays, at best one of a module, so that it is traced once.
      *args: its arguments.

    Returns:
      `fn(*args)`.

    Example:
      >>> apart(jnp.negative, jnp.ones(2)).tolist()
      [-1.0, -1.0]
    """
    if not _on_cpu():
        return fn(*args)
    with set_xla_metadata(inlineable="false"):  # XLA's own name, read by its call inliner
        return jax.jit(fn)(*args)


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, instead of giving it back to the system (glibc only).

    XLA on CPU allocates the temporary memory of each call anew; a ResNet-20 step then takes some 75,000 page
    faults. For programs to call once at the start, before the first computation; libraries should not.

    Returns:
      Whether the C library accepted it.
    """
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # from glibc's malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    options = ((mmap_threshold, 2**31 - 1), (trim_threshold, 2**31 - 1), (arena_max, 1))
    return all(mallopt(option, value) == 1 for option, value in options)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _plain(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]) -> jax.Array:
    pads, groups = [(p, p) for p in padding], x.shape[3] // kernel.shape[2]
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=_DIMENSIONS, feature_group_count=groups
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _own(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    return _forward(x, kernel, stride, padding)


def _save(x, kernel, stride, padding):  # type: ignore
    return _forward(x, kernel, stride, padding), (x, kernel)


def _pull(stride, padding, saved, g):  # type: ignore
    x, kernel = saved
    _, pull_kernel = jax.vjp(lambda k: _plain(x, k, stride, (padding, padding)), kernel)
    if stride == 1 and kernel.shape[0] == 2 * padding + 1:
        # Also a forward convolution, with the kernel turned by 180 degrees and its channels exchanged.
        return _forward(g, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), 1, padding), *pull_kernel(g)
    _, pull_x = jax.vjp(lambda x: _plain(x, kernel, stride, (padding, padding)), x)
    return *pull_x(g), *pull_kernel(g)


_own.defvjp(_save, _pull)


def _forward(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    few_channels = max(kernel.shape[2:]) <= 16
    if x.shape[1] * x.shape[2] <= 4 and kernel.shape[0] == 3 and stride == 1 and padding == 1:
        return _product(x, kernel)
    if few_channels and kernel.shape[0] == 3 and stride == 1 and padding == 1 and x.shape[2] % 2 == 0:
        return _pairs(x, kernel)
    return _plain(x, kernel, stride, (padding, padding))


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
