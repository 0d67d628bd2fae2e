"""Corrupted training splits, on the host: what a search that looks at its data should suffer from.

Each is drawn once, from a seed, and then fixed: the same on every machine and NumPy version. Sanity-Checking Pruning
(section 3) searches on such a split and finetunes on the clean one.
"""

import numpy as np

from rare_gems.data.dataset import Split, subset

__all__ = ["half", "random_labels", "random_pixels"]


def random_labels(split: Split, num_classes: int, seed: int) -> Split:
    """Every label drawn again, uniform over the classes whatever it was; the images are those of `split`, uncopied.

    Args:
      split: N examples. num_classes: 1 or more. seed: 0 or more.
    Returns:
      labels int32 [N]; about one in num_classes is right by chance.
    Raises:
      ValueError: no classes, a label that is not below num_classes, or a negative seed.
    Example:
      >>> split = Split(np.zeros((6, 2, 2, 1), np.uint8), np.zeros(6, np.int32))
      >>> random_labels(split, 10, seed=0).labels.tolist()
      [1, 7, 4, 3, 1, 4]

    Source: Sanity-Checking Pruning, section 3 (its code: NumPy seed 12345).
    """
    labels = np.asarray(split.labels)
    if num_classes < 1:
        raise ValueError(f"num_classes: expected 1 or more, got {num_classes}")
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"expected labels in 0..{num_classes - 1}, got {labels.min()}..{labels.max()}")
    drawn = _bits(seed, 0).random_raw(len(labels)) % np.uint64(num_classes)
    return Split(split.images, drawn.astype(np.int32))


def random_pixels(split: Split, seed: int) -> Split:
    """The H*W*C values of each image permuted, each image by its own fixed permutation; before any crop or flip.

    Args:
      split: images uint8 [N, H, W, C]. seed: 0 or more.
    Returns:
      images like those of `split`, each with its own histogram; the labels of `split`.
    Raises:
      ValueError: the images are not uint8, or a negative seed.
    Example:
      >>> split = Split(np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1), np.zeros(1, np.int32))
      >>> random_pixels(split, seed=0).images.ravel().tolist()
      [0, 3, 1, 2]

    Source: Sanity-Checking Pruning, section 3. Deviation: its code randomizes the labels too; chain `random_labels`.
    """
    images = np.asarray(split.images)
    if images.dtype != np.uint8:
        raise ValueError(f"images: expected uint8, got {images.dtype}")
    flat = images.reshape(len(images), int(np.prod(images.shape[1:])))
    out, bits = np.empty_like(flat), _bits(seed, 1)
    words = flat.shape[1] // 2 + 1  # of 64 bits an image: two keys each, and at least one key over
    rows = max(1, 2**18 // (8 * words))  # fits in the cache
    for first in range(0, len(flat), rows):
        part = flat[first : first + rows]
        drawn = bits.random_raw(len(part) * words).view(np.uint32).reshape(len(part), 2 * words)
        keys, flip = drawn[:, : part.shape[1]], drawn[:, -1:].astype(np.uint8)
        # Sort 24 random bits that carry a value along. Equal keys (one pair in four images) fall to the value, XOR a
        # byte of the image's, which is a fair coin.
        keys = (keys & np.uint32(0xFFFFFF00)) | (part ^ flip)
        keys.sort(axis=1)
        out[first : first + rows] = keys.astype(np.uint8) ^ flip
    return Split(out.reshape(images.shape), split.labels)


def half(split: Split, num_classes: int, seed: int) -> Split:
    """A fixed half of the examples, N // 2 of them, balanced by class (see `dataset.subset`).

    Args:
      split: 2 examples or more. num_classes: labels are below. seed: 0 or more.
    Raises:
      ValueError: fewer than 2 examples, or a label that is not below num_classes.
    Example:
      >>> split = Split(np.zeros((8, 2, 2, 1), np.uint8), np.arange(8, dtype=np.int32) % 2)
      >>> half(split, 2, seed=0).labels.tolist().count(1)
      2

    Source: Sanity-Checking Pruning, section 3. Deviation: its code takes the first 390 batches of the training set,
    in order and not balanced.
    """
    if len(split.labels) < 2:
        raise ValueError(f"split: expected 2 examples or more, got {len(split.labels)}")
    return subset(split, len(split.labels) // 2, num_classes, seed)


def _bits(seed: int, stream: int) -> np.random.PCG64:
    """Raw bits, which do not change between NumPy versions; one stream for each corruption."""
    return np.random.PCG64(np.random.SeedSequence([seed, stream]))
