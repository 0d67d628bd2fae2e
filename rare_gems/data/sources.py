"""Data sets on the host, as NumPy arrays small enough to live on a device: digits, CIFAR-10, CIFAR-100 and MNIST.

All but digits are read through TensorFlow Datasets (array_record files, no TensorFlow), decoded once and cached.
"""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from rare_gems.data import records

__all__ = [
    "DataUnavailable", "Dataset", "Split", "cifar10", "cifar100", "default_data_dir", "digits", "hold_out", "mnist",
    "subset",
]  # fmt: skip


class Split(NamedTuple):
    """images: uint8 [N, H, W, C]. labels: int32 [N]."""

    images: np.ndarray | jax.Array
    labels: np.ndarray | jax.Array


class Dataset(NamedTuple):
    """A data set and how it is fed to a network.

    name: as on the command line. train, test: the usual splits. validation: None, or taken out of train by
    `hold_out`. mean, std: per channel, of pixel values in [0, 1]. crop_padding: pixels padded on each side
    before a random crop. flip: whether mirror images are the same class. note: "JPEG" or, for original
    pixels, "".
    """

    name: str
    train: Split
    test: Split
    validation: Split | None
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int
    flip: bool
    note: str


class DataUnavailable(ValueError):  # noqa: N818
    """There is no local copy of a data set and it cannot be downloaded."""


