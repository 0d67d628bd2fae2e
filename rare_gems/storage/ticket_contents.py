"""What a ticket file can hold: leaves by name, their shapes and dtypes, and how the trees fit each other."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems import leaves
from rare_gems.masks import path_name
from rare_gems.phase import PyTree

__all__ = ["DTYPES", "Spec", "fit", "on_host", "specs_of", "tensor_name"]

DTYPES = {
    "F64": np.dtype("float64"), "F32": np.dtype("float32"), "F16": np.dtype("float16"),
    "BF16": np.dtype(jnp.bfloat16), "BOOL": np.dtype("bool"), "I64": np.dtype("int64"),
    "I32": np.dtype("int32"), "I16": np.dtype("int16"), "I8": np.dtype("int8"), "U64": np.dtype("uint64"),
    "U32": np.dtype("uint32"), "U16": np.dtype("uint16"), "U8": np.dtype("uint8"),
}  # fmt: skip


class Spec(NamedTuple):
    """The shape of a leaf, its dtype in the file, and the implementation where it is an array of keys."""

    shape: tuple[int, ...]
    dtype: np.dtype
    impl: str | None


def tensor_name(group: str, name: str) -> str:
    """How a leaf is called in the file."""
    return f"{group}/{name}" if name else group


def specs_of(group: str, tree: PyTree) -> dict[str, tuple[Spec, Any]]:
    """What becomes of each leaf in the file, and the leaf, by name.

    Raises:
      ValueError: naming what a file cannot hold.
    """
    named: dict[str, tuple[Spec, Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = path_name(path)
        if name in named:
            raise ValueError(f"{group}: two leaves have the name {name!r}")
        if name.encode(errors="replace").decode() != name:
            raise ValueError(f"{group}: expected names that UTF-8 can hold, got {name!r}")
        named[name] = _spec(tensor_name(group, name), leaf), leaf
    return named


def _spec(tensor: str, leaf: Any) -> Spec:
    if leaves.is_key(leaf):
        impl = leaves.key_impl(leaf)
        if not isinstance(impl, str):
            raise ValueError(f"{tensor}: expected PRNG keys of an implementation that JAX names, got {leaf.dtype}")
        return Spec(tuple(leaf.shape), np.dtype(np.uint32), impl)
    array = leaf if isinstance(getattr(leaf, "dtype", None), np.dtype) else np.asarray(leaf)  # Python's, torch's
    if array.dtype.newbyteorder("=") not in DTYPES.values():
        got = getattr(leaf, "dtype", type(leaf).__name__)
        raise ValueError(f"{tensor}: expected an array of numbers or bool, got {got}")
    return Spec(tuple(array.shape), array.dtype, None)


def on_host(leaf: Any) -> np.ndarray:
    """The leaf as it is written: keys as their data."""
    return np.asarray(jax.random.key_data(leaf) if leaves.is_key(leaf) else leaf, order="C")


def fit(groups: dict[str, dict[str, Spec]]) -> None:
    """Raises ValueError for trees that do not fit each other."""
    params, mask = groups["params"], groups.get("mask")
    if mask is None:
        raise ValueError("mask: expected a tree of bool arrays, got None")
    _match("mask", mask, {name: params[name] for name in mask if name in params})
    _match("scores", groups.get("scores", mask), mask)
    _match("initial", groups.get("initial", params), params)
    for name, bits in mask.items():
        if bits.dtype != bool:
            raise ValueError(f"{tensor_name('mask', name)}: expected dtype bool, got {bits.dtype}")


def _match(group: str, found: dict[str, Spec], wanted: dict[str, Spec]) -> None:
    for name in [*wanted, *found]:
        expected, got = (named[name].shape if name in named else "nothing" for named in (wanted, found))
        if got != expected:
            raise ValueError(f"{tensor_name(group, name)}: expected shape {expected}, got {got}")
