"""How many weights a mask keeps, of how many, and how many it should. Needs JAX and NumPy only."""

import decimal
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems.leaf_names import by_name, path_name

__all__ = ["check", "check_bool", "check_integer", "count_for", "is_concrete", "layer_counts", "layer_sparsity",
           "num_kept", "num_prunable", "sparsity"]  # fmt: skip

PyTree = Any


def num_prunable(mask: PyTree) -> int:
    """How many weights may be removed: the size of the mask (or of scores). Works on `ShapeDtypeStruct`s."""
    return sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(mask))


def num_kept(mask: PyTree) -> Any:
    """How many weights the mask keeps: a Python integer, or a traced int32 scalar under tracing.

    Raises:
      ValueError: if a leaf is not a bool array (a `ShapeDtypeStruct` has no values to count).
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(mask):
        check_bool("mask", path, leaf)
    leaves = jax.tree.leaves(mask)
    if not is_concrete(leaves):
        return sum((jnp.sum(leaf, dtype=jnp.int32) for leaf in leaves), jnp.int32(0))
    with jax.ensure_compile_time_eval():
        counts = (np.count_nonzero(m) if isinstance(m, np.ndarray) else jnp.sum(m, dtype=jnp.int32) for m in leaves)
        return sum(map(int, counts))


def count_for(num_prunable: int, sparsity: float | str | decimal.Decimal) -> int:
    """How many of `num_prunable` weights a network of that sparsity keeps.

    num_kept = n - round_half_even(n * sparsity), in exact decimal arithmetic from the digits that were typed.

    Args:
      num_prunable: n, an integer of 0 or more. sparsity: the fraction removed, in [0, 1).
    Raises:
      ValueError: if either is something else.
    Example:
      >>> count_for(268_336, 0.9856), count_for(25_502_912, 0.9)
      (3864, 2550291)
    """
    check_integer("num_prunable", num_prunable)
    num_prunable = int(num_prunable)
    if num_prunable < 0:
        raise ValueError(f"num_prunable: expected an integer of 0 or more, got {num_prunable}")
    with decimal.localcontext() as context:
        context.prec = 60
        try:
            fraction = decimal.Decimal(str(sparsity))
        except decimal.InvalidOperation:
            fraction = decimal.Decimal("nan")
        if not fraction.is_finite() or not 0 <= fraction < 1:
            raise ValueError(f"sparsity: expected a fraction removed in [0, 1), got {sparsity!r}")
        removed = (num_prunable * fraction).to_integral_value(rounding=decimal.ROUND_HALF_EVEN)
    return num_prunable - int(removed)


def sparsity(mask: PyTree) -> Any:
    """The fraction of prunable weights that is removed: a float, or a traced float32 scalar under tracing.

    Where there is nothing to remove it is 0.
    """
    n, kept = num_prunable(mask), num_kept(mask)
    return _removed(kept, n) if isinstance(kept, int) else (n - kept).astype(jnp.float32) / max(n, 1)


def _removed(kept: int, n: int) -> float:
    return 1 - kept / n if n else 0.0


def layer_counts(mask: PyTree) -> dict[str, tuple[int, int]]:
    """Per layer, in leaf order: name -> (kept, prunable). On the host only, not under tracing.

    Raises:
      ValueError: if a leaf is not a bool array, or is traced, or two have one name.
    """
    return by_name((name, (kept, n)) for name, kept, n in counted(mask))


def counted(mask: PyTree) -> list[tuple[str, int, int]]:
    """(name, kept, prunable) of each leaf, in leaf order; two may have one name."""
    leaves = jax.tree_util.tree_leaves_with_path(mask)
    for path, leaf in leaves:
        check_bool("mask", path, leaf)
        if not is_concrete(leaf):
            raise ValueError(f"mask of {path_name(path)}: expected values (counts per layer are taken on the host, "
                             f"outside jit), got the tracer {leaf}")  # fmt: skip
    return [(path_name(path), int(np.count_nonzero(leaf)), math.prod(leaf.shape)) for path, leaf in leaves]


def layer_sparsity(mask: PyTree) -> dict[str, float]:
    """The fraction removed per layer: path -> value, in leaf order; 0 for an empty layer. On the host only.

    Example:
      >>> layer_sparsity({"a": jnp.array([True, False, False, False]), "b": None})
      {'a': 0.75}
    """
    return {name: _removed(kept, n) for name, (kept, n) in layer_counts(mask).items()}


def check(mask: PyTree, num_kept: int) -> None:
    """Raises ValueError unless `mask` is boolean and keeps exactly `num_kept` weights. On the host only."""
    kept = sum(kept for _, kept, _ in counted(mask))
    if kept != num_kept:
        raise ValueError(f"mask: expected {num_kept} weights kept, got {kept} of {num_prunable(mask)}")


def is_concrete(*trees: PyTree) -> bool:
    """Whether no leaf is traced, so that values are known."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def check_bool(name: str, path: tuple, leaf: Any) -> None:
    """Raises ValueError, naming the leaf at `path` of the argument `name`, unless it is an array of bool."""
    got = getattr(leaf, "dtype", type(leaf))
    if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.bool_):
        raise ValueError(f"{name} of {path_name(path)}: expected dtype bool, got {got}")
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise ValueError(f"{name} of {path_name(path)}: expected an array, got {leaf}")


def check_integer(name: str, count: Any) -> None:
    """Raises ValueError unless `count` is one integer, Python's or traced."""
    dtype = getattr(count, "dtype", np.asarray(count).dtype if isinstance(count, int) else object)
    if np.shape(count) != () or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"{name}: expected an integer, got {count!r}")
