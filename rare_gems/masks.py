"""Pure operations on pruning masks of any pytree. Needs JAX and NumPy only.

A mask is a pytree of bool arrays (True = kept) with the structure of the params, and `None` where a leaf of the
params is not prunable. Scores have the same structure. Nothing here knows a framework: dicts, lists, NNX states
and Equinox modules are all pytrees. Arrays of NumPy will do. Where JAX's 64-bit mode is off, those of 64 bits are
kept as they are, or refused by name; none is cut.

Example:
  >>> import jax.numpy as jnp
  >>> from rare_gems import masks
  >>> params = {"dense": {"kernel": jnp.array([[3.0, -1.0], [0.5, -2.0]]), "bias": jnp.ones(2)}}
  >>> mask = masks.ones(params)
  >>> scores = masks.map_kept(jnp.abs, params, mask)
  >>> mask = masks.keep_top(scores, masks.count_for(masks.num_prunable(mask), 0.5))
  >>> masks.apply(params, mask)["dense"]["kernel"].tolist()
  [[3.0, 0.0], [0.0, -2.0]]
"""

import decimal
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rare_gems import selection
from rare_gems.leaf_names import path_name
from rare_gems.leaves import as_jax, cut_dtype
from rare_gems.prunable import LeafReport, is_prunable, report

__all__ = [
    "LeafReport", "apply", "check", "count_for", "flattened", "is_prunable", "keep_top", "laid_like", "layer_counts",
    "layer_sparsity", "map_kept", "num_kept", "num_prunable", "ones", "overlap", "path_name", "report", "shuffle",
    "sparsity",
]  # fmt: skip

PyTree = Any


def ones(params: PyTree, prunable: Callable[[tuple, Any], bool] | None = None) -> PyTree:
    """The dense mask of `params`: True everywhere, and None where a leaf is not prunable.

    Args:
      params: any pytree of arrays. prunable: (key path, leaf) -> bool; by default the rule of `report`, which says of
        each leaf why it counts, or why not.
    Returns:
      bool arrays in the shapes of the prunable leaves.
    Raises:
      ValueError: if no leaf is prunable, or two prunable leaves are one array: a tree of values cannot keep weights
        tied, since the first update parts them, and they would count twice.
    """
    counts = [leaf.prunable for leaf in report(params, prunable)]
    if not any(counts):
        raise ValueError("expected at least one prunable leaf in params, got none")
    leaves, treedef = jax.tree.flatten(params)
    for leaf, counted in zip(leaves, counts, strict=True):
        if counted and not hasattr(leaf, "shape"):
            raise ValueError(f"prunable: expected arrays, got {leaf!r}")
    _check_untied(params, counts)
    return treedef.unflatten([_whole(leaf) if one else None for leaf, one in zip(leaves, counts, strict=True)])


def _whole(leaf: Any) -> jax.Array:
    # Like the leaf, where it is an array: the mask then lies on its devices.
    return jnp.ones_like(leaf, dtype=bool) if isinstance(leaf, jax.Array) else jnp.ones(leaf.shape, bool)


def _check_untied(params: PyTree, counts: list[bool]) -> None:
    seen: dict[int, tuple] = {}
    for (path, leaf), counted in zip(jax.tree_util.tree_leaves_with_path(params), counts, strict=True):
        if not counted or not isinstance(leaf, jax.Array | np.ndarray):
            continue  # a ShapeDtypeStruct may describe many arrays
        memory = id(leaf) if isinstance(leaf, jax.Array) else leaf.__array_interface__["data"][0]  # views, transposes
        if leaf.size and memory in seen:
            raise ValueError(
                f"params: expected an array of its own for each prunable leaf, got one for "
                f"{path_name(seen[memory])} and {path_name(path)}; weights that are tied should be one leaf that "
                "apply uses twice, others copies"
            )
        seen[memory] = path


def map_kept(fn: Callable, tree: PyTree, mask: PyTree, default: Any = None) -> PyTree:
    """`fn(leaf)` at every prunable leaf of `tree`, and `default` where `mask` holds None.

    Args:
      fn: gets the leaf as it is; what it makes of NumPy's, with NumPy's functions, stays as it is.
    Raises:
      ValueError: if JAX, in `fn`, cuts a leaf of 64 bits.
    Example:
      >>> map_kept(jnp.abs, [jnp.array([-1.0]), "name"], [jnp.array([True]), None])
      [Array([1.], dtype=float32), None]
    """

    def one(path: tuple, m: Any, leaf: Any) -> Any:
        if m is None:
            return default
        out = fn(leaf)
        if cut_dtype(leaf) and any(isinstance(part, jax.Array) for part in jax.tree.leaves(out)):
            as_jax(path_name(path) or "tree", leaf)  # raises
        return out

    return jax.tree_util.tree_map_with_path(one, mask, tree, is_leaf=_is_none)


