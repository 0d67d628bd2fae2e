"""The k largest of a pytree of scores, without sorting. Needs JAX and NumPy only.

Floats are read as unsigned integers of the same order (on the fly, never stored), and the k-th largest is
found by radix descent: each pass over the leaves counts the keys above seven thresholds at once, 3 bits a
pass, 11 passes for float32, 6 for 16 bits. Nothing is concatenated, gathered, reshaped or sorted. Ties at the
threshold are cut by the same descent on the flat index, in the one leaf where the room runs out. Counts are
int32, so a tree holds fewer than 2^31 scores.

On CPU the seven counts are one variadic reduction (XLA there fuses neither sibling sums nor the comparison
into a sum: 4 to 20 times slower), elsewhere seven sums. Sharded leaves need all-reduces of counts only; the
exception is CPU devices along another axis than a leaf's first: there XLA gathers partial counts, no scores.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rare_gems.leaves import as_jax

__all__ = ["has_nan", "top_mask", "top_mask_per_leaf", "top_mask_with_floors"]

PyTree = Any
Count = int | np.integer | np.ndarray | jax.Array

WAYS = 8  # brackets a pass; on two cores a pass over 25.5 M with 7, 15, 31 thresholds takes 6.5, 13, 16 ms
BITS = {"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64}


def top_mask(scores: PyTree, num_kept: Count, within: PyTree = None) -> PyTree:
    """The mask that keeps the `num_kept` largest scores of all leaves together.

    mask = rank(score) < num_kept, ranked by (score descending, leaf order, flat row-major index). -0 equals
    +0, denormals are told apart, NaN ranks below -inf.

    Args:
      scores: float16, bfloat16, float32 or float64 leaves of any shapes, also mixed (compared exactly); None
        where not prunable. num_kept: integer, Python or traced int32. within: bool leaves in the shapes of
        the scores, False where never kept. With fewer than `num_kept` candidates all are kept.
    Returns:
      bool leaves in the structure of `scores`, exactly min(num_kept, candidates) of them True.
    Raises:
      ValueError: if a leaf is no float, or NumPy's float64 where JAX would cut it, if `within` doesn't match, or if
        there are 2^31 scores or more.
    Example:
      >>> scores = {"a": jnp.array([0.1, 0.9]), "b": jnp.array([0.9, 0.5]), "bias": None}
      >>> top_mask(scores, 2)
      {'a': Array([False,  True], dtype=bool), 'b': Array([ True, False], dtype=bool), 'bias': None}
    """
    leaves, within_leaves, treedef = _flatten(scores, within)
    if not leaves:
        return scores
    return jax.tree.unflatten(treedef, _top(leaves, _as_count(num_kept)[None], within_leaves))


def top_mask_per_leaf(scores: PyTree, num_kept: PyTree, within: PyTree = None) -> PyTree:
    """The mask that keeps the largest scores of each leaf by itself; otherwise as `top_mask`.

    Args:
      scores, within: as for `top_mask`. num_kept: integers (Python or traced int32) in the structure of
        `scores`, or one for every leaf.
    Returns:
      bool leaves in the structure of `scores`; leaf i keeps min(num_kept[i], its candidates).
    Raises:
      ValueError: as for `top_mask`, and if `num_kept` has another structure than `scores`.
    Example:
      >>> top_mask_per_leaf([jnp.array([3.0, 1.0]), jnp.array([5.0, 4.0])], 1)
      [Array([ True, False], dtype=bool), Array([ True, False], dtype=bool)]
    """
    leaves, within_leaves, treedef = _flatten(scores, within)
    if not leaves:
        return scores
    if jax.tree.structure(num_kept) == jax.tree.structure(0):
        counts = [num_kept] * len(leaves)
    else:
        counts, counts_def = jax.tree.flatten(num_kept)
        if counts_def != treedef:
            raise ValueError(f"num_kept: expected the structure of scores {treedef}, got {counts_def}")
    return jax.tree.unflatten(treedef, _top(leaves, jnp.stack([_as_count(k) for k in counts]), within_leaves))


def top_mask_with_floors(scores: PyTree, num_kept: Count, floors: PyTree, within: PyTree = None) -> PyTree:
    """The mask of each leaf's highest scores, as many as its floor, and of the highest of the rest of all leaves.

      base_l = the min(floor_l, candidates_l) highest of leaf l;  mask = base + the (k - |base|) highest of the rest

    Both selections rank as `top_mask` does. Where the floors exceed the count, |base| > k, the mask is the k highest of
    the base: the count holds, the floors do not.

    Args:
      scores, num_kept, within: as for `top_mask`. floors: integers, Python or traced int32, in the structure of
        `scores`.
    Returns:
      bool leaves in the structure of `scores`, exactly min(num_kept, candidates) of them True.
    Raises:
      ValueError: as for `top_mask`, and if `floors` have another structure than `scores`.
    Example:
      >>> top_mask_with_floors([jnp.array([5.0, 4.0, 3.0]), jnp.array([1.0, 2.0])], 3, [0, 1])
      [Array([ True,  True, False], dtype=bool), Array([False,  True], dtype=bool)]
    """
    if not jax.tree.leaves(scores):
        return scores
    base = top_mask_per_leaf(scores, floors, within)
    num_base = sum((jnp.sum(leaf, dtype=jnp.int32) for leaf in jax.tree.leaves(base)), jnp.int32(0))
    count = _as_count(num_kept)
    over = num_base > count
    everything = jax.tree.map(jnp.ones_like, base) if within is None else within
    rest = jax.tree.map(lambda b, w: jnp.where(over, b, jnp.logical_and(w, jnp.logical_not(b))), base, everything)
    chosen = top_mask(scores, jnp.where(over, count, count - num_base), rest)
    return jax.tree.map(lambda b, c: jnp.logical_or(c, jnp.logical_and(b, jnp.logical_not(over))), base, chosen)


def has_nan(scores: PyTree) -> jax.Array:
    """Whether any score is NaN: a bool scalar.

    Example:
      >>> bool(has_nan([jnp.array([1.0, jnp.nan]), None]))
      True
    """
    flags = [jnp.any(jnp.isnan(leaf)) for leaf in jax.tree.leaves(scores)]
    return jnp.any(jnp.stack(flags)) if flags else jnp.array(False)


def _flatten(scores: PyTree, within: PyTree) -> tuple[list, list, Any]:
    leaves, treedef = jax.tree.flatten(scores)
    leaves = [as_jax("scores", leaf) for leaf in leaves]
    for leaf in leaves:
        if leaf.dtype.name not in BITS:
            raise ValueError(f"scores: expected dtypes {', '.join(BITS)}, got {leaf.dtype.name}")
    total = sum(math.prod(leaf.shape) for leaf in leaves)
    if total >= 2**31:
        raise ValueError(f"scores: expected fewer than 2^31 in all, got {total}")
    if within is None:
        return leaves, [None] * len(leaves), treedef
    within_leaves, within_def = jax.tree.flatten(within)
    if within_def != treedef:
        raise ValueError(f"within: expected the structure of scores {treedef}, got {within_def}")
    within_leaves = [jnp.asarray(leaf) for leaf in within_leaves]
    for leaf, candidates in zip(leaves, within_leaves, strict=True):
        if candidates.shape != leaf.shape or candidates.dtype != bool:
            got = f"{candidates.dtype}{list(candidates.shape)}"
            raise ValueError(f"within: expected bool{list(leaf.shape)}, got {got}")
    return leaves, within_leaves, treedef


def _as_count(num_kept: Count) -> jax.Array:
    if isinstance(num_kept, int | np.integer | np.ndarray):
        num_kept = min(max(int(num_kept), 0), 2**31 - 1)
    return jnp.maximum(jnp.asarray(num_kept).astype(jnp.int32), 0)


@jax.jit
def _top(leaves: list, k: jax.Array, within: list) -> list:
    """The masks of `leaves`; k holds one count for all of them together, or one for each."""
    together = k.shape[0] == 1
    names = {leaf.dtype.name for leaf in leaves}
    wide = names.pop() if len(names) == 1 else "float64" if "float64" in names else "float32"
    unsigned = np.uint64 if BITS[wide] == 64 else np.uint32
    sizes = np.array([math.prod(leaf.shape) for leaf in leaves], np.int32)
    everything, nothing = np.uint32(0), np.uint32(2**32 - 1)

    def keys_of(i, thresholds):
        # The barrier ties the leaf to this pass: XLA would else hoist the keys out of the loop, into memory.
        tied = lax.optimization_barrier((leaves[i], within[i], thresholds, np.uint32(sizes[i])))
        return _keys(tied[0], tied[1], wide).astype(unsigned), *tied[2:]

    def count_keys(thresholds):
        thresholds = jnp.broadcast_to(thresholds, (len(leaves), WAYS - 1))
        return jnp.stack([_count(*keys_of(i, thresholds[i])[:2]) for i in range(len(leaves))])

    # Key 0 is no candidate, so the counts at 0 are the sizes; a threshold of 0 keeps all candidates.
    total = (lambda c: jnp.sum(c, axis=0, keepdims=True, dtype=jnp.int32)) if together else (lambda c: c)
    high = np.full(k.shape, _key_of_inf(wide) + 1, unsigned)
    low, at_low, at_next = _descend(count_keys, total, k, np.zeros_like(high), high, sizes)
    threshold = jnp.broadcast_to(jnp.maximum(low, unsigned(1)), sizes.shape)

    # Ties: only some fit if there's an excess. Leaves take theirs in turn until no room is left.
    excess = jnp.logical_and(total(at_low) > k, low > unsigned(0))
    ties, room = at_low - at_next, k - total(at_next)
    room = jnp.clip(room - (jnp.cumsum(ties, dtype=jnp.int32) - ties if together else 0), 0, ties)
    is_cut = jnp.logical_and(excess, jnp.logical_and(room > 0, room < ties))  # at most one leaf if together

    def count_ties(i, thresholds):
        keys, thresholds, size = keys_of(i, thresholds)
        return _count(jnp.where(keys == threshold[i], _countdown(size, keys.shape), np.uint32(0)), thresholds)

    if together:  # only passes over the one leaf
        cut_leaf = jnp.argmax(is_cut)
        branches = [lambda thresholds, i=i: count_ties(i, thresholds[0])[None] for i in range(len(leaves))]
        wanted, present = (total(jnp.where(is_cut, a, 0)) for a in (room, ties))
        count = lambda thresholds: lax.switch(cut_leaf, branches, thresholds)  # noqa: E731
    else:
        wanted, present = jnp.where(is_cut, room, ties), ties
        count = lambda thresholds: jnp.stack([count_ties(i, t) for i, t in enumerate(thresholds)])  # noqa: E731
    high = np.full(wanted.shape, sizes.max() + 1, np.uint32)
    cut, _, _ = _descend(count, lambda c: c, wanted, np.ones_like(high), high, present)
    cut = jnp.where(is_cut, cut, jnp.where(jnp.logical_and(excess, room == 0), nothing, everything))

    masks = []
    for i, (leaf, candidates) in enumerate(zip(leaves, within, strict=True)):
        keys = _keys(leaf, candidates, wide).astype(unsigned)
        first = _countdown(np.uint32(leaf.size), leaf.shape) >= cut[i]
        masks.append(jnp.logical_or(keys > threshold[i], jnp.logical_and(keys == threshold[i], first)))
    return masks


def _descend(
    count: Callable, total: Callable, k: jax.Array, low: Any, high: Any, at_low: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The largest threshold in [low, high) that at least k keys reach; any that exactly k reach will do.

    Args:
      count: unsigned thresholds [G, WAYS - 1] -> how many keys of each leaf reach them, int32 [L, WAYS - 1].
      total: sums over the leaves of a group, [L, ...] -> [G, ...]. k: int32 [G]. low, high: unsigned [G].
      at_low: int32 [L], how many reach `low`; none reach `high`.
    Returns:
      the threshold [G]; how many keys of each leaf reach it, and how many the next higher key [L] (the latter
      only if more than k reach the threshold).
    """
    one, ways = low.dtype.type(1), low.dtype.type(WAYS)

    def unfinished(state):
        low, high, at_low, _ = state
        return jnp.any(jnp.logical_and(total(at_low) > k, high - low > one))

    def narrow(state):
        low, high, at_low, at_high = state
        step = (high - low - one) // ways + one
        steps = jnp.arange(1, WAYS, dtype=low.dtype)[None] * step[:, None]
        thresholds = low[:, None] + jnp.minimum(steps, (high - low)[:, None])
        counts = count(thresholds)
        reached = total(counts) >= k[:, None]
        # Thresholds rise and counts fall, so the new ends are a maximum and a minimum.
        return (
            jnp.max(jnp.where(reached, thresholds, low[:, None]), axis=1),
            jnp.min(jnp.where(reached, high[:, None], thresholds), axis=1),
            jnp.min(jnp.where(reached, counts, at_low[:, None]), axis=1),
            jnp.max(jnp.where(reached, at_high[:, None], counts), axis=1),
        )

    start = jnp.asarray(low), jnp.asarray(high), jnp.asarray(at_low), jnp.zeros(at_low.shape, jnp.int32)
    low, _, at_low, at_high = lax.while_loop(unfinished, narrow, start)
    return low, at_low, at_high


