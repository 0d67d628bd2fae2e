"""A run folder: whether its run is finished, whose it is, and who works in it."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.config.config import Config
from experiments.config.saved import differing, from_fields
from experiments.run_folder import paths
from experiments.terminal.errors import Busy, UsageError
from rare_gems.storage.atomic import write_whole

__all__ = ["check_free", "check_place", "claim", "finished", "held", "read_config", "read_fields", "write_json"]


def write_json(path: Path, value: Any) -> None:
    """Writes JSON as a whole, keys in the order given."""
    write_whole(path, (json.dumps(value, indent=2) + "\n").encode())


def finished(folder: Path, fields: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of a finished run, or None if there is something to do. Writes nothing.

    Raises:
      UsageError: if the folder is of another configuration, isn't a run folder, or its summary cannot be read.
    """
    if not folder.is_dir():
        return None
    if (folder / paths.CONFIG).exists():
        _check_same(folder, fields)
    else:
        others = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        if others:
            found = ", ".join(others[:3])
            raise UsageError(f"{folder}: expected an empty folder or one of this run, got one with {found}")
    summary = folder / paths.SUMMARY
    if not summary.exists() or not (folder / paths.TICKET).exists():
        return None
    try:
        value = json.loads(summary.read_text())
        if {"pruner", "accuracy", "num_kept"} <= value.keys():
            return value
    except (ValueError, AttributeError):
        pass
    raise UsageError(f"{summary}: expected the summary of a run, got something else; remove it to make it anew")


def read_fields(folder: Path) -> dict[str, Any]:
    """The configuration of the run in `folder`, as in config.json.

    Raises:
      ValueError: if there is something else. OSError: if there is none.
    """
    return json.loads((folder / paths.CONFIG).read_text())


def read_config(folder: Path) -> tuple[Config, str | None]:
    """The configuration of the run in `folder`, and the sanity check that made it, or None.

    Raises:
      UsageError: if config.json is that of no run. OSError: if there is none.
    """
    try:
        fields = dict(read_fields(folder))
        check = fields.pop("check", None)
        return from_fields(fields), check
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{folder / paths.CONFIG}: expected the configuration of a run ({error})") from None


def check_place(folder: Path) -> None:
    """Refuses a folder that could not be made, or not be written, when its turn comes. Writes nothing.

    Raises:
      UsageError: naming it, and what is in its way.
    """
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UsageError(f"{folder}: expected a folder, or a place for one, got the file {there}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{folder}: expected a place that can be written, got {there}, which cannot")


def check_free(folder: Path) -> None:
    """Raises Busy if another process has claimed the folder."""
    if (folder / paths.LOCK).exists():
        with held(folder, mode="a"):
            pass


@contextmanager
def claim(folder: Path, fields: dict[str, Any]) -> Iterator[None]:
    """Makes the run folder, writes config.json, and locks the folder against a second process.

    Raises:
      Busy: if another process uses it.
      OSError: if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder):
        write_json(folder / paths.CONFIG, fields)
        yield


@contextmanager
def held(folder: Path, mode: str = "w", busy: str = "another process is running in this folder") -> Iterator[None]:
    """Holds the lock of a folder that exists; a file system without locks holds none.

    Raises:
      Busy: if another process holds it, with the message `busy`.
    """
    with (folder / paths.LOCK).open(mode) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{folder}: {busy}") from None
        except OSError:
            pass
        yield


def _check_same(folder: Path, fields: dict[str, Any]) -> None:
    try:
        found = read_fields(folder)
        told = differing(found, fields)
    except (ValueError, AttributeError):
        raise UsageError(f"{folder / paths.CONFIG}: expected the configuration of a run, got something else") from None
    if told:
        some = "; ".join(f"{name} {there!r} there, {here!r} here" for name, there, here in told[:3])
        raise UsageError(f"{folder} belongs to another configuration: {some}")
