"""How a number of kept weights is shared out among the layers."""

import fractions
import math
from typing import Any

import jax

from rare_gems.masks import num_prunable, path_name

__all__ = ["apportion", "uniform"]


def apportion(total: int, sizes: list[int]) -> list[int]:
    """Shares `total` out in proportion to `sizes`: exact, and no share falls when the total rises.

      share_l = round(t * size_l), with the t for which they sum to `total` (the method of Sainte-Lague)

    Shares that never fall matter: a mask that shrinks over rounds cannot take weights back. (Rounding down and
    giving the rest to the largest remainders does not have that.) Ties go to the earlier entry.

    Raises:
      ValueError: if total is not between 0 and sum(sizes).
    Example:
      >>> apportion(4, [3, 3, 3])
      [2, 1, 1]
    """
    whole = sum(sizes)
    if not 0 <= total <= whole:
        raise ValueError(f"total: expected an integer from 0 to {whole}, got {total}")
    few = max(2 * total - len(sizes) - 2, 0)  # t = few / (2 whole): at most `total` in all, and nearly that
    shares = [(few * size + whole) // (2 * whole or 1) for size in sizes]
    while sum(shares) < total:
        open_ = [i for i, size in enumerate(sizes) if shares[i] < size]
        shares[max(open_, key=lambda i: fractions.Fraction(sizes[i], 2 * shares[i] + 1))] += 1
    return shares


def uniform(mask: Any, num_kept: int) -> Any:
    """The same keep ratio in every layer, `num_kept` in all: a tree of integers for `keep_top(scope="layer")`.

    Args:
      mask: any tree with the prunable leaves' shapes (`ShapeDtypeStruct`s will do).
    Raises:
      ValueError: if a layer would be left without a weight.
    Example:
      >>> uniform({"a": jax.ShapeDtypeStruct((10,), bool), "b": jax.ShapeDtypeStruct((30,), bool)}, 4)
      {'a': 1, 'b': 3}
    """
    leaves, treedef = jax.tree.flatten(mask)
    counts = apportion(num_kept, [math.prod(leaf.shape) for leaf in leaves])
    for (path, leaf), count in zip(jax.tree_util.tree_leaves_with_path(mask), counts, strict=True):
        if count == 0:
            raise ValueError(
                f"uniform keep ratios: {num_kept} of {num_prunable(mask)} weights leave none of the "
                f"{math.prod(leaf.shape)} in {path_name(path)}; keep more, or use the global scope"
            )
    return treedef.unflatten(counts)