def _count(keys: jax.Array, thresholds: jax.Array) -> jax.Array:
    """How many keys reach each threshold: int32 [len(thresholds)]."""
    flags = lambda k, ts: [(k >= t).astype(jnp.int32) for t in ts]  # noqa: E731
    on_cpu, elsewhere = (lambda k, ts, f=f: f(flags(k, ts)) for f in (_sum_on_cpu, _sum))
    return lax.platform_dependent(keys, thresholds, cpu=on_cpu, default=elsewhere)


def _sum(flags: Sequence) -> jax.Array:
    return jnp.stack([jnp.sum(flag, dtype=jnp.int32) for flag in flags])


def _sum_on_cpu(flags: list) -> jax.Array:
    """One variadic reduction over all axes but the first, then plain sums, which can be all-reduced."""
    shape = flags[0].shape
    rows = len(shape) > 1 and (shape[0] <= 1024 or math.prod(shape[1:]) >= 64)  # keeps partial counts small
    zeros = [np.int32(0)] * len(flags)
    add = lambda a, b: [x + y for x, y in zip(a, b, strict=True)]  # noqa: E731
    parts = jnp.stack(lax.reduce(flags, zeros, add, range(int(rows), len(shape))))
    return jnp.sum(parts, axis=1, dtype=jnp.int32) if rows else parts


