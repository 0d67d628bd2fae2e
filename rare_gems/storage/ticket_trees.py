"""The trees of a ticket file from its tensors: nested dicts, or the structure of a tree that is given."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems import leaves
from rare_gems.masks import path_name
from rare_gems.phase import PyTree, Ticket
from rare_gems.storage.ticket_contents import tensor_name

__all__ = ["Keys", "Named", "as_keys", "as_leaf", "like_ticket", "nested", "nested_ticket", "restore", "spelled"]

Named = dict[str, np.ndarray]
Keys = dict[str, str]  # tensor -> implementation of the PRNG keys whose data it holds


def nested_ticket(groups: dict[str, Named], keys: Keys) -> dict[str, PyTree]:
    """The trees of the ticket as nested dicts of NumPy arrays, and of typed PRNG keys."""
    empty = dict.fromkeys(groups["params"])  # None where not prunable
    named = {group: groups[group] for group in ("params", "initial") if group in groups}
    named |= {group: empty | groups[group] for group in ("mask", "scores") if group in groups}
    return {group: nested(group, found, keys) for group, found in named.items()}


def nested(group: str, named: dict[str, Any], keys: Keys) -> PyTree:
    """The tree of one group as nested dicts.

    Raises:
      ValueError: if names overlap.
    """
    named = {name: as_keys(leaf, keys.get(tensor_name(group, name))) for name, leaf in named.items()}
    if list(named) == [""]:
        return named[""]
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or last in node:
            tensor = tensor_name(group, name)
            raise ValueError(f"{tensor}: its name overlaps with another leaf's: load with `like`")
        node[last] = leaf
    return _int_keys(tree)


def _int_keys(tree: PyTree) -> PyTree:
    if not isinstance(tree, dict):
        return tree
    # mixed keys stay strings: JAX can't order int and str in one dict
    numbers = all(key.isdecimal() and key == str(int(key)) for key in tree)
    return {int(key) if numbers else key: _int_keys(child) for key, child in tree.items()}


def like_ticket(groups: dict[str, Named], keys: Keys, like: Ticket) -> dict[str, PyTree]:
    """The trees of the ticket in the structure of another, as `restore`."""
    wanted = {"params": like.params, "mask": like.mask}
    if like.scores is not None:
        if "scores" not in groups:
            raise ValueError("saved without scores: load with like._replace(scores=None)")
        wanted["scores"] = like.scores
    if "initial" in groups:
        wanted["initial"] = like.params
    return restore(wanted, groups, keys)


def restore(wanted: dict[str, PyTree], groups: dict[str, Named], keys: Keys) -> dict[str, PyTree]:
    """The trees in the structures of those wanted: arrays of JAX, but what is NumPy's or Python's there is so here.

    Raises:
      ValueError: if names, shapes or dtypes differ, naming them, or JAX would cut a leaf.
    """
    missing, unexpected, wrong, trees = [], [], [], {}
    for group, like in wanted.items():
        paths, treedef = jax.tree_util.tree_flatten_with_path(like)
        specs, found = [(path_name(path), leaf) for path, leaf in paths], groups.get(group, {})
        if len({name for name, _ in specs}) != len(specs):
            raise ValueError(f"like: two leaves of {group} have the same name")
        missing += [tensor_name(group, name) for name, _ in specs if name not in found]
        unexpected += sorted(tensor_name(group, name) for name in set(found) - {name for name, _ in specs})
        for name, leaf in specs:
            got = found.get(name)
            if got is None:
                continue
            expected, got = spelled(leaf), spelled(as_keys(got, keys.get(tensor_name(group, name))))
            if expected != got:
                wrong.append(f"{tensor_name(group, name)} (expected {expected}, got {got})")
        if not (missing or unexpected or wrong):
            trees[group] = treedef.unflatten(
                [as_leaf(tensor_name(group, name), leaf, found[name], keys) for name, leaf in specs]
            )
    problems = {"missing": missing, "unexpected": unexpected, "not of the shape or dtype": wrong}
    listed = [f"{what}: {_some(names)}" for what, names in problems.items() if names]
    if listed:
        raise ValueError(f"does not match `like`: {'; '.join(listed)}")
    return trees


def spelled(leaf: Any) -> str:
    """Dtype and shape: what has to agree."""
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return f"{getattr(array.dtype, 'name', array.dtype)}{list(array.shape)}"  # the order of bytes is the file's matter


def as_leaf(tensor: str, like: Any, array: np.ndarray, keys: Keys) -> Any:
    """An array as a leaf of the kind of another: NumPy's, Python's, or JAX's."""
    if tensor in keys:
        return as_keys(array, keys[tensor])
    if isinstance(like, bool | int | float) and not isinstance(like, np.generic):
        return array.item()
    return array if isinstance(like, np.ndarray | np.generic) else leaves.as_jax(tensor, array)


def as_keys(array: Any, impl: str | None) -> Any:
    """Typed keys from their data; without an implementation the array as it is."""
    return array if impl is None else jax.random.wrap_key_data(jnp.asarray(array), impl=impl)


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
