"""Stacked layers: one array whose first axis counts layers, seen by a method as a list of layers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems.phase import PyTree, Ticket

__all__ = ["Stacked", "join", "split"]

Stacked = Callable[[tuple, Any], bool]


def split(tree: PyTree, stacked: Stacked | None) -> PyTree:
    """The tree with a list of its slices in the place of each stacked leaf.

    Args:
      tree: arrays or `ShapeDtypeStruct`s. stacked: (key path, leaf) -> bool; None: nothing is stacked.
    Raises:
      ValueError: for a stacked leaf that is a scalar.
    Example:
      >>> split({"layers": jnp.array([[1, 2], [3, 4]]), "head": jnp.array([5])}, lambda path, leaf: leaf.ndim == 2)
      {'head': Array([5], dtype=int32), 'layers': [Array([1, 2], dtype=int32), Array([3, 4], dtype=int32)]}
    """
    if stacked is None:
        return tree
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _slices(leaf) if stacked(path, leaf) else leaf, tree)


def join(ticket: Ticket, like: Ticket, stacked: Stacked | None) -> Ticket:
    """The reverse of `split`: a ticket whose slices are stacked again, where they are in `like`."""
    if stacked is None:
        return ticket

    def leaf(path: tuple, old: Any, new: Any) -> Any:
        return jnp.stack(new) if stacked(path, old) else new

    halves = (jax.tree_util.tree_map_with_path(leaf, old, new) for old, new in zip(like, ticket, strict=True))
    return Ticket(*halves)


def _slices(leaf: Any) -> list:
    if not np.shape(leaf):
        raise ValueError("stacked: expected leaves with a first axis that counts layers, got a scalar")
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)] * leaf.shape[0]
    return [leaf[i] for i in range(leaf.shape[0])]
