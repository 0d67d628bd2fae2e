"""CIFAR-10 and CIFAR-100: read from a folder of TFDS, and prepared for it without TensorFlow.

They are prepared from the official archives in their binary form.
Their files hold fixed records (label bytes, then 3 x 32 x 32 pixel bytes), so nothing is unpickled.

Deviation from TFDS's own builder, which needs TensorFlow: records stay in the order of the archive.
"""

import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rare_gems.data.dataset import Dataset
from rare_gems.data.download import download, whole_folder
from rare_gems.data.tfds_read import default_data_dir, read_splits
from rare_gems.data.tfds_write import About, Labelled, is_prepared, write

__all__ = [
    "CIFAR10_SHA256",
    "CIFAR10_URL",
    "CIFAR100_SHA256",
    "CIFAR100_URL",
    "cifar10",
    "cifar100",
    "parse_cifar10",
    "parse_cifar100",
    "prepare_cifar10",
    "prepare_cifar100",
]

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CIFAR100_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
CIFAR100_SHA256 = "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"

_MODULE = "tensorflow_datasets.image_classification.cifar"
_CITATION = "Alex Krizhevsky. Learning multiple layers of features from tiny images. 2009."
_HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"

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


def prepare_cifar10(
    data_dir: str | Path | None = None,
    *,
    url: str = CIFAR10_URL,
    sha256: str = CIFAR10_SHA256,
    timeout: float = 10.0,
    progress: bool = False,
) -> Path:
    """Downloads and prepares CIFAR-10, unless data_dir has it already.

    The folder appears under its name only when complete; a failed run leaves nothing behind.

    Args:
      data_dir: the folder of TFDS data sets; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
      url, sha256: the archive and its checksum. timeout: seconds of silence before giving up.
      progress: show bars.
    Returns:
      the prepared folder, data_dir/cifar10/3.0.2.
    Raises:
      OSError: no connection, or the folder cannot be written.
      ValueError: the checksum is wrong or the archive is damaged.
    """
    description = "60,000 colour images of 32x32 pixels in 10 classes: 50,000 train, 10,000 test."
    about = About(
        name="cifar10", version="3.0.2", module=_MODULE, description=description, citation=_CITATION, homepage=_HOMEPAGE
    )
    return _prepare(_CIFAR10, about, data_dir, url, sha256, timeout, progress)


def prepare_cifar100(
    data_dir: str | Path | None = None,
    *,
    url: str = CIFAR100_URL,
    sha256: str = CIFAR100_SHA256,
    timeout: float = 10.0,
    progress: bool = False,
) -> Path:
    """Downloads and prepares CIFAR-100, unless data_dir has it already.

    "label" is one of 100 (fine) classes, "coarse_label" one of 20 groups of them. Otherwise as `cifar10`.

    Args:
      data_dir, url, sha256, timeout, progress: as for `cifar10`.
    Returns:
      the prepared folder, data_dir/cifar100/3.0.2.
    Raises:
      OSError: no connection, or the folder cannot be written.
      ValueError: the checksum is wrong or the archive is damaged.
    """
    description = "60,000 colour images of 32x32 pixels in 100 classes of 20 groups: 50,000 train, 10,000 test."
    about = About(
        name="cifar100",
        version="3.0.2",
        module=_MODULE,
        description=description,
        citation=_CITATION,
        homepage=_HOMEPAGE,
    )
    return _prepare(_CIFAR100, about, data_dir, url, sha256, timeout, progress)


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


def _prepare(
    layout: _Layout,
    about: About,
    data_dir: str | Path | None,
    url: str,
    sha256: str,
    timeout: float,
    progress: bool,
) -> Path:
    data_dir = default_data_dir() if data_dir is None else Path(data_dir).expanduser()

    def fill(scratch: Path, folder: Path) -> None:
        archive = scratch / f"{about.name}.tar.gz"
        download(url, archive, sha256, timeout, progress)
        splits, names = _parse(archive, layout)
        write(folder, about, splits, names, with_id=True, progress=progress)

    return whole_folder(data_dir / about.name / about.version, is_prepared, fill)


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


def cifar10(data_dir: str | Path | None = None, cache_dir: str | Path | None = None, progress: bool = False) -> Dataset:
    """CIFAR-10, 50,000 train and 10,000 test images, prepared for TFDS; downloaded if there is no copy.

    The decoded images are cached (see `array_cache.cached`): the first call takes seconds, later ones below one.

    Args:
      data_dir: the folder of TFDS data sets; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
      cache_dir: None: $XDG_CACHE_HOME/rare_gems, else ~/.cache/rare_gems.
      progress: show a bar while images are decoded.
    Returns:
      images uint8 [N, 32, 32, 3]; pad-4 crop and flip; note "JPEG" where the copy was re-encoded with loss.
    Raises:
      DataUnavailable: (a ValueError) there is no copy in data_dir and it cannot be downloaded.
      ValueError: a record file is damaged.
    """
    mean, std = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
    where = (data_dir, cache_dir, progress)
    return _read("cifar10", "CIFAR-10", 10, prepare_cifar10, where, mean, std)


def cifar100(
    data_dir: str | Path | None = None, cache_dir: str | Path | None = None, progress: bool = False
) -> Dataset:
    """CIFAR-100, 50,000 train and 10,000 test images of 100 (fine) classes; otherwise as `cifar10`.

    Args:
      data_dir, cache_dir, progress: as for `cifar10`.
    Returns:
      images uint8 [N, 32, 32, 3]; pad-4 crop and flip; note "JPEG" where the copy was re-encoded with loss.
    Raises:
      DataUnavailable: (a ValueError) there is no copy in data_dir and it cannot be downloaded.
      ValueError: a record file is damaged.
    """
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    where = (data_dir, cache_dir, progress)
    return _read("cifar100", "CIFAR-100", 100, prepare_cifar100, where, mean, std)


def _read(
    name: str,
    title: str,
    num_classes: int,
    prepare: Callable[..., Path],
    where: tuple[str | Path | None, str | Path | None, bool],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Dataset:
    """Reads one of the two; `where`: data_dir, cache_dir, progress."""
    train, test, note = read_splits(name, title, (32, 32, 3), prepare, *where)
    return Dataset(
        name=name,
        train=train,
        test=test,
        validation=None,
        num_classes=num_classes,
        mean=mean,
        std=std,
        crop_padding=4,
        flip=True,
        note=note,
    )
