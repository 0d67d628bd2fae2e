"""The usual operations of JAX programs in NumPy, one by one, without compiling: they are small here, and many."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rare_gems.analysis.contractions import contract
from rare_gems.analysis.windows import convolve

__all__ = ["MOVES", "compute"]

Array = np.ndarray


def compute(primitive: Any, params: dict[str, Any], values: Sequence[Any], dtypes: Sequence[Any]) -> list[Any]:
    """The results of an operation on known values; by JAX where it is none of the usual ones.

    Args:
      primitive, params: of an equation. values: its operands. dtypes: of its results.
    Example:
      >>> import jax
      >>> compute(jax.lax.add_p, {}, [np.float32(1), np.float32(2)], [np.float32])
      [array(3., dtype=float32)]
    """
    usual = MOVES.get(primitive.name) or _OPERATIONS.get(primitive.name)
    if usual is not None and all(isinstance(value, np.ndarray | np.generic) for value in values):
        with np.errstate(all="ignore"):
            out = usual(params, *values)
        out = out if isinstance(out, list) else [out]
        return [np.asarray(one, dtype) for one, dtype in zip(out, dtypes, strict=True)]
    out = primitive.bind(*values, **params)
    return list(out) if primitive.multiple_results else [out]


def _broadcast(params: dict[str, Any], x: Array) -> Array:
    shape, places = params["shape"], params["broadcast_dimensions"]
    axes = [1] * len(shape)
    for size, place in zip(x.shape, places, strict=True):
        axes[place] = size
    return np.broadcast_to(x.reshape(axes), shape)


def _padded(params: dict[str, Any], x: Array, fill: Array) -> Array:
    config = params["padding_config"]
    spread = [size + max(size - 1, 0) * inner for size, (_, _, inner) in zip(x.shape, config, strict=True)]
    whole = np.full([n + max(low, 0) + max(high, 0) for n, (low, high, _) in zip(spread, config, strict=True)], fill)
    whole[tuple(slice(max(low, 0), max(low, 0) + n, inner + 1)
                for n, (low, _, inner) in zip(spread, config, strict=True))] = x  # fmt: skip
    return whole[tuple(slice(max(-low, 0), n - max(-high, 0))
                       for n, (low, high, _) in zip(whole.shape, config, strict=True))]  # fmt: skip


def _sliced(params: dict[str, Any], x: Array) -> Array:
    strides = params["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, params["start_indices"], params["limit_indices"], strides))]


# Each element of a result is one of the operands'.
MOVES: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda params, *xs: np.concatenate(xs, params["dimension"]),
    "pad": _padded,
    "reshape": lambda params, x: x.reshape(params["new_sizes"]),
    "rev": lambda params, x: np.flip(x, params["dimensions"]),
    "slice": _sliced,
    "split": lambda params, x: np.split(x, np.cumsum(params["sizes"])[:-1], params["axis"]),
    "squeeze": lambda params, x: np.squeeze(x, tuple(params["dimensions"])),
    "transpose": lambda params, x: x.transpose(params["permutation"]),
}


def _elementwise(fn: Callable) -> Callable:
    return lambda params, *xs: fn(*xs)


def _chosen(params: dict[str, Any], which: Array, *cases: Array) -> Array:
    return np.asarray(np.choose(np.asarray(which, np.int64), cases))


_OPERATIONS: dict[str, Callable] = {
    name: _elementwise(fn)
    for name, fn in {
        "abs": np.abs, "add": np.add, "add_any": np.add, "and": np.bitwise_and, "ceil": np.ceil, "copy": np.array,
        "cos": np.cos, "div": np.true_divide, "eq": np.equal, "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1,
        "floor": np.floor, "ge": np.greater_equal, "gt": np.greater, "is_finite": np.isfinite, "le": np.less_equal,
        "log": np.log, "log1p": np.log1p, "logistic": lambda x: 1 / (1 + np.exp(-x)), "lt": np.less,
        "max": np.maximum, "min": np.minimum, "mul": np.multiply, "ne": np.not_equal, "neg": np.negative,
        "not": np.invert, "or": np.bitwise_or, "rsqrt": lambda x: 1 / np.sqrt(x), "sign": np.sign, "sin": np.sin,
        "sqrt": np.sqrt, "square": np.square, "sub": np.subtract, "tanh": np.tanh, "xor": np.bitwise_xor,
        "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    }.items()
}  # fmt: skip
_OPERATIONS |= {
    "conv_general_dilated": lambda params, x, kernel: convolve(params, x, kernel),
    "convert_element_type": lambda params, x: x,  # by `compute`
    "dot_general": contract,
    "integer_pow": lambda params, x: x ** params["y"],
    "reduce_max": lambda params, x: x.max(tuple(params["axes"])),
    "reduce_sum": lambda params, x: x.sum(tuple(params["axes"])),
    "select_n": _chosen,
}
