"""The arrays of a checkpoint: small leaves in one vector for each dtype, large ones by themselves, as they lie."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from rare_gems import leaves
from rare_gems.masks import path_name
from rare_gems.training.sharding import LARGE

__all__ = ["Entry", "check_kept", "entries_of", "layout_of", "one_copy", "pack", "spelled", "unpack"]

PyTree = Any
Array = np.ndarray | jax.Array


class Entry(NamedTuple):
    """What is stored of a leaf, and where: in the vector of its dtype, or ("leaf_7") by itself."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    large: bool
    sharding: NamedSharding | None


def entries_of(tree: PyTree) -> list[Entry]:
    """The entry of each leaf. Only its size says whether it is large: it may lie otherwise when it is restored."""
    out = []
    for i, leaf in enumerate(jax.tree.leaves(tree)):
        raw = jax.eval_shape(jax.random.key_data, leaf) if leaves.is_key(leaf) else leaf
        shape, dtype, sharding = (
            tuple(raw.shape),
            np.dtype(raw.dtype).newbyteorder("="),
            getattr(leaf, "sharding", None),
        )
        if not (isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh)):
            sharding = None
        large = math.prod(shape) >= LARGE
        out.append(
            Entry(name=f"leaf_{i}" if large else dtype.name, shape=shape, dtype=dtype, large=large, sharding=sharding)
        )
    return out


def layout_of(tree: PyTree) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shapes and dtypes of the vectors that hold the small leaves, and of the large leaves."""
    layout: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    for name, shape, dtype, large, _ in entries_of(tree):
        before = layout[name][0][0] if name in layout else 0
        layout[name] = (shape if large else (before + math.prod(shape),), dtype)
    return {name: entry for name, entry in layout.items() if math.prod(entry[0])}  # Orbax writes no empty arrays


def spelled(layout: dict[str, tuple[tuple[int, ...], np.dtype]]) -> dict[str, int | str]:
    """The layout as it is written down: {"float32": 1234, "leaf_3": "float32 (512, 512)"}."""
    return {
        name: shape[0] if name == dtype.name else f"{dtype.name} {shape}"
        for name, (shape, dtype) in sorted(layout.items())
    }


def pack(tree: PyTree) -> tuple[dict[str, np.ndarray], dict[str, Array]]:
    """The vectors of the small leaves, on the host, and the large leaves, as they lie."""
    small: list[Any] = []
    large: dict[str, Array] = {}
    for leaf, entry in zip(jax.tree.leaves(tree), entries_of(tree), strict=True):
        raw: Any = jax.random.key_data(leaf) if leaves.is_key(leaf) else leaf
        if raw.dtype != entry.dtype:  # of the other order of bytes, which JAX does not take
            raw = np.asarray(raw).astype(entry.dtype)
        if entry.large:  # in a run of several processes, Orbax takes from the host what one device holds
            raw = one_copy(raw)
            large[entry.name] = np.asarray(raw) if jax.process_count() > 1 and _is_local(raw) else raw
        elif _is_local(raw) or raw.is_fully_replicated:
            small.append(raw)
        else:
            raise ValueError(f"a small array must be whole in each process: got {leaf.shape}, {leaf.sharding}")
    groups: dict[str, list[np.ndarray]] = {}
    for leaf in jax.device_get(small):
        array = np.asarray(leaf)
        if array.size:
            groups.setdefault(array.dtype.name, []).append(array.reshape(-1))
    return {name: np.concatenate(group) for name, group in groups.items()}, large


def check_kept(like: PyTree) -> None:
    """Raises ValueError for a leaf of 64 bits that JAX would cut, unless it is NumPy's."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(like):
        if not isinstance(leaf, np.ndarray | np.generic) and leaves.cut_dtype(leaf):
            leaves.as_jax(path_name(path), leaf)


def unpack(packed: dict[str, np.ndarray], large: Mapping[str, Array], like: PyTree) -> PyTree:
    """A tree like `like` with the values that `pack` took apart, each leaf where `like`'s is to lie."""
    used = dict.fromkeys(packed, 0)
    templates, treedef = jax.tree.flatten(like)
    out: list[Any] = []
    for leaf, entry in zip(templates, entries_of(like), strict=True):
        if entry.large:
            raw = large[entry.name]
        else:
            start, size = used.get(entry.name, 0), math.prod(entry.shape)
            used[entry.name] = start + size
            vector = packed[entry.name] if size else np.empty(0, entry.dtype)
            part = vector[start : start + size].reshape(entry.shape)
            raw = part if entry.sharding is None else _put(part, entry.sharding)
        if leaves.is_key(leaf):
            out.append(jax.random.wrap_key_data(jnp.asarray(raw), impl=leaves.key_impl(leaf)))
        else:
            out.append(raw if leaves.cut_dtype(leaf) else jnp.asarray(raw))
    return treedef.unflatten(out)


def _put(part: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(part.shape, sharding, part.__getitem__)


def one_copy(leaf: Array) -> Array:
    """One copy of what every device holds; what is spread over devices stays in its parts."""
    return leaf.addressable_data(0) if isinstance(leaf, jax.Array) and leaf.is_fully_replicated else leaf


def _is_local(leaf: Array) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
