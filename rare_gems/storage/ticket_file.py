"""Tickets as `ticket.safetensors` files, which any framework can read.

Tensors, named by the key path of the leaf (parts joined by "/"; a tree of one array has its group's name):
  params/<key path>   the weights                  mask/<key path>      the mask's bits, uint8
  scores/<key path>   the scores, if saved         initial/<key path>   weights to start training from
  state/<key path>    model state (BatchNorm statistics)
A mask is flattened in row-major order and packed eight to a byte, the first weight in the highest bit
(`numpy.packbits`); its shape is that of the params of the same name. The header's one metadata entry,
`rare_gems`, is JSON: format version, method, seed, sparsity, counts, the layers, and what the caller added.
There is no time stamp and every order is fixed, so equal tickets are equal files.

Reading one without this library:
  tensors = safetensors.numpy.load_file("ticket.safetensors")
  weight = tensors["params/conv1/kernel"]
  mask = np.unpackbits(tensors["mask/conv1/kernel"], count=weight.size).reshape(weight.shape).astype(bool)
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from rare_gems.masks import path_name
from rare_gems.phase import Params, PyTree, Ticket
from rare_gems.storage.atomic import write_whole

__all__ = ["FILE_NAME", "FORMAT_VERSION", "TicketFile", "find", "is_ticket", "load", "save"]

FORMAT_VERSION = 1
FILE_NAME = "ticket.safetensors"  # in the folder of a run
_KEY = "rare_gems"  # one entry: safetensors writes several in arbitrary order
_DTYPES = {
    "F64": np.dtype("float64"), "F32": np.dtype("float32"), "F16": np.dtype("float16"),
    "BF16": np.dtype(jnp.bfloat16), "BOOL": np.dtype("bool"), "I64": np.dtype("int64"),
    "I32": np.dtype("int32"), "I16": np.dtype("int16"), "I8": np.dtype("int8"), "U64": np.dtype("uint64"),
    "U32": np.dtype("uint32"), "U16": np.dtype("uint16"), "U8": np.dtype("uint8"),
}  # fmt: skip
Named = dict[str, np.ndarray]


class TicketFile(NamedTuple):
    """What a file holds; `initial`, `model_state` and `ticket.scores` are None where they were not saved."""

    ticket: Ticket
    initial: Params | None
    model_state: PyTree | None
    metadata: dict[str, Any]


def save(
    path: str | os.PathLike[str],
    ticket: Ticket,
    *,
    metadata: dict[str, Any],
    initial: Params | None = None,
    model_state: PyTree | None = None,
    with_scores: bool = True,
) -> None:
    """Writes a ticket, all or nothing: to a temporary file in the same folder, then renamed.

    Args:
      path: the file, by custom `ticket.safetensors`; its folder must exist.
      ticket: params in any dtype of NumPy or bfloat16, mask bool. The leaves must be arrays or None.
      metadata: JSON-able; should have `method` and `seed`. The entries that follow from the ticket
        (`format_version, groups, layers, num_kept, num_prunable, sparsity`) replace any of the same name.
      initial: the weights that the ticket starts training from, structured as the params.
      model_state: any tree of arrays.
      with_scores: also save the scores.
    Raises:
      ValueError: a mask that is not bool or not in the shape of its params, scores that don't match the mask,
        leaves that are no arrays or share a name, metadata that is not JSON.
      OSError: naming `path`, where it can't be written; nothing is left behind.
    Example:
      >>> import tempfile
      >>> weights, mask = {"kernel": jnp.ones((2, 2))}, {"kernel": jnp.array([[True, False], [False, False]])}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = Path(folder) / "ticket.safetensors"
      ...     save(file, Ticket(weights, None, mask), metadata={"method": "random", "seed": 0})
      ...     load(file).metadata["sparsity"]
      0.75
    """
    trees = {"params": ticket.params, "mask": ticket.mask, "initial": initial, "state": model_state}
    trees["scores"] = ticket.scores if with_scores else None
    groups = {group: _named(group, tree) for group, tree in trees.items() if tree is not None}
    layers = _layers(groups)
    totals = {count: sum(layer[count] for layer in layers) for count in ("num_kept", "num_prunable")}
    header = {"method": None, "seed": None, **metadata, **totals, "layers": layers, "groups": sorted(groups)}
    header["sparsity"] = 1 - totals["num_kept"] / max(totals["num_prunable"], 1)
    header["format_version"] = FORMAT_VERSION
    try:
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata: expected values that JSON can hold: {error}") from None
    groups["mask"] = {name: np.packbits(bits.reshape(-1)) for name, bits in groups["mask"].items()}
    tensors = {_tensor(group, name): leaf for group, named in groups.items() for name, leaf in named.items()}
    write_whole(path, safetensors.numpy.save(tensors, {_KEY: text}))


def load(path: str | os.PathLike[str], like: Ticket | None = None, like_state: PyTree = None) -> TicketFile:
    """Reads a ticket and checks it against its header.

    Args:
      path: a file that `save` wrote.
      like: a ticket of arrays or `jax.ShapeDtypeStruct`: the file must have its names, shapes and dtypes, and
        `ticket` (and `initial`, as `like.params`) come in its structure, as JAX arrays (NumPy if `like` is).
        With `like.scores` None the scores are not read. Without `like`: nested dicts of NumPy arrays (keys
        that are all numbers become int; masks and scores have None where params are not prunable).
      like_state: the same for the model state.
    Raises:
      FileNotFoundError: there is no such file.
      ValueError: in one line that names the file: it is cut off, not ours, newer, its masks don't have the
        counts of its header, or it does not match `like`.
    """
    data = Path(path).read_bytes()
    try:
        groups, header = _read(data)
        trees = _nested_ticket(groups) if like is None else _like_ticket(groups, like)
        if "state" in groups and like_state is None:
            trees["state"] = _nested("state", groups["state"])
        elif like_state is not None:
            trees |= _restore({"state": like_state}, groups)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    ticket = Ticket(trees["params"], trees.get("scores"), trees["mask"])
    return TicketFile(ticket, trees.get("initial"), trees.get("state"), header)


def find(path: str | os.PathLike[str]) -> Path | None:
    """The ticket file that a path names: itself, or `FILE_NAME` in it if it is a folder; None if there is no such file.

    Example:
      >>> find("no/such/folder") is None
      True
    """
    file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    return file if file.is_file() else None


def is_ticket(path: str | os.PathLike[str]) -> bool:
    """Whether the file's header says that `save` wrote it; False for other safetensors files, and for no such files."""
    with Path(path).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(size, 2**27)))
        except (ValueError, RecursionError):  # no JSON, or nested deeper than Python reads
            return False
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return isinstance(metadata, dict) and _KEY in metadata


