"""oneDNN's convolution inside XLA's programs for CPUs, where RARE_GEMS_ONEDNN=1 is in the environment.

jaxlib for Linux on x86-64 is built with oneDNN and with an operation that calls it, "__onednn$convolution", but its
compiler does not choose it. Here it is called by name. That is no interface of XLA, and a program that does so can
neither be exported (`jax.export`) nor kept in JAX's compilation cache. So a library must not choose it for others: the
commands ask for it at their start (`ask_for`), other programs may. Only the versions that were looked at are trusted,
after a convolution whose result is known, and only for convolutions that are large enough to gain by it. Everywhere
else the caller does without.
"""

import functools
import json
import os
import platform
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jaxlib
import numpy as np
from jax.custom_batching import custom_vmap

__all__ = ["ask_for", "convolve", "is_usable"]

_TESTED = ("0.10", "0.11", "0.12")  # versions of jaxlib
_LEAST_PRODUCTS = 10_000_000  # ResNet-20's layers: 19 million with 32 images of 16x16 gain a fifth, 5 million nothing

Convolution = Callable[[jax.Array, jax.Array, int, tuple[int, int]], jax.Array]


def ask_for() -> None:
    """Lets this process and those that it starts use oneDNN, unless RARE_GEMS_ONEDNN is in the environment already.

    For programs to call once at the start. JAX's warning that such a program cannot be kept in its compilation cache is
    silenced: all other programs are kept.
    """
    os.environ.setdefault("RARE_GEMS_ONEDNN", "1")
    unkept = "Error writing persistent compilation cache entry for .*: MemoryError: std::bad_alloc"
    warnings.filterwarnings("ignore", unkept, UserWarning)


def is_usable(dtype: Any, products: int) -> bool:
    """Whether `convolve` is asked for, works here, and is worth its call.

    Args:
      dtype: of image and kernel; float32 is usable.
      products: numbers of the kernel times pixels of the output, of all images; 10 million are enough.
    Returns:
      False on anything but one CPU device: XLA cannot partition the call.
    Example:
      >>> is_usable(np.float64, 10**9)
      False
    """
    if os.environ.get("RARE_GEMS_ONEDNN") != "1" or dtype != np.float32 or products < _LEAST_PRODUCTS:
        return False
    return jax.default_backend() == "cpu" and jax.device_count() == 1 and works()


def convolve(
    x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int], otherwise: Convolution
) -> jax.Array:
    """`otherwise(x, kernel, stride, padding)`, computed by oneDNN.

    Under `jax.vmap`, and for derivatives, `otherwise` itself takes its place: XLA sees through neither.

    Args:
      x: float32 [batch, height, width, inputs]. kernel: float32 [rows, columns, inputs, outputs].
      stride: of both directions. padding: zeros on each side, of rows and of columns.
      otherwise: the same convolution in JAX.
    Returns:
      float32 [batch, new height, new width, outputs], the same as `otherwise` within rounding.
    """
    return _convolution(stride, padding, otherwise)(x, kernel)


@functools.cache
def works() -> bool:
    """Whether a convolution of a few pixels comes out right."""
    known = sys.platform == "linux" and platform.machine() == "x86_64"
    if not known or ".".join(jaxlib.__version__.split(".")[:2]) not in _TESTED:
        return False
    x, kernel = np.arange(24, dtype=np.float32).reshape(1, 3, 4, 2), np.arange(36, dtype=np.float32).reshape(2, 3, 2, 3)
    wide, expected = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0))), np.zeros((1, 2, 1, 3), np.float32)
    for i, j in np.ndindex(2, 1):
        expected[0, i, j] = np.einsum("hwc,hwco->o", wide[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 3], kernel)
    try:  # compiled by hand, since it may be asked while another program is traced
        got = jax.jit(functools.partial(_call, stride=2, padding=(1, 0))).lower(x, kernel).compile()(x, kernel)
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError):
        return False
    return np.array_equal(got, expected)


def _call(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]) -> jax.Array:
    (batch, height, width, _), (rows, columns, _, outputs) = x.shape, kernel.shape
    shape = batch, (height + 2 * padding[0] - rows) // stride + 1, (width + 2 * padding[1] - columns) // stride + 1
    data = {"data": {"batch_dim": 0, "spatial_dims": [1, 2], "feature_dim": 3}}
    weights = {"filter": {"spatial_dims": [0, 1], "input_feature_dim": 2, "output_feature_dim": 3}}
    window = {"pad_left": padding, "pad_right": padding, "strides": [stride] * 2, "window_dilations": [1, 1]}
    config = {"dims": 4, "input": data, "kernel": weights, "output": data, "window": window, "feature_groups": 1}
    call = jax.ffi.ffi_call(
        "__onednn$convolution",
        jax.ShapeDtypeStruct((*shape, outputs), x.dtype),
        custom_call_api_version=1,
        legacy_backend_config=json.dumps({"onednn_conv_config": config}),
    )
    return call(x, kernel)


@functools.cache
def _convolution(stride: int, padding: tuple[int, int], otherwise: Convolution) -> Callable:
    plain = lambda x, kernel: otherwise(x, kernel, stride, padding)  # noqa: E731

    @custom_vmap
    def call(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _call(x, kernel, stride, padding)

    @call.def_vmap
    def batched(axis_size: int, mapped: list[bool], x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, bool]:
        del axis_size
        return jax.vmap(plain, [0 if one else None for one in mapped])(x, kernel), True

    @jax.custom_jvp
    def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return call(x, kernel)

    @convolution.defjvp
    def derivative(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
        return convolution(*primals), jax.jvp(plain, primals, tangents)[1]

    return convolution
