"""A ticket in some kilobytes: the bits of its mask, the statistics, and what draws its weights anew.

Where training has not touched the weights, they follow from the seed, and only the choice has to be kept. The file is
JSON of one object. `seed_file_version` is 1; `layers` has the name, shape and count of each mask in leaf order; `mask`
the bits of all, each packed as in a ticket file, then joined; `state` the model state as a safetensors file; both
compressed by zlib, in base64. `weights` has some values of each leaf of the params, so that other weights than those
that were chosen from are noticed. The other entries are the caller's: `config` is what draws the weights.
"""

import base64
import json
import math
import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from rare_gems import leaves, masks
from rare_gems.masks import path_name
from rare_gems.phase import Mask, ModelState, Params, PyTree
from rare_gems.storage.atomic import write_whole
from rare_gems.storage.ticket_contents import DTYPES, on_host, specs_of
from rare_gems.storage.ticket_trees import restore

__all__ = ["VERSION", "SeedFile", "differing", "load", "read", "save", "values_of"]

VERSION = 1
_KEY = "seed_file_version"
_OWN = ("layers", "mask", "num_kept", "num_prunable", "sparsity", "state", "weights", _KEY)
_MOST = 4  # values of a leaf


class SeedFile(NamedTuple):
    """What a file holds. metadata: all entries but the mask's bits and the state."""

    mask: Mask
    model_state: ModelState
    metadata: dict[str, Any]