def _tensor(group: str, name: str) -> str:
    return f"{group}/{name}" if name else group


def _named(group: str, tree: PyTree) -> Named:
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = path_name(path)
        if name in named:
            raise ValueError(f"{group}: two leaves have the name {name!r}")
        try:
            named[name] = np.asarray(leaf, order="C")
        except TypeError:  # typed PRNG keys
            named[name] = np.asarray(None)
        if named[name].dtype.newbyteorder("=") not in _DTYPES.values():
            got = getattr(leaf, "dtype", type(leaf).__name__)
            raise ValueError(f"{_tensor(group, name)}: expected an array of numbers or bool, got {got}")
    return named


def _layers(groups: dict[str, Named]) -> list[dict[str, Any]]:
    """The header's `layers`, in leaf order, after checking that the trees fit each other."""
    params, mask = groups["params"], groups.get("mask")
    if mask is None:
        raise ValueError("mask: expected a tree of bool arrays, got None")
    _fit("mask", mask, {name: params[name] for name in mask if name in params})
    _fit("scores", groups.get("scores", mask), mask)
    _fit("initial", groups.get("initial", params), params)
    for name, bits in mask.items():
        if bits.dtype != bool:
            raise ValueError(f"{_tensor('mask', name)}: expected dtype bool, got {bits.dtype}")
    return [
        {"name": name, "shape": list(m.shape), "num_prunable": m.size, "num_kept": int(np.count_nonzero(m))}
        for name, m in mask.items()
    ]


def _fit(group: str, found: Named, wanted: Named) -> None:
    for name in [*wanted, *found]:
        expected, got = (named[name].shape if name in named else "nothing" for named in (wanted, found))
        if got != expected:
            raise ValueError(f"{_tensor(group, name)}: expected shape {expected}, got {got}")


def _read(data: bytes) -> tuple[dict[str, Named], dict[str, Any]]:
    """The tensors by group and name, masks unpacked, and the header."""
    try:
        entries = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError as error:
        raise ValueError(f"cut off, or not a safetensors file ({str(error).splitlines()[0]})") from None
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    if _KEY not in metadata:
        raise ValueError(f"a safetensors file, but not a ticket: expected {_KEY!r} in its metadata, got none")
    try:
        header = json.loads(metadata[_KEY])
        version = int(header["format_version"])
        if version > FORMAT_VERSION:
            raise ValueError(f"format version {version} is newer than {FORMAT_VERSION}: update rare_gems")
        groups: dict[str, Named] = {group: {} for group in header["groups"]}
        for tensor, entry in entries.items():
            group, _, name = tensor.partition("/")
            array = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]])
            groups[group][name] = array.reshape(entry["shape"])
        groups["mask"] = _unpacked(groups, header)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"not a ticket: its header or its tensors are damaged ({error!r})") from None
    return groups, header