def apply(params: PyTree, mask: PyTree) -> PyTree:
    """params * mask: zero where the mask is False; leaves where the mask is None pass through unchanged.

    Args:
      params: any pytree. mask: bool, as from `ones`.
    Returns:
      a tree like `params`, same dtypes; differentiable in `params`. Arrays of JAX at the prunable leaves; of NumPy
      those that JAX would cut.
    Raises:
      ValueError: if a leaf of the mask is not bool, has another shape than its parameter, or is traced where the
        parameter is one that JAX would cut.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, m, w: w if m is None else _masked(path, m, w), mask, params, is_leaf=_is_none
    )


def _masked(path: tuple, mask: Any, leaf: Any) -> Any:
    _check_bool("mask", path, mask)
    if mask.shape != np.shape(leaf):
        raise ValueError(f"mask of {path_name(path)}: expected shape {np.shape(leaf)}, got {mask.shape}")
    if cut_dtype(leaf) and _is_concrete(mask):
        return np.where(np.asarray(mask), leaf, np.zeros((), leaf.dtype))
    leaf = as_jax(f"params of {path_name(path)}", leaf)
    return jnp.where(mask, leaf, jnp.zeros((), leaf.dtype))


def num_prunable(mask: PyTree) -> int:
    """How many weights may be removed: the size of the mask (or of scores). Works on `ShapeDtypeStruct`s."""
    return sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(mask))


def num_kept(mask: PyTree) -> Any:
    """How many weights the mask keeps: a Python integer, or a traced int32 scalar under tracing.

    Raises:
      ValueError: if a leaf is not a bool array (a `ShapeDtypeStruct` has no values to count).
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(mask):
        _check_bool("mask", path, leaf)
    leaves = jax.tree.leaves(mask)
    if not _is_concrete(leaves):
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
    _check_integer("num_prunable", num_prunable)
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
      ValueError: if a leaf is not a bool array, or is traced.
    """
    leaves = jax.tree_util.tree_leaves_with_path(mask)
    for path, leaf in leaves:
        _check_bool("mask", path, leaf)
        if not _is_concrete(leaf):
            raise ValueError(f"mask of {path_name(path)}: expected values (counts per layer are taken on the host, "
                             f"outside jit), got the tracer {leaf}")  # fmt: skip
    return {path_name(path): (int(np.count_nonzero(leaf)), math.prod(leaf.shape)) for path, leaf in leaves}


def layer_sparsity(mask: PyTree) -> dict[str, float]:
    """The fraction removed per layer: path -> value, in leaf order; 0 for an empty layer. On the host only.

    Example:
      >>> layer_sparsity({"a": jnp.array([True, False, False, False]), "b": None})
      {'a': 0.75}
    """
    return {name: _removed(kept, n) for name, (kept, n) in layer_counts(mask).items()}


def keep_top(
    scores: PyTree,
    num_kept: Any,
    scope: Literal["global", "layer"] = "global",
    within: PyTree | None = None,
    at_least: Any = None,
) -> PyTree:
    """The mask of exactly `num_kept` highest scores; ties are broken by leaf order, then flat index.

    With `at_least` each layer first keeps that many of its own highest, then the highest of the rest of all layers
    fill the count.

    Args:
      scores: float arrays, None where not prunable. NaN ranks lowest under tracing. NumPy float64 is refused where
        JAX's 64-bit mode is off.
      num_kept: Python or traced integer; with scope "layer" the number kept in each layer, or a tree of
        integers that matches `scores`.
      scope: compare all scores with each other ("global"), or within each leaf ("layer").
      within: bool, the candidates (default: all). Under tracing, a `num_kept` above the number of candidates
        keeps them all.
      at_least: with scope "global", how many each layer keeps at least: an integer, or a tree of them that matches
        `scores`, Python or traced. A layer with fewer candidates keeps them all. Where floors exceed `num_kept` and
        are traced, the count holds: the highest scores of what the floors would keep are kept.
    Returns:
      a mask in the structure of `scores`.
    Raises:
      ValueError: if a score is not float, a count is not an integer, or the structures differ; outside tracing
        also where a score is NaN, a count is not between 0 and the candidates, or floors exceed the count.
    Example:
      >>> keep_top({"a": jnp.array([0.1, 0.3]), "b": jnp.array([0.3, 0.2])}, 1)
      {'a': Array([False,  True], dtype=bool), 'b': Array([False, False], dtype=bool)}
      >>> keep_top({"a": jnp.array([0.9, 0.8]), "b": jnp.array([0.3, 0.2])}, 2, at_least=1)
      {'a': Array([ True, False], dtype=bool), 'b': Array([ True, False], dtype=bool)}
    """
    if scope not in ("global", "layer"):
        raise ValueError(f"scope: expected 'global' or 'layer', got {scope!r}")
    counts = num_kept
    if scope == "layer" and jax.tree.structure(num_kept) == jax.tree.structure(0):
        counts = jax.tree.map(lambda _: num_kept, scores)
    if within is not None and jax.tree.structure(within) != jax.tree.structure(scores):
        raise ValueError(
            f"within: expected the structure of scores {jax.tree.structure(scores)}, got {jax.tree.structure(within)}"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(within):
        _check_bool("within", path, leaf)
    scores = jax.tree_util.tree_map_with_path(_as_scores, scores)
    _check_counts(scores, counts, within, scope)
    if at_least is not None:
        floors = _floors(scores, counts, within, at_least, scope)
        return selection.top_mask_with_floors(scores, counts, floors, within)
    if scope == "global":
        return selection.top_mask(scores, counts, within)
    return selection.top_mask_per_leaf(scores, counts, within)


def shuffle(key: jax.Array, mask: PyTree, scope: Literal["global", "layer"] = "layer") -> PyTree:
    """Moves the kept weights to random positions, in equal number: within each layer, or ("global") anywhere.

    Args:
      key: consumed once. mask: bool, sharded in any way; leaves on a mesh of explicit axes lie as before.
    Raises:
      ValueError: if a leaf of the mask is not bool.
    Source: the layerwise rearrangement of Sanity-Checking Pruning, section 3; random shuffling of Rare Gems, 4.
    """
    if scope not in ("global", "layer"):
        raise ValueError(f"scope: expected 'global' or 'layer', got {scope!r}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(mask):
        _check_bool("mask", path, leaf)
    leaves, treedef = jax.tree.flatten(mask)
    if not leaves:
        return mask
    if scope == "global":
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
        flat = jax.random.permutation(key, jnp.concatenate([flattened(leaf) for leaf in leaves]))
        pieces = jnp.split(flat, ends)
    else:
        keys = jax.random.split(key, len(leaves))
        pieces = [jax.random.permutation(k, flattened(leaf)) for k, leaf in zip(keys, leaves, strict=True)]
    return treedef.unflatten([laid_like(p, leaf) for p, leaf in zip(pieces, leaves, strict=True)])


def flattened(leaf: Any) -> jax.Array:
    """The leaf as a vector, in row-major order, to be sorted or gathered from.

    On a mesh of explicit axes it is whole on every device: JAX neither sorts nor gathers along a sharded axis there.

    Example:
      >>> vector = flattened(jnp.array([[1, 2], [3, 4]]))
      >>> vector.tolist(), laid_like(vector[::-1], jnp.zeros((2, 2))).tolist()
      ([1, 2, 3, 4], [[4, 3], [2, 1]])
    """
    leaf = jnp.asarray(leaf)
    sharding = jax.typeof(leaf).sharding
    if _is_split(sharding):
        leaf = jax.sharding.reshard(leaf, NamedSharding(sharding.mesh, PartitionSpec()))
    return leaf.reshape(-1)


def laid_like(values: jax.Array, leaf: Any) -> jax.Array:
    """`values` in the shape of `leaf`, and on a mesh of explicit axes lying like it."""
    values = values.reshape(leaf.shape)
    sharding = jax.typeof(leaf).sharding
    return jax.sharding.reshard(values, sharding) if _is_split(sharding) else values


def _is_split(sharding: Any) -> bool:
    return any(axis is not None for axis in sharding.spec)  # axes that XLA decides about (Auto) stand nowhere


def overlap(a: PyTree, b: PyTree) -> Any:
    """The share of the weights kept by `a` that `b` keeps too: |a and b| / |a|.

    Symmetric for masks of equal counts, where it is 1 - |a xor b| / (2 num_kept). 1 if `a` keeps nothing.
    This is not the overlap of Lottery Jackpots, whose Eq. 7 is 1 - |a xor b| / num_prunable: at 90 % sparsity 0.857
    here is 0.971 there. `analysis.overlap` has both, by layer, and what chance would give.
    Raises:
      ValueError: if the two differ in structure or in a shape, or are not bool.
    """
    if jax.tree.structure(a) != jax.tree.structure(b):
        raise ValueError(f"b: expected the structure of a {jax.tree.structure(a)}, got {jax.tree.structure(b)}")
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        _check_bool("a", path, x)
        _check_bool("b", path, y)
        if x.shape != y.shape:
            raise ValueError(f"b of {path_name(path)}: expected shape {x.shape}, got {y.shape}")
    both = num_kept(jax.tree.map(jnp.logical_and, a, b))
    kept = num_kept(a)
    if isinstance(both, int) and isinstance(kept, int):
        return both / kept if kept else 1.0
    both, kept = jnp.float32(both), jnp.float32(kept)
    return jnp.where(kept > 0, both / jnp.maximum(kept, 1), jnp.float32(1))


def check(mask: PyTree, num_kept: int) -> None:
    """Raises ValueError unless `mask` is boolean and keeps exactly `num_kept` weights. On the host only."""
    kept = sum(k for k, _ in layer_counts(mask).values())
    if kept != num_kept:
        raise ValueError(f"mask: expected {num_kept} weights kept, got {kept} of {num_prunable(mask)}")


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _is_concrete(*trees: PyTree) -> bool:
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def _check_bool(name: str, path: tuple, leaf: Any) -> None:
    got = getattr(leaf, "dtype", type(leaf))
    if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.bool_):
        raise ValueError(f"{name} of {path_name(path)}: expected dtype bool, got {got}")
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise ValueError(f"{name} of {path_name(path)}: expected an array, got {leaf}")


def _check_integer(name: str, count: Any) -> None:
    dtype = getattr(count, "dtype", np.asarray(count).dtype if isinstance(count, int) else object)
    if np.shape(count) != () or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"{name}: expected an integer, got {count!r}")


def _as_scores(path: tuple, leaf: Any) -> jax.Array:
    name = f"scores of {path_name(path)}"
    is_array = hasattr(leaf, "dtype") and not isinstance(leaf, jax.ShapeDtypeStruct)
    if not is_array and not isinstance(leaf, bool | int | float | complex):
        raise ValueError(f"{name}: expected a float array, got {leaf!r}")
    dtype = leaf.dtype if is_array else type(leaf)  # NumPy's own, not what JAX makes of it
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name}: expected a floating dtype, got {leaf.dtype if is_array else type(leaf).__name__}")
    scores = as_jax(name, leaf)
    if _is_concrete(scores):
        with jax.ensure_compile_time_eval():
            has_nan = bool(selection.has_nan(scores))
        if has_nan:
            raise ValueError(f"{name}: expected numbers, got NaN")
    return scores


def _check_counts(scores: PyTree, counts: Any, within: PyTree | None, scope: str) -> None:
    if scope == "layer" and jax.tree.structure(counts) != jax.tree.structure(scores):
        raise ValueError(
            f"num_kept: expected the structure of scores {jax.tree.structure(scores)}, got {jax.tree.structure(counts)}"
        )
    for path, count in [((), counts)] if scope == "global" else jax.tree_util.tree_leaves_with_path(counts):
        _check_integer(f"num_kept of {path_name(path)}" if path else "num_kept", count)
    if not _is_concrete(counts, within):
        return
    candidates = scores if within is None else within
    size = num_prunable if within is None else num_kept
    named = [("num_kept", counts, size(candidates))]
    if scope == "layer":
        layers = zip(jax.tree_util.tree_leaves_with_path(candidates), jax.tree.leaves(counts), strict=True)
        named = [(f"num_kept of {path_name(path)}", count, size(leaf)) for (path, leaf), count in layers]
    for name, count, most in named:
        if not 0 <= int(count) <= most:
            raise ValueError(f"{name}: expected an integer from 0 to {most}, got {count}")


def _floors(scores: PyTree, count: Any, within: PyTree | None, at_least: Any, scope: str) -> PyTree:
    """`at_least` as a tree like `scores`, checked as far as values are known."""
    if scope != "global":
        raise ValueError(f"at_least: expected the scope 'global', whose layers it holds up, got {scope!r}")
    if jax.tree.structure(at_least) == jax.tree.structure(0):
        at_least = jax.tree.map(lambda _: at_least, scores)
    if jax.tree.structure(at_least) != jax.tree.structure(scores):
        got = jax.tree.structure(at_least)
        raise ValueError(f"at_least: expected the structure of scores {jax.tree.structure(scores)}, got {got}")
    for path, floor in jax.tree_util.tree_leaves_with_path(at_least):
        _check_integer(f"at_least of {path_name(path)}", floor)
        if _is_concrete(floor) and int(floor) < 0:
            raise ValueError(f"at_least of {path_name(path)}: expected an integer of 0 or more, got {floor}")
    if _is_concrete(count, at_least, within):
        size, candidates = (num_prunable, scores) if within is None else (num_kept, within)
        pairs = zip(jax.tree.leaves(at_least), jax.tree.leaves(candidates), strict=True)
        total = sum(min(int(floor), size(leaf)) for floor, leaf in pairs)
        if total > int(count):
            raise ValueError(
                f"at_least: expected floors that sum to at most the {int(count)} weights kept, got {total}"
            )
    return at_least
