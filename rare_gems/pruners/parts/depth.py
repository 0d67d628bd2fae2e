"""Which layer comes first: the order that a caller names, or that of a tree whose own order is certain."""

import dataclasses
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rare_gems.masks import path_name
from rare_gems.phase import Mask

__all__ = ["by_leaf", "layers_by_depth"]


def layers_by_depth(mask: Mask, order: Sequence[str] | None = None) -> list[int]:
    """The leaves from the first layer to the last, as their places in leaf order.

    Without `order` it must be certain: lists, tuples, NamedTuples and OrderedDicts have the order of their members,
    dataclasses (so Equinox modules) that of their attributes, and keys of one stem that of their numbers.

    Args:
      mask: any tree with the prunable leaves. order: their names (see `masks.path_name`), from first to last.
    Raises:
      ValueError: if the names are not those of the leaves, each once; without names, if the order would be a guess.
    Example:
      >>> layers_by_depth({"Dense_0": 1, "Dense_1": 1, "Dense_10": 1, "Dense_2": 1})
      [0, 1, 3, 2]
      >>> layers_by_depth({"block": 1, "stem": 1}, ["stem", "block"])
      [1, 0]
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(mask)]
    if order is None:
        return _certain(jax.tree.structure(mask), paths, list(range(len(paths))), 0)
    names = [path_name(path) for path in paths]
    given = [order] if isinstance(order, str) else list(order)
    for what, some in (
        ("a network with two layers called", [name for name in dict.fromkeys(names) if names.count(name) > 1]),
        ("a layer that is not there", [name for name in given if name not in names]),
        ("no", [name for name in names if name not in given]),
        ("twice", [name for name in dict.fromkeys(given) if given.count(name) > 1]),
    ):
        if some:
            raise ValueError(f"order: expected the names of all {len(names)} prunable layers, got {what} {some[0]!r}")
    return [names.index(name) for name in given]


def by_leaf(mask: Mask, ratios: Sequence[float] | Mapping[str, float], order: Sequence[str] | None) -> list[float]:
    """Ratios by name, or from the first layer to the last, in leaf order.

    Raises:
      ValueError: as `layers_by_depth`, or if they are not one a layer.
    Example:
      >>> by_leaf({"block": 1, "stem": 1}, [0.9, 0.1], ["stem", "block"])
      [0.1, 0.9]
    """
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(mask)]
    if isinstance(ratios, Mapping):
        if sorted(ratios) != sorted(names):
            odd = sorted(set(ratios) ^ set(names))
            raise ValueError(f"ratios: expected one for each of {len(names)} layers, by name; not so for {odd[0]}")
        return [ratios[name] for name in names]
    if len(ratios) != len(names):
        raise ValueError(f"ratios: expected {len(names)} numbers in [0, 1], one a layer, got {list(ratios)}")
    if len(set(ratios)) <= 1:
        return list(ratios)
    places = layers_by_depth(mask, order)
    return [ratio for _, ratio in sorted(zip(places, ratios, strict=True))]


def _certain(treedef: Any, paths: list[tuple], places: list[int], level: int) -> list[int]:
    """The places of the leaves of a subtree, whose paths part at `level`, sorted by depth."""
    if len(places) <= 1:
        return places
    parts, start = [], 0
    for child in treedef.children():
        end = start + child.num_leaves
        if end > start:
            parts.append((paths[places[start]][level], _certain(child, paths, places[start:end], level + 1)))
        start = end
    parts = _sorted(treedef.node_data()[0], parts, path_name(paths[places[0]][:level]))
    return [place for _, inside in parts for place in inside]


def _sorted(kind: type, parts: list[tuple[Any, list[int]]], where: str) -> list[tuple[Any, list[int]]]:
    keys = [key for key, _ in parts]
    named = isinstance(keys[0], jax.tree_util.GetAttrKey) and (
        hasattr(kind, "_fields") or dataclasses.is_dataclass(kind)
    )
    if len(parts) == 1 or named or kind is OrderedDict or isinstance(keys[0], jax.tree_util.SequenceKey):
        return parts
    numbered = [re.fullmatch(r"(.*?)[_.-]?(\d*)", path_name((key,)), re.DOTALL) for key in keys]
    numbers = [int(match[2] or -1) for match in numbered if match]
    if len({match[1] for match in numbered if match}) == 1 and len(set(numbers)) == len(keys):
        return [part for _, part in sorted(zip(numbers, parts, strict=True), key=lambda pair: pair[0])]
    names = [path_name((key,)) for key in keys]
    told = ", ".join(names if len(names) <= 6 else [*names[:6], "..."])
    raise ValueError(
        f"order: expected the names of the layers from first to last: those of {where or 'the params'} are sorted by "
        f"name ({told}), which tells no depth; pass order=layer_order(apply, params, state, images), from "
        "rare_gems.models.layer_order"
    )
