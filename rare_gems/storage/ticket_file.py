"""Tickets as `ticket.safetensors` files, which any framework can read.

Tensors, named by the key path of the leaf (parts joined by "/"; a tree of one array has its group's name):
  params/<key path>   the weights                  mask/<key path>      the mask's bits, uint8
  scores/<key path>   the scores, if saved         initial/<key path>   weights to start training from
  state/<key path>    model state (BatchNorm statistics)
Typed PRNG keys are saved as their data, uint32 with one axis more; the header's `prng_keys`, there only where there
are some, names the implementation of each such tensor ({"state/rng": "threefry2x32"}). Without it they are numbers.
A mask is flattened in row-major order and packed eight to a byte, the first weight in the highest bit
(`numpy.packbits`); its shape is that of the params of the same name. The header's one metadata entry,
`rare_gems`, is JSON: format version, method, seed, sparsity, counts, the layers, and what the caller added.
There is no time stamp and every order is fixed, so equal tickets are equal files. `rare_gems/storage/README.md` has the
whole format, and how to read it without this library.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from rare_gems.phase import Params, PyTree, Ticket
from rare_gems.storage.atomic import write_whole
from rare_gems.storage.ticket_bytes import FORMAT_VERSION, KEY, parse
from rare_gems.storage.ticket_contents import fit, on_host, specs_of, tensor_name
from rare_gems.storage.ticket_trees import Named, like_ticket, nested, nested_ticket, restore

__all__ = ["FILE_NAME", "FORMAT_VERSION", "TicketFile", "check", "find", "is_ticket", "load", "read", "save"]

FILE_NAME = "ticket.safetensors"  # in the folder of a run


class TicketFile(NamedTuple):
    """What a file holds; `initial`, `model_state` and `ticket.scores` are None where they were not saved."""

    ticket: Ticket
    initial: Params | None
    model_state: PyTree | None
    metadata: dict[str, Any]


def check(ticket: Ticket, state: PyTree = None) -> None:
    """Refuses what `save` would refuse: to be called before anything is trained.

    Args:
      ticket, state: arrays or `ShapeDtypeStruct`s, such as `jax.eval_shape` makes of the function that draws them.
    Raises:
      ValueError: naming the leaf: it is no array, of a dtype that the file format does not know (objects, strings,
        float8, int4) or of keys of an implementation without a name; its name is another leaf's too; mask, scores and
        params do not fit each other.
    Example:
      >>> import jax
      >>> params, mask = [np.ones(2)], [np.ones(2, bool)]
      >>> check(Ticket(params, None, mask), {"rng": jax.random.key(0)})
      >>> check(Ticket(params, None, mask), {"act": "relu"})
      Traceback (most recent call last):
      ValueError: state/act: expected an array of numbers or bool, got str
    """
    trees = {"params": ticket.params, "mask": ticket.mask, "scores": ticket.scores, "state": state}
    specs = {group: specs_of(group, tree) for group, tree in trees.items() if tree is not None}
    fit({group: {name: spec for name, (spec, _) in found.items()} for group, found in specs.items()})


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
      ticket: params in any real dtype of NumPy or bfloat16, or typed PRNG keys; mask bool. The leaves must be arrays
        (Python numbers will do) or None.
      metadata: JSON-able; should have `method` and `seed`. The entries that follow from the ticket
        (`format_version, groups, layers, num_kept, num_prunable, prng_keys, sparsity`) replace any of the same name.
      initial: the weights that the ticket starts training from, structured as the params.
      model_state: any tree of arrays.
      with_scores: also save the scores.
    Raises:
      ValueError: a mask that is not bool or not in the shape of its params, scores that don't match the mask,
        what else `check` refuses, metadata that is not JSON.
      OSError: naming `path`, where it can't be written; nothing is left behind.
    Example:
      >>> import tempfile
      >>> weights, mask = {"kernel": np.ones((2, 2))}, {"kernel": np.array([[True, False], [False, False]])}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = Path(folder) / "ticket.safetensors"
      ...     save(file, Ticket(weights, None, mask), metadata={"method": "random", "seed": 0})
      ...     load(file).metadata["sparsity"]
      0.75
    """
    trees = {"params": ticket.params, "mask": ticket.mask, "initial": initial, "state": model_state}
    trees["scores"] = ticket.scores if with_scores else None
    specs = {group: specs_of(group, tree) for group, tree in trees.items() if tree is not None}
    fit({group: {name: spec for name, (spec, _) in found.items()} for group, found in specs.items()})
    groups = {group: {name: on_host(leaf) for name, (_, leaf) in found.items()} for group, found in specs.items()}
    keys = {tensor_name(group, name): spec.impl for group, found in specs.items()
            for name, (spec, _) in found.items() if spec.impl}  # fmt: skip
    layers = _layers(groups["mask"])
    totals = {count: sum(layer[count] for layer in layers) for count in ("num_kept", "num_prunable")}
    header = {"method": None, "seed": None, **metadata, **totals, "layers": layers, "groups": sorted(groups)}
    header["sparsity"] = 1 - totals["num_kept"] / totals["num_prunable"] if totals["num_prunable"] else 0.0
    header["format_version"] = FORMAT_VERSION
    header.pop("prng_keys", None)
    header |= {"prng_keys": keys} if keys else {}
    try:
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata: expected values that JSON can hold: {error}") from None
    groups["mask"] = {name: np.packbits(bits.reshape(-1)) for name, bits in groups["mask"].items()}
    tensors = {tensor_name(group, name): leaf for group, named in groups.items() for name, leaf in named.items()}
    write_whole(path, safetensors.numpy.save(tensors, {KEY: text}))