def _countdown(size: Any, shape: tuple[int, ...]) -> jax.Array:
    """size - flat row-major index: uint32, so lower indices rank higher, down to 1."""
    left = jnp.full(shape, size)
    for axis in range(len(shape)):
        left = left - lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(math.prod(shape[axis + 1 :]))
    return left


def _key_of_inf(wide: str) -> int:
    sign = 1 << (BITS[wide] - 1)
    return sign + int(np.array(np.inf, jnp.dtype(wide)).view(f"uint{BITS[wide]}"))


def _keys(leaf: jax.Array, candidates: jax.Array | None, wide: str) -> jax.Array:
    """Unsigned integers in the order of the floats: 0 for no candidate, 1 for NaN, then -inf to inf; -0 = +0.

    Integer arithmetic only: XLA on CPU flushes denormals.
    """
    bits = _bits(leaf, wide)
    unsigned = bits.dtype.type
    sign = unsigned(1 << (BITS[wide] - 1))
    inf = unsigned(_key_of_inf(wide) - int(sign))
    keys = jnp.where(bits >= sign, unsigned(0) - bits, bits + sign)  # -0 wraps to the key of +0
    keys = jnp.where((bits & ~sign) > inf, unsigned(1), keys)
    return keys if candidates is None else jnp.where(candidates, keys, unsigned(0))


def _bits(leaf: jax.Array, wide: str) -> jax.Array:
    """The bits of the scores as `wide` floats, exactly, denormals too."""
    if leaf.dtype.name == wide:
        return lax.bitcast_convert_type(leaf, f"uint{BITS[wide]}")
    if leaf.dtype.name == "bfloat16":
        bits = lax.bitcast_convert_type(leaf, jnp.uint16).astype(jnp.uint32) << np.uint32(16)
    else:
        bits = lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32)  # normal: no float16 denormals
    if wide == "float32":
        return bits
    sign, magnitude = bits >> np.uint32(31), bits & np.uint32(2**31 - 1)
    denormal = magnitude.astype(jnp.float64) * np.float64(2.0**-149)
    normal = lax.bitcast_convert_type(magnitude, jnp.float32).astype(jnp.float64)
    value = jnp.where(magnitude < np.uint32(1 << 23), denormal, normal)
    return lax.bitcast_convert_type(value, jnp.uint64) | (sign.astype(jnp.uint64) << np.uint64(63))
