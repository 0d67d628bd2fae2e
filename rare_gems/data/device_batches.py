"""Batches made on the device: epoch order, crop and flip, normalisation. All of it traces (jit, vmap, scan).

The images stay on the device as uint8; a batch is gathered, augmented and normalised inside the step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rare_gems.data.dataset import Split

__all__ = [
    "Batch", "augment", "crop_and_flip", "draw_offsets", "epoch_order", "eval_batch", "normalise",
    "num_batches", "train_batch",
]  # fmt: skip


class Batch(NamedTuple):
    """What a loss function sees.

    images: float32 [B, H, W, C], normalised. labels: int32 [B]. weights: float32 [B], 1 = counted,
    0 = padding.
    """

    images: jax.Array
    labels: jax.Array
    weights: jax.Array


def num_batches(num_examples: int, batch_size: int) -> int:
    """Steps in an epoch, ceil(num_examples / batch_size).

    Raises:
      ValueError: if batch_size is below 1 or above num_examples.

    Example:
      >>> num_batches(1437, 64)
      23
    """
    if not 1 <= batch_size <= num_examples:
        raise ValueError(f"expected a batch_size between 1 and the {num_examples} examples, got {batch_size}")
    return -(-num_examples // batch_size)


def epoch_order(key: jax.Array, num_examples: int, batch_size: int) -> jax.Array:
    """The examples of each batch of one epoch: a fresh permutation, cut into batches of one size.

    The last batch is filled up with the first examples of the same permutation, so that shapes are static.
    Deviation: PyTorch's loader gives a shorter last batch; here those few examples are seen twice.

    Args:
      key: PRNG key. num_examples, batch_size: static.
    Returns:
      int32 [num_batches, batch_size], indices below num_examples.
    Raises:
      ValueError: if batch_size is below 1 or above num_examples.

    Example:
      >>> epoch_order(jax.random.key(0), 10, 4).shape
      (3, 4)
    """
    rows = num_batches(num_examples, batch_size)
    order = jax.random.permutation(key, jnp.arange(num_examples, dtype=jnp.int32))
    missing = rows * batch_size - num_examples  # below batch_size, so below num_examples
    return jnp.concatenate([order, order[:missing]]).reshape(rows, batch_size)


def draw_offsets(
    key: jax.Array, batch_size: int, crop_padding: int, flip: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where each image is cropped and whether it is mirrored, independent of each other and of other images.

    Args:
      key: PRNG key. batch_size, crop_padding (pixels), flip: static.
    Returns:
      (rows, columns, flips): int32 [B] twice, uniform in 0..2 crop_padding, the corner of the crop in the
      padded image (crop_padding: unmoved), and bool [B], True with probability 1/2 (False without `flip`).
    Raises:
      ValueError: if crop_padding is negative.
    """
    if crop_padding < 0:
        raise ValueError(f"expected a crop_padding of 0 pixels or more, got {crop_padding}")
    rows_key, columns_key, flips_key = jax.random.split(key, 3)
    bound = 2 * crop_padding + 1
    rows = jax.random.randint(rows_key, (batch_size,), 0, bound, dtype=jnp.int32)
    columns = jax.random.randint(columns_key, (batch_size,), 0, bound, dtype=jnp.int32)
    flips = jax.random.bernoulli(flips_key, 0.5, (batch_size,)) if flip else jnp.zeros((batch_size,), bool)
    return rows, columns, flips


def crop_and_flip(
    images: jax.Array, rows: jax.Array, columns: jax.Array, flips: jax.Array, crop_padding: int
) -> jax.Array:
    """Pads with black by crop_padding on each side, crops back to size at (rows, columns), then mirrors.

    One gather, with zeros outside the image: on a CPU core 0.13 ms for 128 images of 32x32x3, against 0.24 ms
    for a vmapped `dynamic_slice` and 22 ms for selecting between shifted copies.

    Args:
      images: any dtype [B, H, W, C]. rows, columns: int32 [B], 0..2 crop_padding. flips: bool [B].
    Returns:
      the dtype and shape of images.
    """
    count, height, width, _ = images.shape
    across = jnp.arange(width, dtype=jnp.int32)[None]
    y = jnp.arange(height, dtype=jnp.int32)[None] + rows[:, None] - crop_padding  # [B, H], in the source
    x = jnp.where(flips[:, None], width - 1 - across, across) + columns[:, None] - crop_padding  # [B, W]
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    which = jnp.arange(count, dtype=jnp.int32)[:, None, None]
    y, x = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
    moved = images[which, y[:, :, None], x[:, None, :]]
    return jnp.where(inside[..., None], moved, jnp.zeros((), images.dtype))


