"""Stacked layers: one array of which an axis counts layers, seen by a method as a list of layers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems.leaf_names import path_name
from rare_gems.phase import Mask, Params, PyTree

__all__ = ["Axes", "Stacked", "axes_of", "join", "split"]

Stacked = Callable[[tuple, Any], bool | int | None]
Axes = PyTree  # in the structure of the params: the axis that counts layers, or None


def axes_of(stacked: Stacked | None, params: Params, mask: Mask) -> Axes | None:
    """The axis of each prunable leaf that counts layers; None where nothing is stacked.

    Args:
      stacked: (key path, leaf) -> True for the first axis, a number for that axis; False or None for a usual leaf.
      params: arrays or `ShapeDtypeStruct`s. mask: what is prunable of them; the other leaves stay as they are.
    Raises:
      ValueError: for an axis that a leaf has not, naming it.
    Example:
      >>> params = {"layers": jnp.ones((4, 3, 4)), "head": jnp.ones((4, 2))}
      >>> axes_of(lambda path, leaf: leaf.ndim == 3 and 1, params, params)
      {'head': None, 'layers': 1}
    """
    if stacked is None:
        return None

    def axis(path: tuple, leaf: Any, m: Any) -> int | None:
        got = None if m is None else stacked(path, leaf)
        if got is None or got is False:
            return None
        at = 0 if got is True else int(got)
        if not -np.ndim(leaf) <= at < np.ndim(leaf):
            raise ValueError(f"stacked: expected an axis of {path_name(path)}, which has {np.ndim(leaf)}, got {at}")
        return at

    return jax.tree_util.tree_map_with_path(lambda path, m, leaf: axis(path, leaf, m), mask, params, is_leaf=_none)


def split(tree: PyTree, axes: Axes | None) -> PyTree:
    """The tree with a list of its slices in the place of each stacked leaf.

    Args:
      tree: arrays or `ShapeDtypeStruct`s, in the structure of the params; None where there is nothing.
    Example:
      >>> split({"layers": jnp.array([[1, 2], [3, 4]]), "head": jnp.array([5])}, {"layers": 0, "head": None})
      {'head': Array([5], dtype=int32), 'layers': [Array([1, 2], dtype=int32), Array([3, 4], dtype=int32)]}
    """
    if axes is None or tree is None:
        return tree
    return _map(lambda axis, leaf: leaf if axis is None or leaf is None else _slices(leaf, axis), axes, tree)


def join(tree: PyTree, axes: Axes | None) -> PyTree:
    """The reverse of `split`: slices stacked again.

    Example:
      >>> join({"layers": [jnp.ones(2), jnp.zeros(2)]}, {"layers": 1})["layers"].tolist()
      [[1.0, 0.0], [1.0, 0.0]]
    """
    if axes is None or tree is None:
        return tree
    return _map(lambda axis, new: new if axis is None or new is None else jnp.stack(new, axis), axes, tree)


def _map(fn: Callable[[int | None, Any], Any], axes: Axes, tree: PyTree) -> PyTree:
    return jax.tree.map(fn, axes, tree, is_leaf=_none)


def _none(node: Any) -> bool:
    return node is None


def _slices(leaf: Any, axis: int) -> list:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        at = axis % len(leaf.shape)
        return [jax.ShapeDtypeStruct(leaf.shape[:at] + leaf.shape[at + 1 :], leaf.dtype)] * leaf.shape[at]
    return [leaf[(*[slice(None)] * (axis % leaf.ndim), i)] for i in range(leaf.shape[axis])]
