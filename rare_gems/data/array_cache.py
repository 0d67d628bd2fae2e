"""Keeps decoded images in a file, so that a folder of images is decoded once."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

__all__ = ["cache_folder", "cached", "save_arrays"]


def cached(
    folder: Path,
    make: Callable[[], dict[str, np.ndarray]],
    names: Sequence[str],
    name: str,
    cache_dir: str | Path | None = None,
) -> dict[str, np.ndarray]:
    """`make()`, or the stored result of an earlier call.

    The cache is one file, written under another name and renamed; its name depends on the path, size and time of the
    files in folder. It is passed over where it is damaged or cannot be read or written.

    Args:
      folder: that make reads. names: of the arrays that make returns. name: the beginning of the cache's file name.
      cache_dir: None: $XDG_CACHE_HOME/rare_gems, else ~/.cache/rare_gems.
    """
    cache = cache_folder(cache_dir) / f"{name}-{_identity(folder)}.npz"
    try:
        # np.load, given a name, leaves the file open when it is damaged. A damaged array in a zip file fails its CRC.
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except Exception:  # absent, or damaged in one of many ways: decode again
        arrays = make()
    with contextlib.suppress(OSError):  # a read-only or full disk: decode again next time
        save_arrays(cache, arrays)
    return arrays


def cache_folder(cache_dir: str | Path | None) -> Path:
    """Where decoded images are kept; by default $XDG_CACHE_HOME/rare_gems, else ~/.cache/rare_gems."""
    if cache_dir is None:
        cache_dir = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rare_gems"
    return Path(cache_dir).expanduser()


def save_arrays(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an npz file under another name and renames it, making its folder first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=file.parent) as scratch:
        temporary = Path(scratch) / file.name
        np.savez(temporary, allow_pickle=False, **arrays)
        temporary.replace(file)


def _identity(folder: Path) -> str:
    digest = hashlib.sha256(b"2")  # the version of the decoder and the cached form
    for path in sorted(folder.resolve().iterdir()):
        stat = path.stat()
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]