def augment(key: jax.Array, images: jax.Array, crop_padding: int, flip: bool) -> jax.Array:
    """Random crop after zero padding, then a random horizontal flip, independently for each image.

    Black pixels are padded before normalisation, as torchvision's RandomCrop(padding=...) on images does.

    Args:
      key: PRNG key. images: uint8 [B, H, W, C]. crop_padding (pixels, 0 = no crop) and flip: static.
    Returns:
      uint8 [B, H, W, C].

    Example:
      >>> images = jnp.ones((2, 8, 8, 1), jnp.uint8)
      >>> bool((augment(jax.random.key(0), images, 0, True) == images).all())
      True
    """
    rows, columns, flips = draw_offsets(key, images.shape[0], crop_padding, flip)
    return crop_and_flip(images, rows, columns, flips, crop_padding)


def normalise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """(images / 255 - mean) / std, per channel.

    Args:
      images: uint8 [..., H, W, C]. mean, std: C numbers each, of pixel values in [0, 1]; static.
    Returns:
      float32, the shape of images.
    Raises:
      ValueError: if mean or std do not have one number for each channel.
    """
    channels = images.shape[-1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(f"expected mean and std of {channels} channels, got {len(mean)} and {len(std)}")
    shape = (1,) * (images.ndim - 1) + (channels,)
    center, scale = jnp.array(mean, jnp.float32).reshape(shape), jnp.array(std, jnp.float32).reshape(shape)
    return (images.astype(jnp.float32) / 255 - center) / scale


def train_batch(
    split: Split,
    indices: jax.Array,
    key: jax.Array,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    crop_padding: int,
    flip: bool,
) -> Batch:
    """The augmented, normalised batch of the given examples; every weight is 1.

    Args:
      split: images uint8 [N, H, W, C], labels int32 [N], on the device. indices: int32 [B], one row of
        `epoch_order`. key: PRNG key. The others, static, are fields of the `Dataset`.

    Example:
      >>> split = Split(jnp.zeros((10, 8, 8, 1), jnp.uint8), jnp.arange(10, dtype=jnp.int32))
      >>> key = jax.random.key(0)
      >>> order = epoch_order(key, 10, 4)
      >>> train_batch(split, order[0], key, mean=(0.5,), std=(0.25,), crop_padding=1, flip=False).images.shape
      (4, 8, 8, 1)
    """
    images = jnp.asarray(split.images)[indices]
    labels = jnp.asarray(split.labels)[indices]
    images = normalise(augment(key, images, crop_padding, flip), mean, std)
    return Batch(images, labels, jnp.ones(labels.shape, jnp.float32))


def eval_batch(
    split: Split, first: jax.Array | int, batch_size: int, *, mean: Sequence[float], std: Sequence[float]
) -> Batch:
    """Examples first .. first + batch_size - 1 in order, not augmented; past the end, copies of weight 0.

    Args:
      split: images uint8 [N, H, W, C], labels int32 [N]. first: int32 scalar, 0 or more, may be traced.
      batch_size: static. mean, std: per channel, static.

    Example:
      >>> split = Split(jnp.zeros((10, 8, 8, 1), jnp.uint8), jnp.arange(10, dtype=jnp.int32))
      >>> eval_batch(split, 8, 4, mean=(0.5,), std=(0.25,)).weights.tolist()
      [1.0, 1.0, 0.0, 0.0]
    """
    last = split.labels.shape[0] - 1
    wanted = jnp.asarray(first, jnp.int32) + jnp.arange(batch_size, dtype=jnp.int32)
    indices = jnp.minimum(wanted, last)
    images = normalise(jnp.asarray(split.images)[indices], mean, std)
    return Batch(images, jnp.asarray(split.labels)[indices], (wanted <= last).astype(jnp.float32))
