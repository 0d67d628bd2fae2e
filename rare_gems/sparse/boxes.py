"""Leaves in a box of a library's own (`nnx.Param`, Linen's `Partitioned`): taken out, and put back."""

from typing import Any

import jax

from rare_gems.phase import PyTree

__all__ = ["boxed", "unboxed"]

_VALUE = (jax.tree_util.GetAttrKey("value"),)


def unboxed(tree: PyTree) -> PyTree:
    """The tree with what is in the boxes in their place. A box is a node whose one child is its `value`.

    `nnx.Optimizer` hands boxes to `init`, and what is in them to `update`; so both are the same to a method.

    Example:
      >>> from flax import nnx
      >>> unboxed({"kernel": nnx.Param(jax.numpy.ones(2)), "bias": jax.numpy.zeros(1)})
      {'bias': Array([0.], dtype=float32), 'kernel': Array([1., 1.], dtype=float32)}
    """
    if not _boxes(tree):
        return tree
    return jax.tree.map(lambda node: _inside(node) if _is_box(node) else node, tree, is_leaf=_is_box)


def boxed(tree: PyTree, like: PyTree) -> PyTree:
    """The reverse of `unboxed`: the leaves of a tree, None among them, in the boxes of another that has as many.

    Example:
      >>> from flax import nnx
      >>> boxed({"kernel": 1, "bias": None}, {"kernel": nnx.Param(2), "bias": nnx.Param(3)})["bias"].get_value() is None
      True
    """
    if not _boxes(like):
        return tree
    return jax.tree.unflatten(jax.tree.structure(like, is_leaf=_none), jax.tree.leaves(tree, is_leaf=_none))


def _inside(box: Any) -> Any:
    return next(iter(jax.tree.leaves(box)), None)


def _boxes(tree: PyTree) -> bool:
    return any(path[-1:] == _VALUE for path, _ in jax.tree_util.tree_leaves_with_path(tree))


def _is_box(node: Any) -> bool:
    inside = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda inner: inner is not node)[0]
    return len(inside) == 1 and inside[0][0] == _VALUE


def _none(node: Any) -> bool:
    return node is None
