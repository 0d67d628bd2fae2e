"""What a data set is on the host, as NumPy arrays small enough to live on a device, and class-balanced parts of it."""

from typing import NamedTuple

import jax
import numpy as np

__all__ = ["Dataset", "Split", "divide", "hold_out", "shrink", "subset"]


class Split(NamedTuple):
    """images: uint8 [N, H, W, C]. labels: int32 [N]."""

    images: np.ndarray | jax.Array
    labels: np.ndarray | jax.Array


class Dataset(NamedTuple):
    """A data set and how it is fed to a network.

    name: as on the command line. train, test: the usual splits. validation: None, or taken out of train by
    `hold_out`. mean, std: per channel, of pixel values in [0, 1]. crop_padding: pixels padded on each side
    before a random crop. flip: whether mirror images are the same class. note: "JPEG", "16x16" where images were
    made smaller, or, for original pixels, "".
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
      >>> from rare_gems.data.digits import digits
      >>> np.bincount(subset(digits().train, 25, 10, seed=0).labels).tolist()
      [3, 3, 3, 3, 3, 2, 2, 2, 2, 2]
    """
    return divide(split, num_examples, num_classes, seed)[0]


def hold_out(dataset: Dataset, num_validation: int, seed: int) -> Dataset:
    """Takes a class-balanced validation split out of the training split (see `subset`).

    Args:
      dataset: without a validation split. num_validation: 1..N-1.
    Raises:
      ValueError: num_validation is out of range, or there is a validation split already.

    Example:
      >>> from rare_gems.data.digits import digits
      >>> hold_out(digits(), 100, seed=0).train.images.shape
      (1337, 8, 8, 1)
    """
    if dataset.validation is not None:
        held = len(dataset.validation.labels)
        raise ValueError(f"expected a data set without validation split, got one of {held} examples")
    most = len(dataset.train.labels) - 1  # something must be left to train on
    if not 1 <= num_validation <= most:
        raise ValueError(f"expected between 1 and {most} validation examples, got {num_validation}")
    validation, train = divide(dataset.train, num_validation, dataset.num_classes, seed)
    return dataset._replace(train=train, validation=validation)


def divide(split: Split, num_first: int, num_classes: int, seed: int) -> tuple[Split, Split]:
    """A class-balanced random part of `num_first` examples, and the rest, both in the order of `split`."""
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


def shrink(dataset: Dataset, size: int) -> Dataset:
    """Averages blocks of pixels, so that images are size x size; the padding before crops shrinks with them.

    Args:
      dataset: of square images. size: divides their side.
    Raises:
      ValueError: if it does not.

    Example:
      >>> from rare_gems.data.digits import digits
      >>> shrink(digits(), 4).train.images.shape
      (1437, 4, 4, 1)
    """
    side = dataset.train.images.shape[1]
    if size < 1 or side % size:
        raise ValueError(f"expected images of a size that divides {side}, got {size}")
    block = side // size

    def averaged(split: Split) -> Split:
        images = np.asarray(split.images)
        sums = np.zeros((len(images), size, size, images.shape[-1]), np.float32)
        for row in range(block):
            for column in range(block):
                sums += images[:, row::block, column::block]
        return split._replace(images=np.rint(sums / np.float32(block * block)).astype(np.uint8))

    note = dataset.note if block == 1 else ", ".join(filter(None, (dataset.note, f"{size}x{size}")))
    padding = -(-dataset.crop_padding // block)
    held = dataset.validation and averaged(dataset.validation)
    train, test = averaged(dataset.train), averaged(dataset.test)
    return dataset._replace(train=train, test=test, validation=held, crop_padding=padding, note=note)