def save(
    path: str | os.PathLike[str],
    mask: Mask,
    *,
    params: Params,
    model_state: ModelState = None,
    metadata: dict[str, Any],
) -> None:
    """Writes the mask, all or nothing.

    Args:
      path: the file, which should end in .json.
      mask: bool, None where not prunable. params: the weights as they are drawn, of which some values are written.
      model_state: any tree of arrays of numbers.
      metadata: JSON-able; what says how the weights are drawn.
    Raises:
      ValueError: for typed PRNG keys among the state, masks and params that do not fit, metadata that is not JSON.
    Example:
      >>> import tempfile
      >>> weights, mask = {"kernel": np.arange(4.0)}, {"kernel": np.array([True, False, False, False])}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(f"{folder}/ticket.json", mask, params=weights, metadata={"seed": 0})
      ...     found = load(f"{folder}/ticket.json", mask, params=weights)
      >>> found.mask["kernel"].tolist(), found.metadata["sparsity"]
      ([True, False, False, False], 0.75)
    """
    specs_of("mask", mask)  # refuses two leaves of one name
    specs_of("params", params)
    specs_of("state", model_state)
    bits = {path_name(at): np.asarray(leaf) for at, leaf in jax.tree_util.tree_leaves_with_path(mask)}
    for name, leaf in bits.items():
        if leaf.dtype != bool:
            raise ValueError(f"mask/{name}: expected dtype bool, got {leaf.dtype}")
    shapes = {path_name(at): leaf.shape for at, leaf in jax.tree_util.tree_leaves_with_path(params)}
    layers = [{"name": name, "shape": list(leaf.shape), "num_kept": int(leaf.sum())} for name, leaf in bits.items()]
    for name, leaf in bits.items():
        if shapes.get(name) != leaf.shape:
            raise ValueError(f"mask/{name}: expected shape {shapes.get(name)}, that of the params, got {leaf.shape}")
    state = {path_name(at): leaf for at, leaf in jax.tree_util.tree_leaves_with_path(model_state)}
    for name, leaf in state.items():
        if leaves.is_key(leaf):
            raise ValueError(f"state/{name}: expected numbers, got PRNG keys; a ticket file holds them")
    entries = {
        _KEY: VERSION,
        **{name: value for name, value in metadata.items() if name not in _OWN},
        "num_kept": masks.num_kept(mask),
        "num_prunable": masks.num_prunable(mask),
        "sparsity": masks.sparsity(mask),
        "layers": layers,
        "weights": values_of(params),
        "mask": _squeezed(b"".join(np.packbits(leaf.reshape(-1)).tobytes() for leaf in bits.values())),
        "state": _squeezed(safetensors.numpy.save({name: on_host(leaf) for name, leaf in state.items()})),
    }
    try:
        text = json.dumps(entries, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata: expected values that JSON can hold: {error}") from None
    write_whole(path, f"{text}\n".encode())


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The entries of a file, of which `config` says how the weights are drawn.

    Raises:
      FileNotFoundError: there is no such file. ValueError: it is another file, damaged, or newer.
    """
    try:
        found = json.loads(Path(path).read_text())
        version = found[_KEY]
        missing = [name for name in _OWN if name not in found]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path}: expected a ticket by its seed (JSON with {_KEY}), got something else") from None
    if version != VERSION or version is True:
        raise ValueError(f"{path}: expected {_KEY} {VERSION}, got {version}: update rare_gems")
    if missing:
        raise ValueError(f"{path}: expected the entries {', '.join(_OWN)}, got none of the name {missing[0]}")
    return found


def load(path: str | os.PathLike[str], mask: Mask, *, params: Params, like_state: ModelState = None) -> SeedFile:
    """Reads a file, and checks that it is of these weights.

    Args:
      path: a file that `save` wrote. mask: of the structure and shapes that are expected; its values do not matter.
      params: the weights, drawn as the metadata say. like_state: the structure, shapes and dtypes of the state.
    Returns:
      the mask and the state, in these structures, and the metadata.
    Raises:
      ValueError: in one line that names the file: as `read`, counts that are not its header's, another structure, or
        other weights.
    """
    entries = read(path)
    try:
        bits = _unpacked(entries)
        state = _tensors(_whole(entries, "state"))
        trees = restore({"mask": mask, "state": like_state}, {"mask": bits, "state": state}, {})
        other = differing(values_of(params), entries["weights"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: damaged ({error!r})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if other:
        raise ValueError(f"{path}: expected the weights that its mask was chosen from, got others in {other[0]}: "
                         "this version of JAX or of the network draws them differently")  # fmt: skip
    metadata = {name: value for name, value in entries.items() if name not in ("mask", "state")}
    return SeedFile(trees["mask"], trees["state"], metadata)


def values_of(params: Params) -> dict[str, list[Any]]:
    """Some values of each leaf, at places evenly spread over it; of keys, of their data. What JSON has no number for,
    "inf" and "nan", is text.

    Example:
      >>> values_of({"kernel": np.arange(9.0)})
      {'kernel': [0.0, 2.0, 4.0, 6.0]}
    """
    found = {}
    for at, leaf in jax.tree_util.tree_leaves_with_path(params):
        flat = on_host(leaf).reshape(-1)
        places = [flat.size * i // _MOST for i in range(min(_MOST, flat.size))]
        values = [float(flat[place]) for place in places]
        found[path_name(at)] = [value if math.isfinite(value) else str(value) for value in values]
    return found


def differing(here: dict[str, list[Any]], there: dict[str, list[Any]]) -> list[str]:
    """The leaves of which the values are further apart than rounding on another device makes them (1e-4)."""

    def close(x: Any, y: Any) -> bool:
        return x == y or (str not in (type(x), type(y)) and math.isclose(x, y, rel_tol=1e-4, abs_tol=1e-6))

    def alike(a: list[Any], b: list[Any]) -> bool:
        return len(a) == len(b) and all(map(close, a, b))

    return [name for name in [*here, *(set(there) - set(here))] if not alike(here.get(name, []), there.get(name, []))]


def _squeezed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _whole(entries: dict[str, Any], name: str) -> bytes:
    try:
        return zlib.decompress(base64.b64decode(entries[name], validate=True))
    except (ValueError, zlib.error) as error:
        raise ValueError(f"{name}: damaged ({error})") from None


def _tensors(data: bytes) -> dict[str, np.ndarray]:
    try:
        found = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError as error:
        raise ValueError(f"state: damaged ({str(error).splitlines()[0]})") from None
    return {name: np.frombuffer(t["data"], DTYPES[t["dtype"]]).reshape(t["shape"]) for name, t in found.items()}


def _unpacked(entries: dict[str, Any]) -> PyTree:
    packed = np.frombuffer(_whole(entries, "mask"), np.uint8)
    sizes = [math.prod(layer["shape"]) for layer in entries["layers"]]
    if sum(-(-size // 8) for size in sizes) != packed.size:
        raise ValueError(f"mask: expected bits for {sum(sizes)} weights, got {packed.size} bytes")
    bits, start = {}, 0
    for layer, size in zip(entries["layers"], sizes, strict=True):
        end = start + -(-size // 8)
        leaf = np.unpackbits(packed[start:end], count=size).astype(bool)
        if leaf.sum() != layer["num_kept"]:
            raise ValueError(f"mask/{layer['name']}: expected {layer['num_kept']} weights kept, got {leaf.sum()}")
        bits[layer["name"]], start = leaf.reshape(layer["shape"]), end
    totals = {"num_kept": sum(int(leaf.sum()) for leaf in bits.values()), "num_prunable": sum(sizes)}
    for name, total in totals.items():
        if entries[name] != total:
            raise ValueError(f"{name}: expected {entries[name]} as in its entries, got {total}")
    return bits
