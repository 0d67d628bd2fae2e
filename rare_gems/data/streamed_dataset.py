"""Images that are read one at a time, for data sets too large to keep: their parts and corruptions, see `stream`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rare_gems.data import corrupt, dataset
from rare_gems.data.image_file import content_of

__all__ = [
    "Examples",
    "Streamed",
    "from_listing",
    "half",
    "hold_out",
    "random_labels",
    "random_pixels",
    "subset",
]


class Examples(NamedTuple):
    """Images that are read one at a time, from several threads at once.

    read: index -> (the content of an image file, label). name: index -> what an error calls it. num: how many there
    are. labels: int32 [num], where they are known without reading. scramble: (index, uint8 [S, S, 3]) -> the like, a
    corruption of the cropped image; training then takes the crop of evaluation and no flip. upright: whether images are
    turned as their EXIF data say.
    """

    read: Callable[[int], tuple[bytes, int]]
    name: Callable[[int], str]
    num: int
    labels: np.ndarray | None = None
    scramble: Callable[[int, np.ndarray], np.ndarray] | None = None
    upright: bool = True


class Streamed(NamedTuple):
    """A data set that is streamed, as `dataset.Dataset` is one that lies on the device.

    name: as on the command line. train, test: the usual splits. validation: None, or taken out of train by
    `hold_out`. mean, std: per channel, of pixel values in [0, 1]. image_size: pixels of a side, after the crop.
    note: as in `dataset.Dataset`.
    """

    name: str
    train: Examples
    test: Examples
    validation: Examples | None
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    note: str


def from_listing(files: Sequence[Path], labels: np.ndarray) -> Examples:
    """Image files on disk.

    Args:
      files: N paths. labels: integers [N].
    Raises:
      ValueError: not as many labels as files.
    Example:
      >>> from_listing([Path("cat/1.jpg"), Path("dog/1.jpg")], np.array([0, 1])).name(1)
      'dog/1.jpg'
    """
    labels = np.asarray(labels, np.int32)
    if labels.shape != (len(files),):
        raise ValueError(f"labels: expected shape ({len(files)},), one for each file, got {labels.shape}")
    return Examples(
        read=lambda i: (content_of(files[i]), int(labels[i])),
        name=lambda i: str(files[i]),
        num=len(files),
        labels=labels,
    )


def subset(examples: Examples, num: int, num_classes: int, seed: int) -> Examples:
    """A random part, balanced by class where the labels are known without reading (see `dataset.subset`).

    Args:
      num: 1..N. num_classes: labels are below.
    Raises:
      ValueError: num is below 1 or above N, or a label is not below num_classes.
    Example:
      >>> examples = Examples(lambda i: (b"", i % 5), str, 20, np.arange(20, dtype=np.int32) % 5)
      >>> sorted(subset(examples, 10, 5, seed=0).labels.tolist())
      [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    """
    return _take(examples, _choose(examples, num, num_classes, seed))


def hold_out(streamed: Streamed, num_validation: int, seed: int) -> Streamed:
    """Takes a validation split out of the training split (see `subset`).

    Args:
      streamed: without a validation split. num_validation: 1..N-1.
    Raises:
      ValueError: num_validation is out of range, or there is a validation split already.
    """
    train = streamed.train
    if streamed.validation is not None:
        raise ValueError(f"expected a data set without validation split, got one of {streamed.validation.num} examples")
    if not 1 <= num_validation < train.num:
        raise ValueError(f"expected between 1 and {train.num - 1} validation examples, got {num_validation}")
    chosen = _choose(train, num_validation, streamed.num_classes, seed)
    rest = np.setdiff1d(np.arange(train.num), chosen)
    return streamed._replace(train=_take(train, rest), validation=_take(train, chosen))


def half(examples: Examples, num_classes: int, seed: int) -> Examples:
    """A fixed half, N // 2 of N examples, balanced where the labels are known (see `corrupt.half`).

    Raises:
      ValueError: fewer than 2 examples, or a label that is not below num_classes.
    """
    if examples.num < 2:
        raise ValueError(f"examples: expected 2 or more, got {examples.num}")
    return subset(examples, examples.num // 2, num_classes, seed)


def random_labels(examples: Examples, num_classes: int, seed: int) -> Examples:
    """Every label drawn again, the same as `corrupt.random_labels` draws; nothing is read for it.

    Raises:
      ValueError: as `corrupt.random_labels`.
    Example:
      >>> random_labels(Examples(lambda i: (b"", 0), str, 6), 10, seed=0).labels.tolist()
      [1, 7, 4, 3, 1, 4]
    """
    known = np.zeros(examples.num, np.int32) if examples.labels is None else examples.labels
    drawn = np.asarray(corrupt.random_labels(dataset.Split(known, known), num_classes, seed).labels)
    return examples._replace(read=lambda i: (examples.read(i)[0], int(drawn[i])), labels=drawn)


def random_pixels(examples: Examples, seed: int) -> Examples:
    """The S*S*3 values of each image permuted, each image by its own fixed permutation, drawn from (seed, index).

    Deviation from `corrupt.random_pixels`, which permutes before crop and flip: sizes differ here, so the middle of
    an image (`eval_image`) is permuted, and training sees just that, every epoch the same.

    Args:
      seed: 0..2**32 - 1.
    Raises:
      ValueError: the seed is out of range.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected 0 to {2**32 - 1}, got {seed}")

    def scramble(index: int, image: np.ndarray) -> np.ndarray:
        split = dataset.Split(image[None], np.zeros(1, np.int32))
        return np.asarray(corrupt.random_pixels(split, index << 32 | seed).images)[0]

    return examples._replace(scramble=scramble)


def _choose(examples: Examples, num: int, num_classes: int, seed: int) -> np.ndarray:
    known = examples.labels is not None
    labels = examples.labels if examples.labels is not None else np.zeros(examples.num, np.int32)
    split = dataset.Split(np.arange(examples.num), labels)
    return np.asarray(dataset.subset(split, num, num_classes if known else 1, seed).images)


def _take(examples: Examples, chosen: np.ndarray) -> Examples:
    read, name, _, labels, scramble, upright = examples
    return Examples(
        read=lambda i: read(int(chosen[i])),
        name=lambda i: name(int(chosen[i])),
        num=len(chosen),
        labels=None if labels is None else labels[chosen],
        scramble=None if scramble is None else lambda i, image: scramble(int(chosen[i]), image),
        upright=upright,
    )
