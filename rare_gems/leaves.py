"""Leaves of pytrees: which train, which are PRNG keys, and what JAX would cut. Needs JAX and NumPy only.

Where JAX's 64-bit mode is off (`jax_enable_x64`), it makes 32 bits of every 64 that NumPy hands it, without a word:
2**40 becomes 0. The library refuses such arrays by name (`as_jax`, `check_arrays`), or leaves them to NumPy.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["as_jax", "check_arrays", "check_kept", "check_sortable", "cut_dtype", "is_key", "join", "key_impl",
           "numbers", "rounded", "split", "value_and_grad", "wide"]  # fmt: skip

PyTree = Any

_CUT = {"float64": "float32", "int64": "int32", "uint64": "uint32", "complex128": "complex64"}


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed PRNG keys (`jax.random.key`); abstract ones count.

    Example:
      >>> is_key(jax.random.key(0)), is_key(jax.random.PRNGKey(0))
      (True, False)
    """
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def key_impl(leaf: Any) -> Any:
    """The implementation of typed keys, as `jax.random.key_impl`, of abstract ones too.

    Example:
      >>> key_impl(jax.eval_shape(lambda: jax.random.key(0, impl="rbg")))
      'rbg'
    """
    found: list[Any] = []
    jax.eval_shape(lambda keys: found.append(jax.random.key_impl(keys)), jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return found[0]


def cut_dtype(leaf: Any) -> str | None:
    """The dtype to which JAX would cut a leaf of NumPy; None where it keeps it, and for leaves that are JAX's own.

    Example:
      >>> cut_dtype(np.ones(2)), cut_dtype(np.ones(2, np.float32)), cut_dtype(jnp.ones(2))
      ('float32', None, None)
    """
    dtype = None if isinstance(leaf, jax.Array) else getattr(leaf, "dtype", None)
    return None if dtype is None or jax.config.jax_enable_x64 else _CUT.get(getattr(dtype, "name", ""))  # type: ignore


def as_jax(name: str, leaf: Any) -> jax.Array:
    """`jnp.asarray(leaf)`, whose dtype is that of the leaf, in this machine's order of bytes.

    Raises:
      ValueError: naming the leaf, where JAX would cut 64 bits to 32, does not take its dtype, or Python's number is too
        large.
    Example:
      >>> as_jax("labels", np.arange(3))
      Traceback (most recent call last):
      ValueError: labels: expected int32 at most, got int64, which JAX would cut silently; call .astype(np.int32), or turn on jax_enable_x64
    """  # noqa: E501 - the line of an error
    if short := cut_dtype(leaf):
        raise ValueError(
            f"{name}: expected {short} at most, got {leaf.dtype}, which JAX would cut silently; call "
            f".astype(np.{short}), or turn on jax_enable_x64"
        )
    if short := _too_large(leaf):
        more = "" if jax.config.jax_enable_x64 else "; or turn on jax_enable_x64"  # type: ignore
        raise ValueError(f"{name}: expected a number that {short} holds, got {leaf}{more}")
    if _is_swapped(leaf):
        leaf = leaf.astype(leaf.dtype.newbyteorder("="))
    try:
        return jnp.asarray(leaf)
    except TypeError:
        if not isinstance(leaf, np.ndarray | np.generic):
            raise
        raise ValueError(f"{name}: expected a dtype that JAX takes, got {leaf.dtype}") from None


def _is_swapped(leaf: Any) -> bool:
    """Whether an array of NumPy has the other order of bytes, which JAX does not take."""
    return isinstance(leaf, np.ndarray | np.generic) and not leaf.dtype.isnative


def _too_large(leaf: Any) -> str | None:
    """The dtype that JAX would give a number of Python, if that does not hold it: an error in JAX, or infinity."""
    if isinstance(leaf, np.generic) or not isinstance(leaf, int | float | complex):
        return None
    dtype = jnp.asarray(type(leaf)(0)).dtype
    if isinstance(leaf, int):
        return None if isinstance(leaf, bool) or jnp.iinfo(dtype).min <= leaf <= jnp.iinfo(dtype).max else dtype.name
    with np.errstate(over="ignore"):
        return dtype.name if np.isfinite(leaf) and not np.isfinite(dtype.type(leaf)) else None


def check_arrays(name: str, tree: PyTree) -> None:
    """Raises ValueError for the first leaf that is no array, or that JAX would cut, naming it `name/path`.

    Example:
      >>> check_arrays("state", {"norm": {"mean": jnp.ones(3), "name": "bn1"}})
      Traceback (most recent call last):
      ValueError: state/norm/name: expected an array, got str
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            raise ValueError(f"{_named(name, path)}: expected an array, got {type(leaf).__name__}")
    check_kept(name, tree)


def check_kept(name: str, tree: PyTree) -> None:
    """Raises ValueError for the first leaf that JAX would cut, or does not take, naming it `name/path`.

    Example:
      >>> check_kept("state", {"seen": 2**40})
      Traceback (most recent call last):
      ValueError: state/seen: expected a number that int32 holds, got 1099511627776; or turn on jax_enable_x64
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if cut_dtype(leaf) or _too_large(leaf):
            as_jax(_named(name, path), leaf)  # raises
        if _is_swapped(leaf):
            told = f"expected {leaf.dtype.name} in this machine's order of bytes, got {leaf.dtype}"
            raise ValueError(f"{_named(name, path)}: {told}; call .astype(np.{leaf.dtype.name})")


def check_sortable(name: str, tree: PyTree) -> None:
    """Raises ValueError for the first dict whose keys JAX cannot sort, naming it `name/path`.

    Example:
      >>> check_sortable("params", {"blocks": [{1: 0.0, "last": 0.0}]})
      Traceback (most recent call last):
      ValueError: params/blocks/0: expected keys of one type, which can be sorted, got 1 and 'last'
    """
    if isinstance(tree, dict):
        try:
            sorted(tree)
        except TypeError:
            first, *others = tree
            other = next((key for key in others if type(key) is not type(first)), others[0])
            told = f"expected keys of one type, which can be sorted, got {first!r} and {other!r}"
            raise ValueError(f"{name}: {told}") from None
    for path, child in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: node is not tree):
        if child is not tree:
            check_sortable(_named(name, path), child)