def _unpacked(groups: dict[str, Named], header: dict[str, Any]) -> Named:
    layers = {layer["name"]: layer for layer in header["layers"]}
    if sorted(layers) != sorted(groups["mask"]):
        raise ValueError(f"masks: expected {sorted(layers)} as in the header, got {sorted(groups['mask'])}")
    masks = {}
    for name, layer in layers.items():
        packed, weights = groups["mask"][name], groups["params"][name]
        size, bits = weights.size, np.unpackbits(packed)
        checks = {
            "shape": (tuple(layer["shape"]), weights.shape),
            "num_prunable": (layer["num_prunable"], size),
            "bytes": (((size + 7) // 8,), packed.shape),
            "weights kept": (layer["num_kept"], np.count_nonzero(bits)),
            "unused bits": (0, np.count_nonzero(bits[size:])),
        }
        for what, (expected, got) in checks.items():
            if expected != got:
                raise ValueError(f"{_tensor('mask', name)}: expected {what} {expected}, got {got}")
        masks[name] = bits[:size].astype(bool).reshape(weights.shape)
    for count in ("num_kept", "num_prunable"):
        total = sum(layer[count] for layer in layers.values())
        if header[count] != total:
            raise ValueError(f"{count}: expected {header[count]} as in the header, got {total}")
    return masks


def _nested_ticket(groups: dict[str, Named]) -> dict[str, PyTree]:
    empty = dict.fromkeys(groups["params"])  # None where not prunable
    named = {group: groups[group] for group in ("params", "initial") if group in groups}
    named |= {group: empty | groups[group] for group in ("mask", "scores") if group in groups}
    return {group: _nested(group, leaves) for group, leaves in named.items()}


def _nested(group: str, named: dict[str, Any]) -> PyTree:
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
            tensor = _tensor(group, name)
            raise ValueError(f"{tensor}: its name overlaps with another leaf's: load with `like`")
        node[last] = leaf
    return _int_keys(tree)


def _int_keys(tree: PyTree) -> PyTree:
    if not isinstance(tree, dict):
        return tree
    # mixed keys stay strings: JAX can't order int and str in one dict
    numbers = all(key.isdecimal() and key == str(int(key)) for key in tree)
    return {int(key) if numbers else key: _int_keys(child) for key, child in tree.items()}


def _like_ticket(groups: dict[str, Named], like: Ticket) -> dict[str, PyTree]:
    wanted = {"params": like.params, "mask": like.mask}
    if like.scores is not None:
        if "scores" not in groups:
            raise ValueError("saved without scores: load with like._replace(scores=None)")
        wanted["scores"] = like.scores
    if "initial" in groups:
        wanted["initial"] = like.params
    return _restore(wanted, groups)


def _restore(wanted: dict[str, PyTree], groups: dict[str, Named]) -> dict[str, PyTree]:
    missing, unexpected, wrong, trees = [], [], [], {}
    for group, like in wanted.items():
        paths, treedef = jax.tree_util.tree_flatten_with_path(like)
        specs, found = [(path_name(path), leaf) for path, leaf in paths], groups.get(group, {})
        if len({name for name, _ in specs}) != len(specs):
            raise ValueError(f"like: two leaves of {group} have the same name")
        missing += [_tensor(group, name) for name, _ in specs if name not in found]
        unexpected += sorted(_tensor(group, name) for name in set(found) - {name for name, _ in specs})
        for name, leaf in specs:
            got = found.get(name)
            if got is not None and (got.shape != tuple(leaf.shape) or got.dtype != leaf.dtype):
                expected, got = (f"{array.dtype}{list(array.shape)}" for array in (leaf, got))
                wrong.append(f"{_tensor(group, name)} (expected {expected}, got {got})")
        if not (missing or unexpected or wrong):
            trees[group] = treedef.unflatten([_as(leaf, found[name]) for name, leaf in specs])
    problems = {"missing": missing, "unexpected": unexpected, "not of the shape or dtype": wrong}
    listed = [f"{what}: {_some(names)}" for what, names in problems.items() if names]
    if listed:
        raise ValueError(f"does not match `like`: {'; '.join(listed)}")
    return trees


def _as(like: Any, array: np.ndarray) -> Any:
    return array if isinstance(like, np.ndarray) else jnp.asarray(array)


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
