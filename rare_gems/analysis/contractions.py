"""Products of matrices, and of arrays over some of their axes, in NumPy on one thread."""

import math
from typing import Any

import numpy as np

__all__ = ["contract", "multiply", "pull_contraction"]

Array = np.ndarray

_MOST = 2**18  # products in one call of BLAS: it uses one thread for so few


def multiply(a: Array, b: Array) -> Array:
    """a @ b for each group, in pieces so small that BLAS computes them on one thread.

    Its threads wait for each other by spinning. Where other processes have the cores, as in a container or beside other
    runs, a product of 2^22 numbers then takes a hundred times as long.

    Args:
      a: [groups, rows, inner]. b: [groups, inner, columns].
    Example:
      >>> multiply(np.ones((1, 2, 3)), np.ones((1, 3, 1))).tolist()
      [[[3.0], [3.0]]]
    """
    (groups, rows, inner), columns = a.shape, b.shape[-1]
    if rows * inner * columns <= _MOST:
        return a @ b
    wide = min(columns, max(16, _MOST // (8 * inner)))
    high = max(1, _MOST // (inner * wide))
    out = np.empty((groups, rows, columns), np.result_type(a, b))
    for group in range(groups):
        for i in range(0, rows, high):
            for j in range(0, columns, wide):
                out[group, i : i + high, j : j + wide] = a[group, i : i + high] @ b[group, :, j : j + wide]
    return out


def contract(params: dict[str, Any], a: Array, b: Array) -> Array:
    """`lax.dot_general`: products over some axes, for each index of others.

    Args:
      params: of the equation. a, b: its operands.
    """
    return _contracted(*_names(params, a.ndim, b.ndim), a, b)


def pull_contraction(params: dict[str, Any], need: Array, other: Array, shape: tuple[int, ...], place: int) -> Array:
    """What `contract` pulls back to the factor at that place (0 or 1), of that shape, beside the other one."""
    ndims = (len(shape), other.ndim) if place == 0 else (other.ndim, len(shape))
    *factors, product = _names(params, *ndims)
    return _contracted(product, factors[1 - place], factors[place], need, other)


def _names(params: dict[str, Any], num_a: int, num_b: int) -> tuple[str, str, str]:
    """The letters of the axes of the two factors and of the product, as for `numpy.einsum`."""
    (over_a, over_b), (each_a, each_b) = params["dimension_numbers"]
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    of_a = [next(letters) for _ in range(num_a)]
    shared = dict(zip((*over_b, *each_b), (*over_a, *each_a), strict=True))
    of_b = [of_a[shared[i]] if i in shared else next(letters) for i in range(num_b)]
    rest_a = [of_a[i] for i in range(num_a) if i not in (*over_a, *each_a)]
    rest_b = [of_b[i] for i in range(num_b) if i not in shared]
    return "".join(of_a), "".join(of_b), "".join([*(of_a[i] for i in each_a), *rest_a, *rest_b])


def _contracted(of_a: str, of_b: str, of_out: str, a: Array, b: Array) -> Array:
    """`numpy.einsum` of two arrays, none of whose axes stands alone."""
    sizes = dict(zip(of_a + of_b, a.shape + b.shape, strict=True))
    each = [name for name in of_a if name in of_b and name in of_out]
    over = [name for name in of_a if name in of_b and name not in of_out]
    rest_a, rest_b = ([name for name in of if name not in each + over] for of in (of_a, of_b))

    def as_matrices(array: Array, names: str, *parts: list[str]) -> Array:
        order = [names.index(name) for part in parts for name in part]
        return array.transpose(order).reshape([math.prod(sizes[name] for name in part) for part in parts])

    out = multiply(as_matrices(a, of_a, each, rest_a, over), as_matrices(b, of_b, each, over, rest_b))
    names = [*each, *rest_a, *rest_b]
    return out.reshape([sizes[name] for name in names]).transpose([names.index(name) for name in of_out])