def numbers(name: str, tree: PyTree) -> PyTree:
    """Numbers of Python or NumPy as arrays of NumPy: integers as int32, floats rounded to float32.

    Raises:
      ValueError: for something that is not a number, or that 32 bits do not hold.
    Example:
      >>> numbers("count", {"a": 3, "b": 0.5})
      {'a': array(3, dtype=int32), 'b': array(0.5, dtype=float32)}
    """

    def one(number: Any) -> np.ndarray:
        array = np.asarray(number)
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{name}: expected numbers, got {number!r}")
        if array.dtype.kind == "f":
            return rounded(name, array)
        if np.any(array > np.iinfo(np.int32).max) or np.any(array < np.iinfo(np.int32).min):
            raise ValueError(f"{name}: expected integers that int32 holds, got {number!r}")
        return array.astype(np.int32)

    return jax.tree.map(one, tree)


def rounded(name: str, array: np.ndarray) -> np.ndarray:
    """The array in float32. Raises ValueError, with the name, for finite numbers that float32 does not hold."""
    with np.errstate(over="ignore"):
        short = array.astype(np.float32)
    if np.any(np.isinf(short) & np.isfinite(array)):
        raise ValueError(f"{name}: expected numbers that float32 holds, got {array}")
    return short


def split(tree: PyTree) -> tuple[PyTree, PyTree]:
    """What can train, the leaves of floating point (or complex), and the rest: integers, bools, PRNG keys.

    Returns:
      two trees like the given one, each with None where the other has a leaf.
    Example:
      >>> split({"w": jnp.float32(2), "n": jnp.int32(3)})
      ({'n': None, 'w': Array(2., dtype=float32)}, {'n': Array(3, dtype=int32), 'w': None})
    """
    trains = jax.tree.map(_trains, tree)
    return (
        jax.tree.map(lambda leaf, one: leaf if one else None, tree, trains),
        jax.tree.map(lambda leaf, one: None if one else leaf, tree, trains),
    )


def join(trained: PyTree, rest: PyTree) -> PyTree:
    """The tree that `split` took apart."""
    return jax.tree.map(lambda one, other: other if one is None else one, trained, rest, is_leaf=_is_none)


def value_and_grad(loss_fn: Callable) -> Callable:
    """`jax.value_and_grad(loss_fn, has_aux=True)`, whose first argument may have leaves that cannot train.

    Returns:
      (tree, ...) -> (what `loss_fn` returns, gradient), with None in the gradient where nothing can train.
    Example:
      >>> value_and_grad(lambda tree: (tree["w"] ** 2, "aux"))({"w": jnp.float32(3), "n": jnp.int32(3)})[1]
      {'n': None, 'w': Array(6., dtype=float32)}
    """

    def of(tree: PyTree, *args: Any) -> tuple[Any, PyTree]:
        trained, rest = split(tree)
        return jax.value_and_grad(lambda trained: loss_fn(join(trained, rest), *args), has_aux=True)(trained)

    return of


def wide(dtype: Any) -> Any:
    """The dtype in which floats of `dtype` are drawn, added and ranked: float32, but float64 stays.

    Example:
      >>> wide(jnp.bfloat16), wide(np.float64)
      (dtype('float32'), dtype('float64'))
    """
    return np.dtype(dtype) if np.dtype(dtype) == np.float64 else np.dtype(np.float32)


def _named(name: str, path: tuple) -> str:
    at = jax.tree_util.keystr(path, simple=True, separator="/")
    return f"{name}/{at}" if at else name


def _trains(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, float) if dtype is None else jax.dtypes.issubdtype(dtype, jnp.inexact)


def _is_none(node: Any) -> bool:
    return node is None
