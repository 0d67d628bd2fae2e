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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rare_gems.leaves import as_jax
from rare_gems.radix_descent import BITS, WAYS, count_reaching, countdown, descend, key_of_inf, keys_of_floats

__all__ = ["has_nan", "top_mask", "top_mask_per_leaf", "top_mask_with_floors"]

PyTree = Any
Count = int | np.integer | np.ndarray | jax.Array


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
    count = jnp.asarray(num_kept)
    if jnp.iinfo(count.dtype).max > 2**31 - 1:  # no count wraps
        count = jnp.minimum(count, jnp.asarray(2**31 - 1, count.dtype))
    return jnp.maximum(count.astype(jnp.int32), 0)


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
        return keys_of_floats(tied[0], tied[1], wide).astype(unsigned), *tied[2:]

    def count_keys(thresholds):
        thresholds = jnp.broadcast_to(thresholds, (len(leaves), WAYS - 1))
        return jnp.stack([count_reaching(*keys_of(i, thresholds[i])[:2]) for i in range(len(leaves))])

    # Key 0 is no candidate, so the counts at 0 are the sizes; a threshold of 0 keeps all candidates.
    total = (lambda c: jnp.sum(c, axis=0, keepdims=True, dtype=jnp.int32)) if together else (lambda c: c)
    high = np.full(k.shape, key_of_inf(wide) + 1, unsigned)
    low, at_low, at_next = descend(count_keys, total, k, np.zeros_like(high), high, sizes)
    threshold = jnp.broadcast_to(jnp.maximum(low, unsigned(1)), sizes.shape)

    # Ties: only some fit if there's an excess. Leaves take theirs in turn until no room is left.
    excess = jnp.logical_and(total(at_low) > k, low > unsigned(0))
    ties, room = at_low - at_next, k - total(at_next)
    room = jnp.clip(room - (jnp.cumsum(ties, dtype=jnp.int32) - ties if together else 0), 0, ties)
    is_cut = jnp.logical_and(excess, jnp.logical_and(room > 0, room < ties))  # at most one leaf if together

    def count_ties(i, thresholds):
        keys, thresholds, size = keys_of(i, thresholds)
        return count_reaching(jnp.where(keys == threshold[i], countdown(size, keys.shape), np.uint32(0)), thresholds)

    if together:  # only passes over the one leaf
        cut_leaf = jnp.argmax(is_cut)
        branches = [lambda thresholds, i=i: count_ties(i, thresholds[0])[None] for i in range(len(leaves))]
        wanted, present = (total(jnp.where(is_cut, a, 0)) for a in (room, ties))
        count = lambda thresholds: lax.switch(cut_leaf, branches, thresholds)  # noqa: E731
    else:
        wanted, present = jnp.where(is_cut, room, ties), ties
        count = lambda thresholds: jnp.stack([count_ties(i, t) for i, t in enumerate(thresholds)])  # noqa: E731
    high = np.full(wanted.shape, sizes.max() + 1, np.uint32)
    cut, _, _ = descend(count, lambda c: c, wanted, np.ones_like(high), high, present)
    cut = jnp.where(is_cut, cut, jnp.where(jnp.logical_and(excess, room == 0), nothing, everything))

    masks = []
    for i, (leaf, candidates) in enumerate(zip(leaves, within, strict=True)):
        keys = keys_of_floats(leaf, candidates, wide).astype(unsigned)
        first = countdown(np.uint32(leaf.size), leaf.shape) >= cut[i]
        masks.append(jnp.logical_or(keys > threshold[i], jnp.logical_and(keys == threshold[i], first)))
    return masks
