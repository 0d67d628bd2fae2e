"""How a number of kept weights is shared out among the layers."""

import fractions
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rare_gems.leaf_names import by_name
from rare_gems.masks import num_prunable, path_name

__all__ = ["apportion", "copied", "erk", "none_empty", "uniform"]


def apportion(total: int, sizes: list[int], weights: Sequence[int] | None = None) -> list[int]:
    """Shares `total` out in proportion to `weights`, at most `sizes`: exact, and none falls when the total rises.

      share_l = min(size_l, round(t * weight_l)), with the t for which they sum to `total` (the method of Sainte-Lague)

    Shares that never fall matter: a mask that shrinks over rounds cannot take weights back. (Rounding down and
    giving the rest to the largest remainders does not have that.) Ties go to the earlier entry.

    Args:
      total: a number of weights. sizes: how many each layer has. weights: integers of 0 or more, by default the sizes.
    Raises:
      ValueError: if total is not between 0 and the sum of the sizes (of those with a weight above 0).
    Example:
      >>> apportion(4, [3, 3, 3])
      [2, 1, 1]
      >>> apportion(8, [3, 9, 9], [2, 1, 1])
      [3, 3, 2]
    """
    weights = sizes if weights is None else weights
    whole = sum(size for size, weight in zip(sizes, weights, strict=True) if weight > 0)
    if not 0 <= total <= whole:
        raise ValueError(f"total: expected an integer from 0 to {whole}, got {total}")
    rest = [i for i, weight in enumerate(weights) if weight > 0]
    factor, left = fractions.Fraction(0), total
    while rest:  # t, were it not for the rounding: what overflows its layer goes to the others
        factor = fractions.Fraction(left, sum(weights[i] for i in rest))
        over = [i for i in rest if factor * weights[i] > sizes[i]]
        if not over:
            break
        rest = [i for i in rest if i not in over]
        left -= sum(sizes[i] for i in over)
    half = fractions.Fraction(1, 2)
    shares = [min(size, math.ceil(factor * w - half)) for size, w in zip(sizes, weights, strict=True)]
    if not rest:
        shares = [size if weight > 0 else 0 for size, weight in zip(sizes, weights, strict=True)]

    def quotient(i: int, share: int) -> tuple[fractions.Fraction, int]:
        return fractions.Fraction(weights[i], 2 * share - 1), -i  # the higher is served first

    while sum(shares) < total:
        open_ = [i for i, size in enumerate(sizes) if shares[i] < size]
        shares[max(open_, key=lambda i: quotient(i, shares[i] + 1))] += 1
    while sum(shares) > total:
        shares[min((i for i, s in enumerate(shares) if s > 0), key=lambda i: quotient(i, shares[i]))] -= 1
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
    counts = apportion(num_kept, [math.prod(leaf.shape) for leaf in jax.tree.leaves(mask)])
    return none_empty(mask, counts, "uniform keep ratios", "keep more, or use the global scope")


def erk(mask: Any, num_kept: int) -> Any:
    """The Erdos-Renyi-kernel ratios: narrow layers keep more of their weights, and the narrowest all.

      p_l = min(1, epsilon * (d_1 + ... + d_k) / (d_1 * ... * d_k)) for a kernel of those dimensions,
      with the epsilon for which `num_kept` weights are kept in all.

    Args:
      mask: any tree with the prunable leaves' shapes. num_kept: the number of weights kept.
    Returns:
      a tree of integers; their sum is exact, and no layer's falls when `num_kept` rises.
    Raises:
      ValueError: if a layer would be left without a weight.
    Example:
      >>> erk({"a": jax.ShapeDtypeStruct((10, 10), bool), "b": jax.ShapeDtypeStruct((30, 30), bool)}, 100)
      {'a': 25, 'b': 75}

    Source: Evci et al., Rigging the Lottery, section 3.1; Mocanu et al., 2018. Deviation: their code rounds layer by
    layer, and so misses the total by a few weights.
    """
    leaves = jax.tree.leaves(mask)
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    counts = apportion(num_kept, sizes, [sum(leaf.shape) or 1 for leaf in leaves])
    return none_empty(mask, counts, "ERK keep ratios", "keep more")


def copied(mask: Any, num_kept: int, layer_counts: Mapping[str, tuple[int, int]]) -> Any:
    """The layer ratios of another ticket, scaled to `num_kept` weights; no layer above its size.

    With as many weights as that ticket has, the counts are its own.

    Args:
      mask: any tree with the prunable leaves' shapes. num_kept: the number of weights kept.
      layer_counts: name -> (kept, prunable) of the ticket, as from `masks.layer_counts`.
    Returns:
      a tree of integers. A layer that the ticket leaves empty stays so.
    Raises:
      ValueError: if the ticket is of a network with other layers, or a layer that it keeps would be emptied.
    Example:
      >>> mask = {"a": jax.ShapeDtypeStruct((10,), bool), "b": jax.ShapeDtypeStruct((30,), bool)}
      >>> copied(mask, 12, {"a": (4, 10), "b": (2, 30)})
      {'a': 8, 'b': 4}
    """
    paths = jax.tree_util.tree_leaves_with_path(mask)
    sizes = by_name((path_name(path), math.prod(leaf.shape)) for path, leaf in paths)
    for name in [*sizes, *layer_counts]:
        here = sizes.get(name, "no such layer")
        there = layer_counts[name][1] if name in layer_counts else "no such layer"
        if here != there:
            raise ValueError(
                f"copied keep ratios: expected a ticket of this network, but of {name} it has {there} weights where "
                f"the network has {here}".replace("no such layer weights", "no weights")
            )
    kept = [layer_counts[name][0] for name in sizes]
    counts = apportion(num_kept, list(sizes.values()), kept)
    return none_empty(mask, counts, "copied keep ratios", "keep more", [k > 0 for k in kept])


def none_empty(mask: Any, counts: Sequence[int], name: str, advice: str, needed: Sequence[bool] | None = None) -> Any:
    """The counts, one a layer in leaf order, as a tree like `mask`.

    Args:
      name: what the ratios are called. advice: what would help. needed: the layers that must keep a weight (all).
    Raises:
      ValueError: if such a layer keeps none.
    """
    paths = jax.tree_util.tree_leaves_with_path(mask)
    for i, ((path, leaf), count) in enumerate(zip(paths, counts, strict=True)):
        if count == 0 and math.prod(leaf.shape) and (needed is None or needed[i]):
            raise ValueError(
                f"{name}: {sum(counts)} of {num_prunable(mask)} weights leave none of the "
                f"{math.prod(leaf.shape)} in {path_name(path)}; {advice}"
            )
    return jax.tree.structure(mask).unflatten(counts)
