"""Reads image data sets from folders prepared for TFDS into arrays, without TensorFlow."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rare_gems.data.array_cache import cached
from rare_gems.data.dataset import Split
from rare_gems.data.decode import decode_all, decode_image, one_line
from rare_gems.data.tfds_shards import Shard, check_described, check_shard, shards

__all__ = [
    "DataUnavailable",
    "Decoded",
    "Range",
    "decode",
    "decode_range",
    "default_data_dir",
    "prepared_folder",
    "read",
    "read_splits",
]

_CHUNK = 250  # records of one task, some 20 ms
_FEW = 5000  # below, starting processes takes longer than decoding


class Range(NamedTuple):
    """Records first .. last - 1 of an array_record file, and what is wanted of them.

    file: its path. total: records the file should have. num_classes: labels are below. shape, resize: as for
    `decode.decode_image`. skip_broken: leave out images that cannot be decoded, rather than raise.
    """

    file: str
    first: int
    last: int
    total: int
    num_classes: int
    shape: tuple[int, int, int]
    resize: bool
    skip_broken: bool


class Decoded(NamedTuple):
    """images: uint8 [N, H, W, C]. labels: int32 [N]. files: N names of the original files, "" where none is stored.
    kinds: of stored images, "PNG" and "JPEG". broken: images left out, a line each: which, and what is wrong.
    """

    images: np.ndarray
    labels: np.ndarray
    files: list[str]
    kinds: set[str]
    broken: list[str]


def prepared_folder(data_dir: Path, name: str = "cifar10") -> Path | None:
    """The newest prepared version of a data set in a folder of TFDS data sets, or None."""
    versions = []
    for info in (data_dir / name).glob("*/dataset_info.json"):
        parts = info.parent.name.split(".")
        if all(part.isdecimal() for part in parts):
            versions.append(([int(part) for part in parts], info.parent))
    return max(versions)[1] if versions else None


def read(
    folder: Path,
    cache_dir: str | Path | None = None,
    progress: bool = False,
    *,
    name: str = "cifar10",
    shape: tuple[int, int, int] = (32, 32, 3),
) -> dict[str, np.ndarray]:
    """The splits train and test, decoded, or the `cached` result of an earlier call; TFDS is imported only to decode.

    Args:
      folder: of one version, e.g. data_dir/cifar10/3.0.2. cache_dir, name: see `cached`. shape: of every image.
      progress: show a bar while images are decoded.
    Returns:
      train_images and test_images: uint8 [N, *shape]; train_labels and test_labels: int32 [N];
      note: a string, "JPEG" if there are JPEG images (PNG loses nothing).
    Raises:
      ValueError: a file of the folder is damaged.
    """

    def make() -> dict[str, np.ndarray]:
        splits, arrays = decode(folder, shape, progress=progress)[0], {}
        for split, decoded in splits.items():
            arrays |= {f"{split}_images": decoded.images, f"{split}_labels": decoded.labels}
        lossy = any("JPEG" in decoded.kinds for decoded in splits.values())
        return arrays | {"note": np.array("JPEG" if lossy else "")}

    names = ("train_images", "train_labels", "test_images", "test_labels", "note")
    return cached(folder, make, names, name, cache_dir)


def decode(
    folder: Path,
    shape: tuple[int, int, int],
    *,
    resize: bool = False,
    skip_broken: bool = False,
    progress: bool = False,
) -> tuple[dict[str, Decoded], list[str]]:
    """Decodes all records of the splits train and test, on all cores.

    Args:
      folder: of one version, e.g. data_dir/cifar10/3.0.2. shape, resize, skip_broken: see `Range`.
      progress: show a bar.
    Returns:
      ({"train" and "test": the decoded records, in the order of the files}, the names of the classes).
    Raises:
      ValueError: a file of the folder is missing or damaged, or (unless skip_broken) an image.
    """
    import tensorflow_datasets as tfds
    from tqdm import tqdm

    check_described(folder)
    try:
        builder: Any = tfds.builder_from_directory(folder)  # Any: what it holds is declared too narrowly
        if builder.info.file_format.value != "array_record":
            raise ValueError(f"{builder.info.file_format.value} files")
        classes = [str(name) for name in builder.info.features["label"].names]
        counts = {split: builder.info.splits[split].num_examples for split in ("train", "test")}
    except Exception as error:  # of many kinds: JSON, protobuf, a missing split, another file format
        raise ValueError(f"expected TFDS array_record files in {folder}, got: {one_line(error)}") from error
    wanted = {"num_classes": len(classes), "shape": shape, "resize": resize, "skip_broken": skip_broken}
    tasks = [
        (split, Range(file, first, min(first + _CHUNK, num), num, **wanted))
        for split in counts
        for file, num in shards(builder, split)
        for first in range(0, num, _CHUNK)
    ]
    splits = {}
    for split, count in counts.items():
        splits[split] = Decoded(
            images=np.empty((count, *shape), np.uint8),
            labels=np.empty(count, np.int32),
            files=[],
            kinds=set(),
            broken=[],
        )
    total = sum(counts.values())
    look = {"desc": f"decoding {folder.parent.name}", "unit": "image", "mininterval": 0.5}
    bar = tqdm(total=total, disable=None if progress else True, **look)
    results = decode_all([task for _, task in tasks], decode_range, processes=1 if total < _FEW else None)
    with bar, contextlib.closing(results):
        for (split, task), part in zip(tasks, results, strict=True):
            whole = splits[split]
            begin, end = len(whole.files), len(whole.files) + len(part.files)
            whole.images[begin:end], whole.labels[begin:end] = part.images, part.labels
            broken = whole.broken + part.broken
            splits[split] = Decoded(*whole[:2], whole.files + part.files, whole.kinds | part.kinds, broken)
            bar.update(task.last - task.first)
    for split, whole in splits.items():
        num = len(whole.files)
        splits[split] = whole._replace(images=whole.images[:num], labels=whole.labels[:num])
    return splits, classes


def decode_range(task: Range) -> Decoded:
    """Decodes some records of one file; imports NumPy, Pillow, array_record and a protobuf class.

    Raises:
      ValueError: the file is missing or damaged, or (unless skip_broken) an image in it; names the file.
    """
    from array_record.python.array_record_module import ArrayRecordReader
    from tensorflow_datasets.proto import tf_example_pb2

    messages: Any = tf_example_pb2  # a generated module: nothing in it is declared
    check_shard(Shard(task.file, task.total))
    images = np.empty((task.last - task.first, *task.shape), np.uint8)
    labels, files, kinds, broken, place = [], [], set(), [], task.file
    try:
        reader = ArrayRecordReader(task.file, "readahead_buffer_size:0")
        records = reader.read(task.first, task.last)
        reader.close()
        for i, record in enumerate(records, task.first):
            place = f"{task.file}, record {i}"
            # The class itself takes an eighth of the time of TFDS's parser around it.
            feature = messages.Example.FromString(record).features.feature
            [content], [label] = feature["image"].bytes_list.value, feature["label"].int64_list.value
            if not 0 <= label < task.num_classes:
                raise ValueError(f"expected a label in 0..{task.num_classes - 1}, got {label}")
            file = b"".join(feature["image/file_name"].bytes_list.value).decode(errors="replace")
            try:
                images[len(files)], kind = decode_image(content, task.shape, task.resize)
            except Exception as error:
                if task.skip_broken:
                    broken.append(f"{place} {file}: {one_line(error)}")
                    continue
                raise
            labels.append(label)
            kinds.add(kind)
            files.append(file)
    except Exception as error:  # RuntimeError, IndexError, UnidentifiedImageError, protobuf's
        raise ValueError(f"damaged record file {place}: {one_line(error)}") from error
    return Decoded(
        images=images[: len(files)], labels=np.array(labels, np.int32), files=files, kinds=kinds, broken=broken
    )


class DataUnavailable(ValueError):  # noqa: N818
    """There is no local copy of a data set and it cannot be downloaded."""


def default_data_dir() -> Path:
    """The folder of TFDS data sets: the environment variable TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def read_splits(
    name: str,
    title: str,
    shape: tuple[int, int, int],
    prepare: Callable[..., Path],
    data_dir: str | Path | None,
    cache_dir: str | Path | None,
    progress: bool,
) -> tuple[Split, Split, str]:
    """Reads a data set from the folder of TFDS data sets, and first puts it there if need be.

    Args:
      name: of its folder. title: as in messages. shape: of every image.
      prepare: (data_dir, progress=) -> the prepared folder; downloads.
      data_dir: None: `default_data_dir`. cache_dir, progress: as for `read`.
    Returns:
      train, test, and a note: "JPEG" where the copy was re-encoded with loss, else "".
    Raises:
      DataUnavailable: there is no copy, and it cannot be downloaded.
      ValueError: a file of the folder is damaged.
    """
    data_dir = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    folder = prepared_folder(data_dir, name)
    if folder is None:
        try:
            folder = prepare(data_dir, progress=progress)
        except OSError as error:
            raise DataUnavailable(
                f"no {title} in {data_dir / name}, and no download ({error}). Run in a place with network: "
                f"TFDS_DATA_DIR={data_dir} python -m rare_gems.data.prepare {name}, then copy that folder here"
            ) from error
    arrays = read(folder, cache_dir, progress, name=name, shape=shape)
    train = Split(arrays["train_images"], arrays["train_labels"])
    return train, Split(arrays["test_images"], arrays["test_labels"]), str(arrays["note"])
