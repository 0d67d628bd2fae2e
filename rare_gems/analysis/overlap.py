"""What two masks have in common: three measures, by layer and in all, beside what chance would give. On the host.

Example:
  >>> a, b = np.arange(100) < 10, np.arange(5, 105) < 15  # each keeps 10 %
  >>> between([a], [b]), by_chance([a], [b]).shared
  (Overlap(shared=1.0, jaccard=1.0, eq7=1.0), 0.1)
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems import masks
from rare_gems.leaf_names import by_name
from rare_gems.mask_counts import counted
from rare_gems.phase import Mask

__all__ = ["Overlap", "between", "by_chance", "by_chance_per_layer", "common", "per_layer"]


class Overlap(NamedTuple):
    """shared: |a and b| / |a|. jaccard: |a and b| / |a or b|. eq7: 1 - |a xor b| / k, with k all prunable weights."""

    shared: float
    jaccard: float
    eq7: float


class _Counts(NamedTuple):
    """Of one layer or of many: weights that a keeps, b keeps, both keep, and all that are prunable."""

    a: int
    b: int
    both: float
    size: int


def between(a: Mask, b: Mask) -> Overlap:
    """The overlap of two masks, over all layers.

    shared = |a and b| / |a|; jaccard = |a and b| / |a or b|; eq7 = 1 - || a - b ||_1 / k. Of two masks of sparsity s,
    eq7 = 1 - 2 (1 - s) (1 - shared), which is near 1 for any two sparse masks, so compare it with `by_chance`.

    Args:
      a, b: bool, of one structure and of equal shapes.
    Returns:
      three numbers in [0, 1], from exact counts. `shared` and `jaccard` are 1 where there is nothing to share.
    Raises:
      ValueError: if the two differ in structure or in a shape, are not bool, or traced.
    Example:
      >>> between({"x": np.array([True, True, False, False])}, {"x": np.array([True, False, True, False])})
      Overlap(shared=0.5, jaccard=0.3333333333333333, eq7=0.5)

    Source: eq7 is Lottery Jackpots, Eq. 7, where k is the number of weights of the network and h(m) the mask. The
    other two are not in the paper.
    """
    return _overlap(_total([counts for _, counts in _layers(a, b)]))


def per_layer(a: Mask, b: Mask) -> dict[str, Overlap]:
    """The same of each layer: name -> overlap, in leaf order; k of Eq. 7 is then the layer's size.

    Example:
      >>> per_layer({"x": np.array([True, True])}, {"x": np.array([True, False])})["x"].shared
      0.5
    """
    return by_name((name, _overlap(counts)) for name, counts in _layers(a, b))


def by_chance(a: Mask, b: Mask) -> Overlap:
    """What two independent random masks with the counts of these, layer by layer, would have in common.

    In a layer of n weights of which a keeps i and b keeps j, |a and b| is hypergeometric with mean i j / n. So
    shared = sum(i j / n) / sum(i) and eq7 = 1 - (sum(i) + sum(j) - 2 sum(i j / n)) / sum(n) are exactly the expected
    values. jaccard is the ratio of the expected counts, sum(i j / n) / (sum(i) + sum(j) - sum(i j / n)); the expected
    ratio is higher, by O(1 / |a or b|).

    Args:
      a, b: as in `between`; only their counts matter.
    Example:
      >>> by_chance([np.arange(4) < 2, np.arange(2) < 2], [np.arange(4) < 1, np.arange(2) < 1]).shared  # (0.5 + 1) / 4
      0.375
    """
    return _overlap(_total([_expected(counts) for _, counts in _layers(a, b)]))


def by_chance_per_layer(a: Mask, b: Mask) -> dict[str, Overlap]:
    """The same of each layer: name -> overlap, in leaf order.

    Example:
      >>> by_chance_per_layer({"x": np.arange(10) < 2}, {"x": np.arange(10) < 3})["x"].shared
      0.3
    """
    return by_name((name, _overlap(_expected(counts))) for name, counts in _layers(a, b))


def common(a: Mask, b: Mask, where: Literal["equal", "both", "either"] = "equal") -> Mask:
    """The mask over which two tickets are compared.

    Args:
      a, b: as in `between`.
      where: "equal": the mask of both, which must be the same. "both": weights that both keep. "either": weights that
        one of them keeps; set each ticket's removed weights to zero first, with `masks.apply`.
    Raises:
      ValueError: for "equal" and masks that differ; it names the layers.
    Example:
      >>> a, b = [np.array([True, True, False])], [np.array([True, False, False])]
      >>> common(a, b, "both")[0].tolist(), common(a, b, "either")[0].tolist()
      ([True, False, False], [True, True, False])
    """
    if where not in ("equal", "both", "either"):
        raise ValueError(f"where: expected 'equal', 'both' or 'either', got {where!r}")
    different = [name for name, counts in _layers(a, b) if not counts.a == counts.b == counts.both]
    if where == "equal" and different:
        first, num = different[0], len(different)
        which = f"in {first}" if num == 1 else f"in {num} layers, {first} first"
        shared = between(a, b).shared
        raise ValueError(
            f"expected two tickets of one mask, got masks that differ {which} (of what the first keeps, the second "
            f'keeps {100 * shared:.1f} %); "both" compares what both keep, "either" all that one of them keeps'
        )
    return jax.tree.map(jnp.logical_or if where == "either" else jnp.logical_and, a, b)


def _layers(a: Mask, b: Mask) -> list[tuple[str, _Counts]]:
    """The name and the counts of each layer."""
    masks.overlap(a, b)  # refuses two that do not fit
    kept = zip(counted(a), counted(b), strict=True)
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return [
        (name, _Counts(num_a, num_b, int(np.count_nonzero(np.asarray(x) & np.asarray(y))), size))
        for ((name, num_a, size), (_, num_b, _)), (x, y) in zip(kept, leaves, strict=True)
    ]


def _total(layers: list[_Counts]) -> _Counts:
    """The counts of all layers; the expected ones are added without loss."""
    a, b, both, size = zip(*layers, strict=True) if layers else ([],) * 4
    return _Counts(sum(a), sum(b), math.fsum(both), sum(size))


def _expected(counts: _Counts) -> _Counts:
    return counts._replace(both=counts.a * counts.b / counts.size if counts.size else 0.0)


def _overlap(counts: _Counts) -> Overlap:
    either = counts.a + counts.b - counts.both
    return Overlap(
        shared=counts.both / counts.a if counts.a else 1.0,
        jaccard=counts.both / either if either else 1.0,
        eq7=1 - (either - counts.both) / counts.size if counts.size else 1.0,
    )
