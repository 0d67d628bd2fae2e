"""The bytes of a ticket file, taken apart and checked against its header."""

import json
from typing import Any

import jax
import numpy as np
import safetensors

from rare_gems.storage.ticket_contents import DTYPES, tensor_name
from rare_gems.storage.ticket_trees import Keys, Named

__all__ = ["FORMAT_VERSION", "KEY", "parse"]

FORMAT_VERSION = 1
KEY = "rare_gems"  # one entry: safetensors writes several in arbitrary order


def parse(data: bytes) -> tuple[dict[str, Named], dict[str, Any]]:
    """The tensors by group and name (sorted), masks unpacked, and the header.

    Args:
      data: all bytes of a file that `ticket_file.save` wrote.
    Raises:
      ValueError: in one line, if it is cut off, not ours, newer, or its masks don't have the counts of its header.
    """
    try:
        entries = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError as error:
        raise ValueError(f"cut off, or not a safetensors file ({str(error).splitlines()[0]})") from None
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    if KEY not in metadata:
        raise ValueError(f"a safetensors file, but not a ticket: expected {KEY!r} in its metadata, got none")
    try:
        header = json.loads(metadata[KEY])
        version = int(header["format_version"])
        if version > FORMAT_VERSION:
            raise ValueError(f"format version {version} is newer than {FORMAT_VERSION}: update rare_gems")
        groups: dict[str, Named] = {group: {} for group in header["groups"]}
        for tensor, entry in sorted(entries.items()):  # deserialize has no order
            group, _, name = tensor.partition("/")
            array = np.frombuffer(entry["data"], DTYPES[entry["dtype"]])
            groups[group][name] = array.reshape(entry["shape"])
        groups["mask"] = _unpacked(groups, header)
        _check_keys(groups, header.get("prng_keys", {}))
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"not a ticket: its header or its tensors are damaged ({error!r})") from None
    return groups, header


def _check_keys(groups: dict[str, Named], keys: Keys) -> None:
    for tensor, impl in keys.items():
        group, _, name = tensor.partition("/")
        data = groups[group][name]
        try:
            size = jax.eval_shape(lambda impl=impl: jax.random.key_data(jax.random.key(0, impl=impl))).shape
        except ValueError:
            raise ValueError(f"{tensor}: JAX knows no PRNG keys of the implementation {impl!r}") from None
        if data.dtype != np.uint32 or data.shape[-len(size) :] != size:
            got = f"{data.dtype}{list(data.shape)}"
            raise ValueError(f"{tensor}: expected the data of {impl} keys, uint32[..., {size[-1]}], got {got}")


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
                raise ValueError(f"{tensor_name('mask', name)}: expected {what} {expected}, got {got}")
        masks[name] = bits[:size].astype(bool).reshape(weights.shape)
    for count in ("num_kept", "num_prunable"):
        total = sum(layer[count] for layer in layers.values())
        if header[count] != total:
            raise ValueError(f"{count}: expected {header[count]} as in the header, got {total}")
    return masks
