"""Checkpoints of a run in progress, with Orbax: asynchronous, the last two kept, verified when they are read.

A checkpoint is a pytree of arrays (a `trainer.Carry`, say) and a JSON dictionary. Small leaves are packed into one
vector per dtype, with a digest of all their bytes; large ones (`sharding.LARGE`) are arrays of their own, written and
read in the parts in which they lie on the devices, each with a checksum that the devices compute. So no host or device
needs to hold a large array, what is saved on some number of devices and processes can be restored on any other, and
damage is found rather than trained on. In a run of several processes, all call each function, on one file system.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from rare_gems import leaves
from rare_gems.storage.checksum import checksum
from rare_gems.storage.packing import Array, PyTree, check_kept, entries_of, layout_of, one_copy, pack, spelled, unpack

__all__ = ["DamagedCheckpoint", "Restored", "close", "open_folder", "restore_latest", "save"]

T = TypeVar("T")


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
      position: grows with every save of a run. tree: arrays of any dtype, PRNG keys included, under any sharding.
      notes: JSON-able; handed back by `restore_latest`. Those of process 0 are written.
    Raises:
      OSError: if this or the previous save could not be written (disk full, read-only).
      ValueError: if a small array lies in parts on several processes.
    """
    if not Path(manager.directory).is_dir():  # Orbax would raise too, but leave threads that never end
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(manager.directory))
    packed, large = pack(tree)
    arrays = {**packed, **large}
    meta = {
        "digest": _digest(packed),
        "checksums": _checksums(large),
        "layout": spelled({name: (x.shape, x.dtype) for name, x in arrays.items()}),
        "notes": json.loads(json.dumps(notes)),  # a copy, since Orbax writes them later, from a thread
    }
    args = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta))
    _as_os_error(lambda: manager.save(position, args=args), Path(manager.directory))


def close(manager: ocp.CheckpointManager) -> None:
    """Waits for the last save to be on disk. Raises OSError if it could not be written."""
    _as_os_error(manager.wait_until_finished, Path(manager.directory))
    manager.close()


def restore_latest(manager: ocp.CheckpointManager, template: Callable[[dict[str, Any]], PyTree]) -> Restored | None:
    """The newest checkpoint that is whole, or None if there is none.

    A damaged one is skipped with a warning, for the one before it, and put aside as `<position>.damaged`.

    Args:
      template: from the notes to the tree that was saved (arrays or `ShapeDtypeStruct`s). A leaf with a `NamedSharding`
        is restored onto it, whatever it was saved from; others onto the default device.
    Raises:
      ValueError: if `template` does, because the notes belong to something else, the arrays are of other sizes,
        or JAX would cut one of 64 bits (that is no array of NumPy in the template).
    """
    for position in sorted(manager.all_steps(), reverse=True):
        folder = manager.directory / str(position)
        try:
            meta = _together(ocp.JsonCheckpointHandler().restore, folder / "meta")
            notes = meta["notes"]
        except Exception as error:  # whatever the reader stumbles on: a damaged file can fail anywhere
            _drop(manager, position, error)
            continue
        like = template(notes)
        expected, got = spelled(layout_of(like)), meta.get("layout")
        if got != expected:
            raise ValueError(f"{manager.directory}: made by another version: expected arrays {expected}, got {got}")
        check_kept(like)
        try:
            packed, large = _together(_read, folder / "arrays", like, meta["digest"])
            _together(_check, large, meta.get("checksums"))
            return Restored(position, unpack(packed, large, like), notes)
        except jax.errors.JaxRuntimeError:  # another process is lost, or the memory of a device is full
            raise
        except Exception as error:
            _drop(manager, position, error)
    return None


def _check(large: Mapping[str, Array], expected: Any) -> None:
    got = _checksums(large)
    for name in got:
        if got[name] != expected[name]:
            raise ValueError(f"the checksum of {name} does not match its contents")


def _together(call: Callable[..., T], *args: Any) -> T:
    """What `call` returns, or its error. If it fails in one of several processes, it does in all of them: whoever has
    read its parts would wait for the others for ever."""
    result: Any = None
    error: Exception | None = None
    try:
        result = call(*args)
    except Exception as caught:
        error = caught
    if jax.process_count() > 1:
        failed = np.flatnonzero(multihost_utils.process_allgather(np.array(error is not None)))
        if error is None and len(failed):
            error = OSError(f"process {failed[0]} could not read it")
    if error is not None:
        raise error
    return result


def _drop(manager: ocp.CheckpointManager, position: int, error: Exception) -> None:
    reason = (str(error) or type(error).__name__).splitlines()[0][:120]
    folder = Path(manager.directory) / str(position)
    warnings.warn(f"skipped the damaged checkpoint {folder} ({reason})", DamagedCheckpoint, stacklevel=3)
    _together(_put_aside, folder)
    manager.reload()


def _put_aside(folder: Path) -> None:
    if jax.process_index() == 0:
        aside = folder.with_name(f"{folder.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)


def _read(folder: Any, like: PyTree, digest: str) -> tuple[dict[str, np.ndarray], dict[str, Array]]:
    """The packed vectors, and the large leaves, of which each process reads its parts.

    Not through the manager, which would wait for the other processes even if one of them failed.
    """
    wanted: dict[str, Any] = {name: np.empty(shape, dtype) for name, (shape, dtype) in layout_of(like).items()}
    for name, shape, dtype, large, sharding in entries_of(like):
        if large and sharding is not None:
            wanted[name] = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    handler = ocp.StandardCheckpointHandler()
    try:
        arrays = handler.restore(folder, args=ocp.args.StandardRestore(wanted))
    finally:
        handler.close()
    names = [entry.name for entry in entries_of(like) if entry.large]
    large = {name: arrays.pop(name) for name in names}
    if _digest(arrays) != digest:
        raise ValueError("its digest does not match its contents")
    return arrays, large


def _checksums(large: Mapping[str, Array]) -> dict[str, int]:
    sums = {name: _checksum(one_copy(leaf)) for name, leaf in large.items()}
    return {name: int(value) for name, value in jax.device_get(sums).items()}


def _checksum(leaf: Array) -> jax.Array:
    with jax.enable_x64(True) if leaves.cut_dtype(leaf) else contextlib.nullcontext():  # not of a cut copy of NumPy's
        return checksum(leaf)


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
