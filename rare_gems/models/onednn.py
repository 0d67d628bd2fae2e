"""oneDNN's convolution and matrix product in XLA's programs for CPUs, with RARE_GEMS_ONEDNN=1 in the environment.

jaxlib for Linux on x86-64 is built with oneDNN and with operations that call it, "__onednn$convolution" and
"__onednn$matmul", but its compiler does not choose them. Here they are called by name. That is no interface of XLA, and
a program that does so can neither be exported (`jax.export`) nor kept in JAX's compilation cache. So a library must not
choose it for others: the commands ask for it at their start (`ask_for`), other programs may. Only the versions that
were looked at are trusted, after a convolution and a product whose results are known, and only for those that are large
enough to gain by it. Everywhere else the caller does without.
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
from jax.experimental.compilation_cache import compilation_cache

__all__ = ["ask_for", "convolve", "is_usable", "product"]

_TESTED = ("0.10", "0.11", "0.12")  # versions of jaxlib
_KEEPING = ("0.10",)  # later ones end in a segmentation fault where JAX would write such a program into its cache
_LEAST_PRODUCTS = 10_000_000  # ResNet-20's layers: 19 million with 32 images of 16x16 gain a fifth, 5 million nothing

Convolution = Callable[[jax.Array, jax.Array, int, tuple[int, int]], jax.Array]
Product = Callable[[jax.Array, jax.Array], jax.Array]


def ask_for() -> None:
    """Lets this process and those that it starts use oneDNN, unless RARE_GEMS_ONEDNN is in the environment already.

    For programs to call once at the start. JAX's warning that such a program cannot be kept in its compilation cache is
    silenced: with jaxlib 0.10 all other programs are kept, with later ones none is.

    Raises:
      ValueError: if RARE_GEMS_ONEDNN is neither 0, 1 nor empty.
    """
    asked = os.environ.get("RARE_GEMS_ONEDNN") or "1"
    if asked not in ("0", "1"):
        raise ValueError(f"RARE_GEMS_ONEDNN: expected 0 or 1, got {asked!r}")
    os.environ["RARE_GEMS_ONEDNN"] = asked
    unkept = "Error writing persistent compilation cache entry for .*: MemoryError: std::bad_alloc"
    warnings.filterwarnings("ignore", unkept, UserWarning)


def is_usable(dtype: Any, products: int) -> bool:
    """Whether `convolve` and `product` are asked for, work here, and are worth their call.

    Args:
      dtype: of both arguments; float32 is usable.
      products: of two numbers each, that are computed; 10 million are enough.
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


def product(x: jax.Array, y: jax.Array, otherwise: Product) -> jax.Array:
    """`otherwise(x, y)`, x transposed times y, computed by oneDNN; under `jax.vmap` and for derivatives as `convolve`.

    Args:
      x: float32 [n, a]. y: float32 [n, b]. otherwise: the same in JAX.
    Returns:
      float32 [a, b], the same as `otherwise` within rounding.
    """
    return _with_fallback(_multiply, otherwise)(x, y)


@functools.cache
def works() -> bool:
    """Whether a convolution of a few pixels and a product of small matrices come out right.

    With jaxlib 0.11 and later JAX's compilation cache is off from then on in this process.
    """
    version = ".".join(jaxlib.__version__.split(".")[:2])
    if sys.platform != "linux" or platform.machine() != "x86_64" or version not in _TESTED:
        return False
    if version not in _KEEPING:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # which remembers whether there is one
    x, kernel = np.arange(24, dtype=np.float32).reshape(1, 3, 4, 2), np.arange(36, dtype=np.float32).reshape(2, 3, 2, 3)
    wide, expected = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0))), np.zeros((1, 2, 1, 3), np.float32)
    for i, j in np.ndindex(2, 1):
        expected[0, i, j] = np.einsum("hwc,hwco->o", wide[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 3], kernel)
    y = x.reshape(8, 3)
    try:  # compiled by hand, since it may be asked while another program is traced
        got = jax.jit(functools.partial(_call, stride=2, padding=(1, 0))).lower(x, kernel).compile()(x, kernel)
        squares = jax.jit(_multiply).lower(y, y[:, :2]).compile()(y, y[:, :2])
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError):
        return False
    return np.array_equal(got, expected) and np.array_equal(squares, y.T @ y[:, :2])


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


def _multiply(x: jax.Array, y: jax.Array) -> jax.Array:
    config = {"onednn_matmul_config": {"transpose_a": True, "transpose_b": False}}
    call = jax.ffi.ffi_call(
        "__onednn$matmul",
        jax.ShapeDtypeStruct((x.shape[1], y.shape[1]), x.dtype),
        custom_call_api_version=1,
        legacy_backend_config=json.dumps(config),
    )
    return call(x, y)


@functools.cache
def _convolution(stride: int, padding: tuple[int, int], otherwise: Convolution) -> Product:
    return _with_fallback(
        functools.partial(_call, stride=stride, padding=padding),
        lambda x, kernel: otherwise(x, kernel, stride, padding),
    )


@functools.cache
def _with_fallback(fn: Product, plain: Product) -> Product:
    """`fn`, and under `jax.vmap` and for its derivatives `plain`."""

    @custom_vmap
    def call(x: jax.Array, y: jax.Array) -> jax.Array:
        return fn(x, y)

    @call.def_vmap
    def batched(axis_size: int, mapped: list[bool], x: jax.Array, y: jax.Array) -> tuple[jax.Array, bool]:
        del axis_size
        return jax.vmap(plain, [0 if one else None for one in mapped])(x, y), True

    @jax.custom_jvp
    def usual(x: jax.Array, y: jax.Array) -> jax.Array:
        return call(x, y)

    @usual.defjvp
    def derivative(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
        return usual(*primals), jax.jvp(plain, primals, tangents)[1]

    return usual
