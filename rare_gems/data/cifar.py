"""CIFAR-10 and CIFAR-100: read from a folder of TFDS, and prepared for it without TensorFlow.

They are prepared from the official archives in their binary form (`cifar_archives`).

Deviation from TFDS's own builder, which needs TensorFlow: records stay in the order of the archive.
"""

from collections.abc import Callable
from pathlib import Path

from rare_gems.data.cifar_archives import Parsed, parse_cifar10, parse_cifar100
from rare_gems.data.dataset import Dataset
from rare_gems.data.download import download, whole_folder
from rare_gems.data.tfds_read import default_data_dir, read_splits
from rare_gems.data.tfds_write import About, is_prepared, write

__all__ = [
    "CIFAR10_SHA256",
    "CIFAR10_URL",
    "CIFAR100_SHA256",
    "CIFAR100_URL",
    "cifar10",
    "cifar100",
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
    return _prepare(parse_cifar10, about, data_dir, url, sha256, timeout, progress)


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
    return _prepare(parse_cifar100, about, data_dir, url, sha256, timeout, progress)


def _prepare(
    parse: Callable[[Path], Parsed],
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
        splits, names = parse(archive)
        write(folder, about, splits, names, with_id=True, progress=progress)

    return whole_folder(data_dir / about.name / about.version, is_prepared, fill)


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
