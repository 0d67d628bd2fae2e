"""How far two trained copies of a subnetwork are apart: L2 distance and angle of their kept weights, in float64.

Example:
  >>> whole, subnetwork = {"a": np.array([1.0, 2.0, 9.0])}, {"a": np.array([1.0, 5.0, 0.0])}
  >>> stability_to_pruning(whole, subnetwork, {"a": np.array([True, True, False])}).l2  # 9 is of a removed weight
  3.0
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rare_gems.leaf_names import by_name, path_name
from rare_gems.mask_counts import counted
from rare_gems.phase import Mask, Params
from rare_gems.structures import difference

__all__ = ["Distance", "between", "pairs", "per_layer", "stability_to_pruning"]


class Distance(NamedTuple):
    """l2: of the difference. angle: in degrees, 0 to 180; NaN if one of the two is zero everywhere."""

    l2: float
    angle: float


def between(a: Params, b: Params, mask: Mask, *, others: bool = False) -> Distance:
    """The distance of the kept weights of two networks.

    l2 = || m * a - m * b ||_2, and angle = arccos(<m * a, m * b> / (|| m * a || || m * b ||)), of all prunable weights
    as one vector.

    Args:
      a, b: params of two networks, of any float dtype; compared in float64, on the host.
      mask: bool, in the structure of `masks.ones(params)`. Only kept weights count: what a removed weight holds is
        never looked at. For two tickets whose masks differ choose with `overlap.common`: what both keep; or what
        either keeps, with each ticket's own mask applied before (`masks.apply`), so that a weight is 0 where removed.
      others: also the params that are not prunable (norms, biases), all of them.
    Returns:
      l2 and angle.
    Raises:
      ValueError: if a leaf of a or b has another shape than its mask, or the trees another structure.
    Example:
      >>> mask = [np.array([True, True, False]), None]
      >>> a, b = [np.array([1.0, 0.0, 5.0]), np.zeros(1)], [np.array([0.0, 1.0, -5.0]), np.ones(1)]
      >>> between(a, b, mask).angle, round(between(a, b, mask).l2, 3), round(between(a, b, mask, others=True).l2, 3)
      (90.0, 1.414, 1.732)

    Source: Stabilizing the Lottery Ticket Hypothesis, section 2 (L2) and appendix B (angle): "the masked, trained
    parameters". W and m are there of one length D. Left open is whether D counts norms and biases, which are never
    pruned; here they do not count unless `others`. Deviation: the angle is computed as
    2 atan2(|u - v|, |u + v|) of the unit vectors u and v, which is accurate also where it is small.
    """
    kept = _kept(a, b, mask)
    return _distance([pair for _, pair in kept] + (_unpruned(a, b, mask) if others else []))


def per_layer(a: Params, b: Params, mask: Mask) -> dict[str, Distance]:
    """The same of each prunable leaf alone: name -> distance, in leaf order.

    Args:
      a, b, mask: as in `between`. The squares of l2 add up to that of all layers; angles do not.
    Example:
      >>> per_layer({"x": np.ones(2)}, {"x": np.array([1.0, 3.0])}, {"x": np.array([False, True])})
      {'x': Distance(l2=2.0, angle=0.0)}
    """
    return by_name((name, _distance([pair])) for name, pair in _kept(a, b, mask))


def stability_to_pruning(whole: Params, subnetwork: Params, mask: Mask) -> Distance:
    """The distance between a subnetwork trained in isolation and the same weights of the whole network, trained whole.

    d(A(W, u), A(m * W, u)) with d(x, y) = || m * x - m * y ||: both start from the same weights W and see the data in
    the same order u; the whole network is never pruned, and its other weights do not count.

    Args:
      whole: params after training without a mask. subnetwork: params after training under `mask`. mask: as in
        `between`.
    Returns:
      one sample of it. The stability is the mean over orders u; lower is more stable.
    Example:
      >>> stability_to_pruning([np.array([3.0, 4.0])], [np.array([3.0, 0.0])], [np.array([True, False])])
      Distance(l2=0.0, angle=0.0)

    Source: Stabilizing the Lottery Ticket Hypothesis, section 2.
    """
    return between(whole, subnetwork, mask)


def pairs(samples: Sequence[Params], mask: Mask) -> tuple[Distance, ...]:
    """The distances of all n (n - 1) / 2 pairs of n trainings of one subnetwork.

    d(A(m * W, u), A(m * W, u')): trained under one mask from one W, with different orders of the data. Their mean is
    the stability to data order.

    Args:
      samples: params of each training. mask: as in `between`.
    Returns:
      the distances of (0, 1), (0, 2), ..., (1, 2), ...
    Raises:
      ValueError: for fewer than two samples.
    Example:
      >>> samples = [{"x": np.full(1, value)} for value in (0.0, 1.0, 4.0)]
      >>> [distance.l2 for distance in pairs(samples, {"x": np.ones(1, bool)})]
      [1.0, 4.0, 3.0]

    Source: Stabilizing the Lottery Ticket Hypothesis, section 2.
    """
    if len(samples) < 2:
        raise ValueError(f"samples: expected two trainings or more, got {len(samples)}")
    return tuple(between(a, b, mask) for a, b in itertools.combinations(samples, 2))


def _kept(a: Params, b: Params, mask: Mask) -> list[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """The name of each prunable leaf, and the kept weights of both, as float64 vectors."""
    counted(mask)  # refuses what is not bool, or traced
    kept = []
    for (path, m), x, y in zip(_paths(mask), _leaves("a", a, mask), _leaves("b", b, mask), strict=True):
        if m is not None:
            m = np.asarray(m).ravel()
            kept.append((path_name(path), (_vector(x)[m], _vector(y)[m])))
    return kept


def _unpruned(a: Params, b: Params, mask: Mask) -> list[tuple[np.ndarray, np.ndarray]]:
    """The leaves of floats that are not prunable."""
    triples = zip(_paths(mask), _leaves("a", a, mask), _leaves("b", b, mask), strict=True)
    both = [pair for (_, m), *pair in triples if m is None and all(map(_is_float, pair))]
    for x, y in both:
        if np.shape(x) != np.shape(y):
            raise ValueError(f"b: expected the shapes of a, got {np.shape(y)} for {np.shape(x)}")
    return [(_vector(x), _vector(y)) for x, y in both]


def _paths(mask: Mask) -> list[tuple[tuple, Any]]:
    return jax.tree_util.tree_leaves_with_path(mask, is_leaf=_is_none)


def _leaves(name: str, tree: Params, mask: Mask) -> list[Any]:
    """The leaves of params, in the order of those of the mask with its None."""
    try:
        leaves = jax.tree.structure(mask, is_leaf=_is_none).flatten_up_to(tree)
    except ValueError:
        told = difference(tree, mask, prefix="like")
        raise ValueError(f"{name}: expected params in the structure of the mask, got {told}") from None
    for (path, m), leaf in zip(_paths(mask), leaves, strict=True):
        if m is not None and np.shape(leaf) != m.shape:
            at = f"{name} of {path_name(path)}"
            raise ValueError(f"{at}: expected shape {m.shape} as its mask has, got {np.shape(leaf)}")
    return leaves


def _distance(both: list[tuple[np.ndarray, np.ndarray]]) -> Distance:
    lengths = [math.sqrt(sum(float(pair[i] @ pair[i]) for pair in both)) for i in (0, 1)]
    l2 = math.sqrt(sum(float(np.square(x - y).sum()) for x, y in both))
    if not all(lengths):
        return Distance(l2, math.nan)
    less, more = (
        math.sqrt(sum(float(np.square(x / lengths[0] + sign * (y / lengths[1])).sum()) for x, y in both))
        for sign in (-1, 1)
    )
    return Distance(l2, math.degrees(2 * math.atan2(less, more)))


def _vector(leaf: Any) -> np.ndarray:
    return np.asarray(leaf).astype(np.float64).ravel()


def _is_float(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(getattr(leaf, "dtype", np.asarray(leaf).dtype), np.floating)


def _is_none(leaf: Any) -> bool:
    return leaf is None
