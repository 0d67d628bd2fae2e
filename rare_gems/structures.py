"""Trees that should have one structure: what differs is told by the names of leaves. Needs JAX and NumPy only."""

from typing import Any, Literal

import jax
import numpy as np

from rare_gems.leaf_names import path_name

__all__ = ["check_prefix", "check_shape", "check_structure", "difference"]

PyTree = Any


def check_structure(name: str, tree: PyTree, like: PyTree, of: str) -> None:
    """Raises ValueError unless a tree has the structure of another, with the leaves that only one of them has.

    Args:
      name, of: what the tree, and the other, are called in the message.
    Example:
      >>> check_structure("mask", {"a": 1, "c": 2}, {"a": 1, "b": 2}, "the params")
      Traceback (most recent call last):
      ValueError: mask: expected the structure of the params, got one without b and with c
    """
    if jax.tree.structure(tree) != jax.tree.structure(like):
        raise ValueError(f"{name}: expected the structure of {of}, got {difference(tree, like)}")


def check_prefix(name: str, mask: PyTree, tree: PyTree, of: str) -> None:
    """As `check_structure` of a mask, whose None stands for whatever the tree has there.

    Example:
      >>> check_prefix("mask", {"a": 1, "b": None}, {"a": 1, "b": [2, 3]}, "params")
    """
    try:
        jax.tree.structure(mask, is_leaf=_is_none).flatten_up_to(tree)
    except ValueError:
        if tree is None:
            raise ValueError(f"{of}: expected the structure of the {name}, got None") from None
        told = difference(mask, tree, prefix="tree")
        raise ValueError(f"{name}: expected the structure of {of}, got {told}") from None


def check_shape(name: str, path: tuple, leaf: Any, like: Any) -> None:
    """Raises ValueError, naming the leaf at `path`, unless it has the shape of another.

    Example:
      >>> check_shape("mask", (jax.tree_util.DictKey("w"),), np.ones((2, 3)), np.ones((3, 2)))
      Traceback (most recent call last):
      ValueError: mask of w: expected shape (3, 2), got (2, 3)
    """
    if np.shape(leaf) != np.shape(like):
        raise ValueError(f"{name} of {path_name(path)}: expected shape {np.shape(like)}, got {np.shape(leaf)}")


def difference(tree: PyTree, like: PyTree, prefix: Literal["", "tree", "like"] = "") -> str:
    """How the structure of a tree differs from that of another, in a few words: in leaves, or in kinds of containers.

    Args:
      prefix: which of the two, if any, is a mask, whose None stands for whatever the other has there.
    Example:
      >>> difference([1, {"a": 2}], [1, {"b": 2}])
      'one without 1/b and with 1/a'
      >>> difference([1, (2,)], [1, [2]])
      'tuple in place of list at 1'
    """
    if tree is None:
        return "None"
    is_leaf = _is_none if prefix else None
    ours, theirs = (_plain_names(one, is_leaf) for one in (like, tree))
    parts = (("without", _unrelated(ours, theirs)), ("with", _unrelated(theirs, ours)))
    if told := [f"{word} {_some(names)}" for word, names in parts if names]:
        return f"one {' and '.join(told)}"
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(like, is_leaf=is_leaf)]
    found, expected = (jax.tree.structure(one, is_leaf=is_leaf) for one in (tree, like))
    return _other_kinds(found, expected, paths, 0, prefix) or "another one"


def _plain_names(tree: PyTree, is_leaf: Any) -> list[str]:
    """The names of the leaves, without what NNX's variables add."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return [path_name(path).removesuffix("/value") for path, _ in leaves]


def _unrelated(names: list[str], others: list[str]) -> list[str]:
    """The names that no other one is equal to, begins, or is begun by."""
    known = set(others) | {parent for other in others for parent in _parents(other)}
    return [name for name in names if name not in known and not any(parent in others for parent in _parents(name))]


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return [""] + ["/".join(parts[:i]) for i in range(1, len(parts))]


def _other_kinds(tree: Any, like: Any, paths: list[tuple], depth: int, prefix: str) -> str | None:
    """The first node that is of another kind; `paths` are those of the leaves of `like`."""
    data = {"tree": tree.node_data(), "like": like.node_data()}
    if tree == like or (prefix and data[prefix] is None):
        return None
    at = f" at {path_name(paths[0][:depth])}" if paths and depth else ""
    found, expected = ("a leaf" if one is None else one[0].__name__ for one in data.values())
    if found != expected:
        return f"{found} in place of {expected}{at}"
    counts = [len(node.children()) for node in (tree, like)]
    if counts[0] != counts[1]:
        return f"{found} of {counts[0]} in place of {counts[1]}{at}"
    if data["tree"] != data["like"]:
        return f"{found} of other keys or static fields{at}"
    start = 0
    for ours, theirs in zip(tree.children(), like.children(), strict=True):
        end = start + theirs.num_leaves
        if told := _other_kinds(ours, theirs, paths[start:end], depth + 1, prefix):
            return told
        start = end
    return None


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _is_none(leaf: Any) -> bool:
    return leaf is None
