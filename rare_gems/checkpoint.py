"""Checkpoints of a run in progress, with Orbax: asynchronous, the last two kept, verified when they are read.

A checkpoint is a pytree of arrays (a `trainer.Carry`, say) and a JSON dictionary. The leaves are packed into one
vector per dtype, and a digest of all their bytes lies beside them, so that damage is found rather than trained on.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

__all__ = ["DamagedCheckpoint", "Restored", "close", "open_folder", "restore_latest", "save"]

PyTree = Any


class DamagedCheckpoint(UserWarning):
    """A checkpoint could not be read; the one before it is used."""


class Restored(NamedTuple):
    """A checkpoint that was read: where it was taken, its arrays, and the dictionary saved with them."""

    position: int
    tree: PyTree
    notes: dict[str, Any]


def open_folder(folder: Path, keep: int = 2) -> ocp.CheckpointManager:
    """Opens (and makes) a folder of checkpoints that keeps the last `keep`.

    Raises:
      OSError: if the folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
    return ocp.CheckpointManager(folder.resolve(), options=options)


def save(manager: ocp.CheckpointManager, position: int, tree: PyTree, notes: dict[str, Any]) -> None:
    """Saves in the background; the arrays are copied to the host before this returns, so they may be donated.

    Args:
      position: grows with every save of a run. tree: arrays of any dtype, PRNG keys included.
      notes: JSON-able; handed back by `restore_latest`.
    Raises:
      OSError: if this or the previous save could not be written (disk full, read-only).
    """
    if not Path(manager.directory).is_dir():  # Orbax would raise too, but leave threads that never end
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(manager.directory))
    packed = _pack(tree)
    # A copy of the notes, since Orbax writes them later, from a thread.
    meta = {"digest": _digest(packed), "layout": _sizes(packed), "notes": json.loads(json.dumps(notes))}
    args = ocp.args.Composite(arrays=ocp.args.StandardSave(packed), meta=ocp.args.JsonSave(meta))
    _as_os_error(lambda: manager.save(position, args=args), Path(manager.directory))


def close(manager: ocp.CheckpointManager) -> None:
    """Waits for the last save to be on disk. Raises OSError if it could not be written."""
    _as_os_error(manager.wait_until_finished, Path(manager.directory))
    manager.close()


def restore_latest(manager: ocp.CheckpointManager, template: Callable[[dict[str, Any]], PyTree]) -> Restored | None:
    """The newest checkpoint that is whole, or None if there is none.

    A damaged one is skipped with a warning, for the one before it, and put aside as `<position>.damaged`.

    Args:
      template: from the notes to the tree that was saved (arrays or `ShapeDtypeStruct`s).
    Raises:
      ValueError: if `template` does, because the notes belong to something else, or if the arrays are of other sizes.
    """
    for position in sorted(manager.all_steps(), reverse=True):
        try:
            meta = manager.restore(position, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
            notes = meta["notes"]
        except Exception as error:  # whatever the reader stumbles on: a damaged file can fail anywhere
            _drop(manager, position, error)
            continue
        like = template(notes)
        shapes = {name: np.zeros(size, dtype) for name, (size, dtype) in _layout(like).items()}
        if meta.get("layout") != _sizes(shapes):
            expected, got = _sizes(shapes), meta.get("layout")
            raise ValueError(f"{manager.directory}: made by another version: expected arrays {expected}, got {got}")
        try:
            args = ocp.args.Composite(arrays=ocp.args.StandardRestore(shapes))
            packed = {name: np.asarray(x) for name, x in manager.restore(position, args=args)["arrays"].items()}
            if _digest(packed) != meta["digest"]:
                raise ValueError("its digest does not match its contents")
            return Restored(position, _unpack(packed, like), notes)
        except Exception as error:
            _drop(manager, position, error)
    return None


def _drop(manager: ocp.CheckpointManager, position: int, error: Exception) -> None:
    reason = (str(error) or type(error).__name__).splitlines()[0][:120]
    folder = Path(manager.directory) / str(position)
    warnings.warn(f"skipped the damaged checkpoint {folder} ({reason})", DamagedCheckpoint, stacklevel=3)
    aside = folder.with_name(f"{position}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    manager.reload()


def _sizes(packed: dict[str, np.ndarray]) -> dict[str, int]:
    return {name: len(packed[name]) for name in sorted(packed)}


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _impl(leaf: Any) -> str:
    tag = str(leaf.dtype)[4:-1]  # "key<fry>"; jax.random.key_impl wants an array
    return {"fry": "threefry2x32", "urbg": "unsafe_rbg"}.get(tag, tag)


def _layout(tree: PyTree) -> dict[str, tuple[int, np.dtype]]:
    """Size and dtype of the vector that holds all leaves of one dtype."""
    layout: dict[str, tuple[int, np.dtype]] = {}
    for leaf in jax.tree.leaves(tree):
        raw = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        size, dtype = math.prod(raw.shape), np.dtype(raw.dtype)
        layout[dtype.name] = (layout.get(dtype.name, (0, dtype))[0] + size, dtype)
    return layout


def _pack(tree: PyTree) -> dict[str, np.ndarray]:
    leaves = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(tree)]
    groups: dict[str, list[np.ndarray]] = {}
    for leaf in jax.device_get(leaves):
        array = np.asarray(leaf)
        groups.setdefault(array.dtype.name, []).append(array.reshape(-1))
    return {name: np.concatenate(group) for name, group in groups.items()}


def _unpack(packed: dict[str, np.ndarray], like: PyTree) -> PyTree:
    used = dict.fromkeys(packed, 0)
    leaves, treedef = jax.tree.flatten(like)
    out = []
    for leaf in leaves:
        raw = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        name, size = np.dtype(raw.dtype).name, math.prod(raw.shape)
        part = jnp.asarray(packed[name][used[name] : used[name] + size].reshape(raw.shape))
        used[name] += size
        out.append(jax.random.wrap_key_data(part, impl=_impl(leaf)) if _is_key(leaf) else part)
    return treedef.unflatten(out)


def _digest(packed: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(packed):
        digest.update(f"{name}{packed[name].shape}".encode() + np.ascontiguousarray(packed[name]).tobytes())
    return digest.hexdigest()


def _as_os_error(call: Callable[[], Any], folder: Path) -> None:
    """Orbax and tensorstore report a failed write as ValueError, RuntimeError or an OSError of their own."""
    try:
        call()
    except OSError:
        raise
    except Exception as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise OSError(f"could not write a checkpoint in {folder}: {str(error).splitlines()[0][:120]}") from error
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(folder)) from error
