"""Reads CIFAR-10 from a folder prepared for TFDS into arrays, without TensorFlow, and caches the result."""

import contextlib
import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["decode", "prepared_folder", "read"]

_CHUNK = 500  # records read at once
_NAMES = ("train_images", "train_labels", "test_images", "test_labels", "note")


def prepared_folder(data_dir: Path) -> Path | None:
    """The newest prepared version of CIFAR-10 in a folder of TFDS data sets, or None."""
    versions = []
    for info in (data_dir / "cifar10").glob("*/dataset_info.json"):
        parts = info.parent.name.split(".")
        if all(part.isdecimal() for part in parts):
            versions.append(([int(part) for part in parts], info.parent))
    return max(versions)[1] if versions else None


def read(folder: Path, cache_dir: str | Path | None = None, progress: bool = False) -> dict[str, np.ndarray]:
    """`decode(folder)`, or the cached result of an earlier call; TFDS is imported only where there is none.

    The cache is one file, written under another name and renamed; its name depends on the path, size and time
    of the record files. It is passed over where it is damaged or cannot be read or written.

    Args:
      folder: of one version. cache_dir: None: $XDG_CACHE_HOME/rare_gems, else ~/.cache/rare_gems.
      progress: show a bar while images are decoded.
    Raises:
      ValueError: a file of the folder is damaged.
    """
    if cache_dir is None:
        cache_dir = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rare_gems"
    cache = Path(cache_dir).expanduser() / f"cifar10-{_identity(folder)}.npz"
    try:
        # np.load, given a name, leaves the file open when it is damaged.
        with (
            cache.open("rb") as file,
            np.load(file, allow_pickle=False) as stored,
        ):  # a zip file: a damaged array fails its CRC
            return {name: stored[name] for name in _NAMES}
    except Exception:  # absent, or damaged in one of many ways: decode again
        arrays = decode(folder, progress)
    with contextlib.suppress(OSError):  # a read-only or full disk: decode again next time
        _save(cache, arrays)
    return arrays


def decode(folder: Path, progress: bool = False) -> dict[str, np.ndarray]:
    """Decodes all records, one after another (threads are slower: decoding images this small holds the GIL).

    Args:
      folder: of one version, e.g. data_dir/cifar10/3.0.2. progress: show a bar.
    Returns:
      train_images and test_images: uint8 [N, 32, 32, 3]; train_labels and test_labels: int32 [N];
      note: a string, "JPEG" if there are JPEG images (PNG loses nothing).
    Raises:
      ValueError: a file of the folder is damaged.
    """
    import tensorflow_datasets as tfds
    from tqdm import tqdm

    try:
        builder: Any = tfds.builder_from_directory(folder)  # Any: its sources are declared too narrowly
        splits = {name: builder.info.splits[name] for name in ("train", "test")}
        decoders = {"image": tfds.decode.SkipDecoding()}  # our own decoder: TFDS picks whichever it finds
        sources = {name: builder.as_data_source(name, decoders=decoders) for name in splits}
    except Exception as error:  # of many kinds: JSON, protobuf, a missing split, another file format
        raise ValueError(f"expected TFDS array_record files in {folder}, got: {_one_line(error)}") from error
    arrays, formats = {}, set()
    total = sum(split.num_examples for split in splits.values())
    bar = tqdm(total=total, desc="decoding CIFAR-10", unit="image", mininterval=0.5, disable=None if progress else True)
    with _quiet_absl(), bar:
        for name, split in splits.items():
            images = np.empty((split.num_examples, 32, 32, 3), np.uint8)
            labels = np.empty(split.num_examples, np.int32)
            end = 0
            for shard in split.file_instructions:
                begin, end = end, end + shard.take
                for first in range(begin, end, _CHUNK):
                    some = range(first, min(first + _CHUNK, end))
                    try:
                        for i, example in zip(some, sources[name].__getitems__(list(some)), strict=True):
                            labels[i] = example["label"]
                            images[i], kind = _decode_image(example["image"])
                            formats.add(kind)
                    except Exception as error:  # RuntimeError, IndexError, UnidentifiedImageError, protobuf's
                        message = f"damaged record file {shard.filename}: {_one_line(error)}"
                        raise ValueError(message) from error
                    bar.update(len(some))
            arrays |= {f"{name}_images": images, f"{name}_labels": labels}
    return arrays | {"note": np.array("JPEG" if "JPEG" in formats else "")}


def _decode_image(content: bytes) -> tuple[np.ndarray, str | None]:
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]) as image:
        return np.asarray(image), image.format


def _identity(folder: Path) -> str:
    digest = hashlib.sha256(b"1")  # the version of the cached form
    for path in sorted(folder.resolve().iterdir()):
        stat = path.stat()
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def _save(file: Path, arrays: dict[str, np.ndarray]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=file.parent) as scratch:
        temporary = Path(scratch) / file.name
        np.savez(temporary, allow_pickle=False, **arrays)
        temporary.replace(file)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """array_record logs that single records are slow to read from groups; whole groups, as here, are not."""
    logger = logging.getLogger("absl")
    logger.addFilter(_not_about_groups)
    try:
        yield
    finally:
        logger.removeFilter(_not_about_groups)


def _not_about_groups(record: logging.LogRecord) -> bool:
    return "group size" not in str(record.msg)
