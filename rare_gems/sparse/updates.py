"""The arithmetic of updates: what has to be added to the params, so that removed weights become exactly zero."""

from typing import Any

import jax
import jax.numpy as jnp

from rare_gems import masks
from rare_gems.phase import Mask, Params, Ticket
from rare_gems.structures import check_shape, check_structure

__all__ = ["check_alike", "difference", "shaped_like", "to_zero"]


def check_alike(name: str, tree: Any, params: Params) -> None:
    """Raises ValueError, in one line, unless a tree has the structure and the shapes of the params."""
    check_structure(name, tree, params, "the params")
    for (path, w), leaf in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(tree), strict=True):
        check_shape(name, path, leaf, w)


def shaped_like(name: str, tree: Any, like: Any, of: str) -> Any:
    """A tree of the same leaves by name in the structure of another, whatever the containers are.

    Raises:
      ValueError: as `structures.check_structure`.
    Example:
      >>> import collections
      >>> shaped_like("mask", collections.OrderedDict(b=1, a=2), {"a": 0, "b": 0}, "the params")
      {'a': 2, 'b': 1}
    """
    named = {masks.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    wanted = [masks.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)]
    if len(named) != len(jax.tree.leaves(tree)) or sorted(named) != sorted(wanted):
        check_structure(name, tree, like, of)
        return tree
    return jax.tree.unflatten(jax.tree.structure(like), [named[at] for at in wanted])


def to_zero(updates: Params, params: Params, mask: Mask) -> Params:
    """The updates, and -w where the mask is False. Where the params' dtype is wider, so is the result's."""

    def leaf(m: Any, u: Any, w: Any) -> Any:
        return u if m is None else jnp.where(m, *(x.astype(_wider(u, w)) for x in (u, -w)))

    return jax.tree.map(leaf, mask, updates, params, is_leaf=lambda node: node is None)


def difference(after: Ticket, moved: Params, updates: Params, params: Params) -> Params:
    """What leads from `params` to the ticket's, exactly where a weight is removed or was moved by the optimizer only.

    w + (w' - w) is not always w' in floating point, so the optimizer's own update is handed on where it can be.
    """

    def leaf(w: Any, u: Any, moved: Any, new: Any) -> Any:
        wide = _wider(u, w)
        return u if new is moved else jnp.where(new == moved, u.astype(wide), (new - w).astype(wide))

    return jax.tree.map(leaf, params, updates, moved, after.params)


def _wider(update: Any, weight: Any) -> Any:
    """The dtype in which an update leads to zero exactly, where it is narrower than its weight."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(update.dtype, weight.dtype)