def digits() -> Dataset:
    """The 1,797 handwritten digits of 8x8 pixels inside scikit-learn: 1,437 train and 360 test images.

    Grey values 0..16 become 0..255. The test split has 36 images of each digit, the same on every machine.
    Deviation: scikit-learn defines no split; this one ignores who wrote a digit.

    Returns:
      images uint8 [N, 8, 8, 1]; no flip (a mirrored digit is none), crops after padding by 1 pixel.

    Example:
      >>> digits().train.images.shape
      (1437, 8, 8, 1)
    """
    import sklearn.datasets

    grey, labels = map(np.asarray, sklearn.datasets.load_digits(return_X_y=True))
    images = np.rint(grey * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    test, train = _divide(Split(images, labels.astype(np.int32)), 360, 10, seed=0)
    pixels = np.asarray(train.images) / 255
    mean, std = (round(float(pixels.mean()), 6),), (round(float(pixels.std()), 6),)  # equal on all machines
    return Dataset("digits", train, test, None, 10, mean, std, crop_padding=1, flip=False, note="")


def cifar10(data_dir: str | Path | None = None, cache_dir: str | Path | None = None, progress: bool = False) -> Dataset:
    """CIFAR-10, 50,000 train and 10,000 test images, prepared for TFDS; downloaded if there is no copy.

    The decoded images are cached (see `records.cached`): the first call takes seconds, later ones below one.

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
    train, test, note = _read("cifar10", (32, 32, 3), data_dir, cache_dir, progress)
    mean, std = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
    return Dataset("cifar10", train, test, None, 10, mean, std, crop_padding=4, flip=True, note=note)


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
    train, test, note = _read("cifar100", (32, 32, 3), data_dir, cache_dir, progress)
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    return Dataset("cifar100", train, test, None, 100, mean, std, crop_padding=4, flip=True, note=note)


def mnist(data_dir: str | Path | None = None, cache_dir: str | Path | None = None, progress: bool = False) -> Dataset:
    """MNIST, 60,000 train and 10,000 test images of handwritten digits; otherwise as `cifar10`.

    Args:
      data_dir, cache_dir, progress: as for `cifar10`.
    Returns:
      images uint8 [N, 28, 28, 1]; no crop, no flip; note "JPEG" where the copy was re-encoded with loss.
    Raises:
      DataUnavailable: (a ValueError) there is no copy in data_dir and it cannot be downloaded.
      ValueError: a record file is damaged.
    """
    train, test, note = _read("mnist", (28, 28, 1), data_dir, cache_dir, progress)
    return Dataset("mnist", train, test, None, 10, (0.1307,), (0.3081,), crop_padding=0, flip=False, note=note)


def subset(split: Split, num_examples: int, num_classes: int, seed: int) -> Split:
    """A class-balanced random part: counts per class differ by at most one, unless a class runs out.

    The same on every machine and NumPy version; with one seed, smaller subsets lie within larger ones.

    Args:
      split: images uint8 [N, H, W, C], labels int32 [N]. num_examples: 1..N. num_classes: labels are below.
    Returns:
      num_examples examples, in the order of split.
    Raises:
      ValueError: num_examples is below 1 or above N, or a label is not below num_classes.

    Example:
      >>> np.bincount(subset(digits().train, 25, 10, seed=0).labels).tolist()
      [3, 3, 3, 3, 3, 2, 2, 2, 2, 2]
    """
    return _divide(split, num_examples, num_classes, seed)[0]


def hold_out(dataset: Dataset, num_validation: int, seed: int) -> Dataset:
    """Takes a class-balanced validation split out of the training split (see `subset`).

    Args:
      dataset: without a validation split. num_validation: 1..N-1.
    Raises:
      ValueError: num_validation is out of range, or there is a validation split already.

    Example:
      >>> hold_out(digits(), 100, seed=0).train.images.shape
      (1337, 8, 8, 1)
    """
    if dataset.validation is not None:
        held = len(dataset.validation.labels)
        raise ValueError(f"expected a data set without validation split, got one of {held} examples")
    most = len(dataset.train.labels) - 1  # something must be left to train on
    if not 1 <= num_validation <= most:
        raise ValueError(f"expected between 1 and {most} validation examples, got {num_validation}")
    validation, train = _divide(dataset.train, num_validation, dataset.num_classes, seed)
    return dataset._replace(train=train, validation=validation)


def default_data_dir() -> Path:
    """The folder of TFDS data sets: the environment variable TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _divide(split: Split, num_first: int, num_classes: int, seed: int) -> tuple[Split, Split]:
    """(a class-balanced random part of num_first examples, the rest), both in the order of split."""
    images, labels = np.asarray(split.images), np.asarray(split.labels)
    if not 1 <= num_first <= len(labels):
        raise ValueError(f"expected between 1 and {len(labels)} examples, got {num_first}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"expected labels in 0..{num_classes - 1}, got {labels.min()}..{labels.max()}")
    # Raw bits and a stable sort: numpy.random's permutations may change between versions.
    order = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")
    rank = np.empty(len(labels), np.int64)  # position of an example among those of its class
    for label in range(num_classes):
        of_class = order[labels[order] == label]
        rank[of_class] = np.arange(len(of_class))
    chosen = np.zeros(len(labels), bool)
    chosen[np.lexsort((labels, rank))[:num_first]] = True
    return Split(images[chosen], labels[chosen]), Split(images[~chosen], labels[~chosen])


def _read(
    name: str,
    shape: tuple[int, int, int],
    data_dir: str | Path | None,
    cache_dir: str | Path | None,
    progress: bool,
) -> tuple[Split, Split, str]:
    """(train, test, note) of a data set in the folder of TFDS data sets, where it is put if need be."""
    data_dir = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    folder = records.prepared_folder(data_dir, name) or _prepare(name, data_dir, progress)
    arrays = records.read(folder, cache_dir, progress, name=name, shape=shape)
    train = Split(arrays["train_images"], arrays["train_labels"])
    return train, Split(arrays["test_images"], arrays["test_labels"]), str(arrays["note"])


def _prepare(name: str, data_dir: Path, progress: bool) -> Path:
    from rare_gems.data import prepare

    made_by = {"cifar10": prepare.cifar10, "cifar100": prepare.cifar100, "mnist": prepare.mnist}
    title = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "mnist": "MNIST"}[name]
    try:
        return made_by[name](data_dir, progress=progress)
    except OSError as error:
        raise DataUnavailable(
            f"no {title} in {data_dir / name}, and no download ({error}). Run in a place with network: "
            f"TFDS_DATA_DIR={data_dir} python -m rare_gems.data.prepare {name}, then copy that folder here"
        ) from error
