"""The arithmetic of updates: what has to be added to the params, so that removed weights become exactly zero."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems import masks
from rare_gems.phase import Mask, Params, Ticket

__all__ = ["check_alike", "difference", "to_zero"]


def check_alike(name: str, tree: Any, params: Params) -> None:
    """Raises ValueError, in one line, unless a tree has the structure and the shapes of the params."""
    expected, got = jax.tree.structure(params), jax.tree.structure(tree)
    if got != expected:
        raise ValueError(f"{name}: expected the structure of the params, {expected}, got {got}")
    for (path, w), leaf in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(tree), strict=True):
        if np.shape(leaf) != np.shape(w):
            raise ValueError(f"{name} of {masks.path_name(path)}: expected shape {np.shape(w)}, got {np.shape(leaf)}")


def to_zero(updates: Params, params: Params, mask: Mask) -> Params:
    """The updates, and -w where the mask is False."""

    def leaf(m: Any, u: Any, w: Any) -> Any:
        return u if m is None else jnp.where(m, u, -w.astype(u.dtype))

    return jax.tree.map(leaf, mask, updates, params, is_leaf=lambda node: node is None)


def difference(after: Ticket, moved: Params, updates: Params, params: Params) -> Params:
    """What leads from `params` to the ticket's, exactly where a weight is removed or was moved by the optimizer only.

    w + (w' - w) is not always w' in floating point, so the optimizer's own update is handed on where it can be.
    """

    def leaf(w: Any, u: Any, moved: Any, new: Any) -> Any:
        return u if new is moved else jnp.where(new == moved, u, (new - w).astype(u.dtype))

    return jax.tree.map(leaf, params, updates, moved, after.params)
