"""What a run leaves on disk: config.json, metrics.csv, summary.json. Every file is renamed into place when whole."""

import csv
import fcntl
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.config import UsageError, digest
from rare_gems.files import write_whole

__all__ = ["COLUMNS", "Busy", "append_row", "check_free", "claim", "finished", "write_json", "write_rows"]


class Busy(UsageError):  # noqa: N818
    """Another process runs in the folder."""


COLUMNS = (
    "phase", "epoch", "step", "loss", "train_accuracy", "validation_accuracy", "test_accuracy", "sparsity_frozen",
    "sparsity", "bound", "flips", "seconds",
)  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    """Writes JSON as a whole, keys in the order given."""
    write_whole(path, (json.dumps(value, indent=2) + "\n").encode())


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes metrics.csv anew; empty cells where a row has None."""
    write_whole(path, _csv([dict(zip(COLUMNS, COLUMNS, strict=True)), *rows]).encode())


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Adds a row to metrics.csv."""
    with path.open("a", newline="") as file:
        file.write(_csv([row]))


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(
        {name: _short(row.get(name)) for name in COLUMNS} for row in rows
    )
    return text.getvalue()


def _short(value: Any) -> Any:
    return f"{value:.7g}" if isinstance(value, float) else value


def finished(folder: Path, fields: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of a finished run, or None if there is something to do. Writes nothing.

    Raises:
      UsageError: if the folder is of another configuration, isn't a run folder, or its summary cannot be read.
    """
    if not folder.is_dir():
        return None
    if (folder / "config.json").exists():
        _check_same(folder, folder / "config.json", fields)
    else:
        others = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        if others:
            found = ", ".join(others[:3])
            raise UsageError(f"{folder}: expected an empty folder or one of this run, got one with {found}")
    summary = folder / "summary.json"
    if not summary.exists() or not (folder / "ticket.safetensors").exists():
        return None
    try:
        value = json.loads(summary.read_text())
        if {"pruner", "accuracy", "num_kept"} <= value.keys():
            return value
    except (ValueError, AttributeError):
        pass
    raise UsageError(f"{summary}: expected the summary of a run, got something else; remove it to make it anew")


def check_free(folder: Path) -> None:
    """Raises Busy if another process has claimed the folder."""
    if (folder / ".lock").exists():
        with (folder / ".lock").open("a") as lock:
            _lock(lock, folder)


@contextmanager
def claim(folder: Path, fields: dict[str, Any]) -> Iterator[None]:
    """Makes the run folder, writes config.json, and locks the folder against a second process.

    Raises:
      Busy: if another process uses it.
      OSError: if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        _lock(lock, folder)
        write_json(folder / "config.json", fields)
        yield


def _lock(file: Any, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(f"{folder}: another process is running in this folder") from None
    except OSError:
        pass  # a file system without locks


def _check_same(folder: Path, path: Path, fields: dict[str, Any]) -> None:
    try:
        found = json.loads(path.read_text())
        differing = [
            f"{name} {_nested(found, name)!r} there, {_nested(fields, name)!r} here"
            for name in sorted(_names(found) | _names(fields))
            if _nested(found, name) != _nested(fields, name)
        ]
    except (ValueError, AttributeError):
        raise UsageError(f"{path}: expected the configuration of a run, got something else") from None
    if digest(found) != digest(fields):
        raise UsageError(f"{folder} belongs to another configuration: {'; '.join(differing[:3])}")


def _names(fields: dict[str, Any], prefix: str = "") -> set[str]:
    names: set[str] = set()
    for name, value in fields.items():
        names |= _names(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name}
    return names


def _nested(fields: dict[str, Any], name: str) -> Any:
    value: Any = fields
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
