"""The official archives of CIFAR-10 and CIFAR-100 in their binary form, read in memory.

Their files hold fixed records (label bytes, then 3 x 32 x 32 pixel bytes), so nothing is unpickled.
"""

import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rare_gems.data.tfds_write import Labelled

__all__ = ["Parsed", "parse_cifar10", "parse_cifar100"]

Parsed = tuple[dict[str, Labelled], dict[str, list[str]]]


class _Layout(NamedTuple):
    """title: of the data set. files: of each split. names: label feature -> (its file of class names, their number), in
    the order of the label bytes in a record."""

    title: str
    files: dict[str, list[str]]
    names: dict[str, tuple[str, int]]


_CIFAR10 = _Layout(
    "CIFAR-10",
    {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
    {"label": ("batches.meta.txt", 10)},
)
_CIFAR100 = _Layout(
    "CIFAR-100",
    {"train": ["train.bin"], "test": ["test.bin"]},
    {"coarse_label": ("coarse_label_names.txt", 20), "label": ("fine_label_names.txt", 100)},
)


def parse_cifar10(archive: Path) -> Parsed:
    """Reads the binary archive of CIFAR-10 in memory; nothing is extracted to disk.

    Returns:
      ({"train" and "test": images uint8 [N, 32, 32, 3], labels uint8 [N]}, {"label": the ten class names}).
    Raises:
      ValueError: the archive is cut off or damaged, or a file in it is missing or has a wrong size.
    """
    return _parse(archive, _CIFAR10)


def parse_cifar100(archive: Path) -> Parsed:
    """Reads the binary archive of CIFAR-100 in memory, as `parse_cifar10` does; with "coarse_label" beside "label".

    Raises:
      ValueError: the archive is cut off or damaged, or a file in it is missing or has a wrong size.
    """
    return _parse(archive, _CIFAR100)


def _parse(archive: Path, layout: _Layout) -> Parsed:
    wanted = [file for files in layout.files.values() for file in files] + [file for file, _ in layout.names.values()]
    content = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.rpartition("/")[2]
                if name in wanted and (stream := tar.extractfile(member)) is not None:
                    content[name] = stream.read()
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise ValueError(f"{archive} cannot be read ({error.strerror}); expected the {layout.title} archive") from error
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"damaged archive {archive.name}: {error}") from error
    if missing := [name for name in wanted if name not in content]:
        files = f"{', '.join(missing)} in the {layout.title} archive, the binary version"
        raise ValueError(f"expected {files}, got {sorted(content)}")
    names = {feature: _class_names(*named, content[named[0]]) for feature, named in layout.names.items()}
    splits = {}
    for split, files in layout.files.items():
        data = np.concatenate([_records(file, content[file], layout) for file in files])
        pixels = data[:, len(names) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = {feature: data[:, column] for column, feature in enumerate(names)}
        splits[split] = Labelled(np.ascontiguousarray(pixels), labels)
    # TFDS has the feature "label" first.
    return splits, {"label": names["label"], **names}


def _class_names(file: str, number: int, content: bytes) -> list[str]:
    names = content.decode(errors="replace").split()
    if len(set(names)) != len(names) or len(names) != number:
        raise ValueError(f"expected {number} class names in {file}, got {len(set(names))}")
    return names


def _records(file: str, content: bytes, layout: _Layout) -> np.ndarray:
    size = len(layout.names) + 3072
    if not content or len(content) % size:
        raise ValueError(f"expected records of {size} bytes in {file}, got {len(content)} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    for column, (_, number) in enumerate(layout.names.values()):
        if records[:, column].max() >= number:
            raise ValueError(f"expected labels 0..{number - 1} in {file}, got {records[:, column].max()}")
    return records
