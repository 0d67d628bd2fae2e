"""Data sets too large for a device: images read and decoded while the step runs, batches placed ahead of their use.

The order of an epoch is drawn from its seed, and crop and flip of an image from (seed, its index), so that a batch is
the same whichever threads, hosts or resumed runs make it. Built on grain; Pillow decodes, in threads.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from rare_gems.data.crops import eval_image, train_image
from rare_gems.data.decode import one_line, usable_cores
from rare_gems.data.device_batches import Batch, num_batches
from rare_gems.data.image_modes import UnusableImage
from rare_gems.data.streamed_dataset import Examples

__all__ = ["eval_batches", "train_batches"]

Place = jax.Device | jax.sharding.Sharding


def train_batches(
    examples: Examples,
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    first: int = 0,
    shard: tuple[int, int] = (0, 1),
    num_threads: int | None = None,
    prefetch: int = 2,
    device: Place | None = None,
    skip_broken: list[str] | None = None,
) -> Iterator[Batch]:
    """One epoch of shuffled, randomly cropped and flipped batches, on the device before they are asked for.

    The last batch is filled up with the first examples of the same permutation (`device_batches.epoch_order`). Threads
    start at the first batch and end with the epoch, or when the iterator is closed or deleted.

    Args:
      examples: the training split. batch_size: of all hosts together. image_size: S, pixels.
      seed: of this epoch, 0..2**32 - 1. first: the batch to start at, where a run is resumed.
      shard: (index, count) of a host; it gets rows index, index + count, .. of each batch.
      num_threads: that read and decode; None: one for each core. prefetch: batches on the device ahead of use.
      device: a device or sharding (None: the default device); of several hosts the sharding of the whole batch, in
        which the rows of each lie together.
      skip_broken: None: an unreadable image is an error; a list: the next readable one stands in for it, and what was
        wrong is appended, once for each image. More than one in a hundred (and than ten) are an error.
    Yields:
      images uint8 [batch_size / count, S, S, 3], to be normalised in the step; labels int32, weights float32 1.
    Raises:
      ValueError: an argument is out of range; in an epoch: an image cannot be read.
    Example:
      >>> import io
      >>> from PIL import Image
      >>> file = io.BytesIO(); Image.new("RGB", (40, 30)).save(file, "PNG")
      >>> examples = Examples(lambda i: (file.getvalue(), i), str, 10)
      >>> [batch.images.shape for batch in train_batches(examples, batch_size=5, image_size=8, seed=0)]
      [(5, 8, 8, 3), (5, 8, 8, 3)]

    Source: the training crop of Inception (Szegedy et al. 2015, section 6) as ImageNet ResNets use it.
    """
    rows = num_batches(examples.num, batch_size)
    host, count = _check(batch_size, image_size, shard, num_threads, prefetch)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected 0 to {2**32 - 1}, got {seed}")
    if not 0 <= first <= rows:
        raise ValueError(f"first: expected a batch from 0 to {rows}, got {first}")
    crop = lambda content, i: train_image(content, i, image_size, seed, examples.upright)  # noqa: E731
    load = _loader(examples, crop, image_size, skip_broken)

    def element(index: int) -> Batch:
        image, label = load(index)
        return Batch(image, np.int32(label), np.float32(1))  # pyrefly: ignore[bad-argument-type]

    import grain

    order = grain.MapDataset.range(examples.num).shuffle(seed=seed).repeat(2, reseed_each_epoch=False)
    order = order.slice(slice(first * batch_size + host, rows * batch_size, count))
    return _stream(order.map(element), batch_size // count, num_threads, prefetch, device)


def eval_batches(
    examples: Examples,
    *,
    batch_size: int,
    image_size: int,
    shard: tuple[int, int] = (0, 1),
    num_threads: int | None = None,
    prefetch: int = 2,
    device: Place | None = None,
    skip_broken: list[str] | None = None,
) -> Iterator[Batch]:
    """All examples in order, cropped in the middle (see `eval_image`); the last batch is padded with weight 0.

    Args:
      as in `train_batches`, but an image that is skipped counts with weight 0; batch_size: 1 or more.
    Yields:
      images uint8 [batch_size / count, S, S, 3], black where the weight is 0; labels int32; weights float32.
    Raises:
      ValueError: as in `train_batches`.
    Example:
      >>> import io
      >>> from PIL import Image
      >>> file = io.BytesIO(); Image.new("RGB", (40, 30)).save(file, "PNG")
      >>> examples = Examples(lambda i: (file.getvalue(), i), str, 5)
      >>> [batch.weights.tolist() for batch in eval_batches(examples, batch_size=4, image_size=8)]
      [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]]
    """
    host, count = _check(batch_size, image_size, shard, num_threads, prefetch)
    crop = lambda content, _: eval_image(content, image_size, examples.upright)  # noqa: E731
    load = _loader(examples, crop, image_size, skip_broken, stand_in=False)
    padding = np.zeros((image_size, image_size, 3), np.uint8), None

    def element(index: int) -> Batch:
        image, label = load(index) if index < examples.num else padding
        weight = np.float32(label is not None)
        return Batch(image, np.int32(label or 0), weight)  # pyrefly: ignore[bad-argument-type]

    import grain

    positions = grain.MapDataset.range(host, -(-examples.num // batch_size) * batch_size, count)
    return _stream(positions.map(element), batch_size // count, num_threads, prefetch, device)


def _check(
    batch_size: int, image_size: int, shard: tuple[int, int], num_threads: int | None, prefetch: int
) -> tuple[int, int]:
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard: expected (index, count) with an index below count, got {shard}")
    if batch_size < 1 or batch_size % count:
        raise ValueError(f"batch_size: expected a multiple of the {count} shards, got {batch_size}")
    for name, value in {"image_size": image_size, "num_threads": num_threads, "prefetch": prefetch}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected 1 or more, got {value}")
    return shard


def _loader(
    examples: Examples,
    decode: Callable[[bytes, int], np.ndarray],
    image_size: int,
    broken: list[str] | None,
    stand_in: bool = True,
) -> Callable[[int], tuple[np.ndarray, int | None]]:
    """index -> (image, label); where it is broken and skipped the next one's, or without `stand_in` (black, None)."""
    lock = threading.Lock()
    most = max(10, examples.num // 100) + len(broken or ())  # those that are known already do not count

    def one(index: int) -> tuple[np.ndarray, int]:
        try:
            content, label = examples.read(index)
            if examples.scramble is not None:
                return examples.scramble(index, eval_image(content, image_size, examples.upright)), label
            return decode(content, index), label
        except UnusableImage as error:
            why = error.args[0] if broken is not None else f"{error}, or skip such files (--skip-broken-images)"
            raise ValueError(f"cannot read image {examples.name(index)}: {why}") from error
        except Exception as error:  # of many kinds: OSError, SyntaxError, struct.error, array_record's RuntimeError
            raise ValueError(f"cannot read image {examples.name(index)}: {one_line(error)}") from error

    def load(index: int) -> tuple[np.ndarray, int | None]:
        for i in range(index, index + examples.num):
            try:
                return one(i % examples.num)
            except ValueError as error:
                if broken is None:
                    raise
                with lock:
                    if str(error) not in broken:
                        broken.append(str(error))
                    if len(broken) > most:
                        raise ValueError(f"more than {most} broken images, the last: {broken[-1]}") from error
            if not stand_in:
                return np.zeros((image_size, image_size, 3), np.uint8), None
        raise ValueError(f"none of {examples.num} images can be read, the last: {broken[-1] if broken else ''}")

    return load


def _stream(
    elements: Any, batch_size: int, num_threads: int | None, prefetch: int, device: Place | None
) -> Iterator[Batch]:
    """Batches of a grain.MapDataset: threads make elements, one stacks them, one places batches ahead of use."""
    import grain
    from grain.experimental import device_put

    if not len(elements):
        return
    threads = num_threads or usable_cores()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * threads, batch_size))
    batches = elements.to_iter_dataset(options).batch(batch_size)
    if isinstance(device, jax.sharding.Sharding) and jax.process_count() > 1:
        iterator = iter(batches)
        made = (jax.tree.map(lambda x: jax.make_array_from_process_local_data(device, x), batch) for batch in iterator)
    else:
        iterator = made = iter(device_put(batches, device, cpu_buffer_size=1, device_buffer_size=prefetch))
    try:
        yield from made
    finally:
        iterator.close()
