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

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rare_gems.keep_top import keep_top
from rare_gems.leaf_names import path_name
from rare_gems.leaves import as_jax, cut_dtype
from rare_gems.mask_counts import (
    check,
    check_bool,
    count_for,
    is_concrete,
    layer_counts,
    layer_sparsity,
    num_kept,
    num_prunable,
    sparsity,
)
from rare_gems.prunable import LeafReport, is_prunable, report
from rare_gems.structures import check_prefix, check_shape, check_structure

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
      ValueError: if the mask is of another structure, or JAX, in `fn`, cuts a leaf of 64 bits.
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

    check_prefix("mask", mask, tree, "tree")
    return jax.tree_util.tree_map_with_path(one, mask, tree, is_leaf=_is_none)


def apply(params: PyTree, mask: PyTree) -> PyTree:
    """params * mask: zero where the mask is False; leaves where the mask is None pass through unchanged.

    Args:
      params: any pytree. mask: bool, as from `ones`.
    Returns:
      a tree like `params`, same dtypes; differentiable in `params`. Arrays of JAX at the prunable leaves; of NumPy
      those that JAX would cut.
    Raises:
      ValueError: if the mask is of another structure (the leaves are named, or the kinds of containers), a leaf of it
        is not bool, has another shape than its parameter, or is traced where the parameter is one that JAX would cut.
    """
    check_prefix("mask", mask, params, "params")
    return jax.tree_util.tree_map_with_path(
        lambda path, m, w: w if m is None else _masked(path, m, w), mask, params, is_leaf=_is_none
    )


def _masked(path: tuple, mask: Any, leaf: Any) -> Any:
    check_bool("mask", path, mask)
    check_shape("mask", path, mask, leaf)
    if cut_dtype(leaf) and is_concrete(mask):
        return np.where(np.asarray(mask), leaf, np.zeros((), leaf.dtype))
    leaf = as_jax(f"params of {path_name(path)}", leaf)
    return jnp.where(mask, leaf, jnp.zeros((), leaf.dtype))


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
        check_bool("mask", path, leaf)
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
    check_structure("b", b, a, "a")
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        check_bool("a", path, x)
        check_bool("b", path, y)
        check_shape("b", path, y, x)
    both = num_kept(jax.tree.map(jnp.logical_and, a, b))
    kept = num_kept(a)
    if isinstance(both, int) and isinstance(kept, int):
        return both / kept if kept else 1.0
    both, kept = jnp.float32(both), jnp.float32(kept)
    return jnp.where(kept > 0, both / jnp.maximum(kept, 1), jnp.float32(1))


def _is_none(leaf: Any) -> bool:
    return leaf is None