def load(path: str | os.PathLike[str], like: Ticket | None = None, like_state: PyTree = None) -> TicketFile:
    """Reads a ticket and checks it against its header.

    Args:
      path: a file that `save` wrote, or a folder with such a `ticket.safetensors`, as that of a run is.
      like: a ticket of arrays or `jax.ShapeDtypeStruct`: the file must have its names, shapes and dtypes, and
        `ticket` (and `initial`, as `like.params`) come in its structure, as JAX arrays (NumPy if `like` is, a Python
        number if it is one). With `like.scores` None the scores are not read. Without `like`: nested dicts of NumPy
        arrays (keys that are all numbers become int; masks and scores have None where params are not prunable), and
        typed PRNG keys as such.
      like_state: the same for the model state.
    Raises:
      FileNotFoundError: there is no such file.
      ValueError: in one line that names the file: it is cut off, not ours, newer, its masks don't have the
        counts of its header, or it does not match `like`, or JAX would cut a leaf of 64 bits (NumPy in `like`, or
        jax_enable_x64, keeps them).
    """
    data = _file(path).read_bytes()
    try:
        groups, header = parse(data)
        keys = header.get("prng_keys", {})
        trees = nested_ticket(groups, keys) if like is None else like_ticket(groups, keys, like)
        if "state" in groups and like_state is None:
            trees["state"] = nested("state", groups["state"], keys)
        elif like_state is not None:
            trees |= restore({"state": like_state}, groups, keys)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    ticket = Ticket(trees["params"], trees.get("scores"), trees["mask"])
    return TicketFile(ticket, trees.get("initial"), trees.get("state"), header)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Named], dict[str, Any]]:
    """What a file holds, as it is: its arrays by group and name (sorted), masks as bool, and the header.

    Args:
      path: a file that `save` wrote, or a folder, as for `load`.

    Raises:
      FileNotFoundError, ValueError: as `load`.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(f"{folder}/a", Ticket([jnp.ones(2)], None, [jnp.array([True, False])]), metadata={})
      ...     groups, header = read(f"{folder}/a")
      >>> groups["mask"]["0"].tolist(), header["num_kept"]
      ([True, False], 1)
    """
    try:
        return parse(_file(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def find(path: str | os.PathLike[str]) -> Path | None:
    """The ticket file that a path names: itself, or `FILE_NAME` in it if it is a folder; None if there is no such file.

    Example:
      >>> find("no/such/folder") is None
      True
    """
    file = _file(path)
    return file if file.is_file() else None


def _file(path: str | os.PathLike[str]) -> Path:
    return Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)


def is_ticket(path: str | os.PathLike[str]) -> bool:
    """Whether the file's header says that `save` wrote it; False for other files.

    Raises:
      OSError: if it is not there, or no file.
    """
    with Path(path).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(size, 2**27)))
        except (ValueError, RecursionError):  # no JSON, or nested deeper than Python reads
            return False
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return isinstance(metadata, dict) and KEY in metadata


def _layers(mask: Named) -> list[dict[str, Any]]:
    """The header's `layers`, in leaf order."""
    return [
        {"name": name, "shape": list(m.shape), "num_prunable": m.size, "num_kept": int(np.count_nonzero(m))}
        for name, m in mask.items()
    ]
