"""Images of a data set for measurements, in batches, as the network takes them; not augmented."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.problem.evaluation import batch_size, stream_batch_size
from rare_gems.data import dataset, device_batches, stream_batches, streamed_dataset
from rare_gems.data.dataset import Dataset
from rare_gems.data.streamed_dataset import Streamed

__all__ = ["image_batches"]

_DRAWN = 0  # the seed of the images that are chosen


def image_batches(data: Dataset | Streamed, name: str, most: int, size: int | None) -> Iterator[tuple[Any, Any]]:
    """Images, as the network takes them, and labels, of at most that many examples of a split; not augmented."""
    split: Any = data.train if name == "train" else data.test
    parts: Any = streamed_dataset if isinstance(data, Streamed) else dataset
    num = split.num if isinstance(data, Streamed) else len(split.labels)
    if 0 < most < num:
        split, num = parts.subset(split, most, data.num_classes, _DRAWN), most
    normalised = jax.jit(lambda images: device_batches.normalise(images, data.mean, data.std))
    if isinstance(data, Streamed):
        size = min(size or stream_batch_size(num), num)
        for batch in stream_batches.eval_batches(split, batch_size=size, image_size=data.image_size):
            there = np.asarray(batch.weights) > 0
            if there.all():
                yield normalised(batch.images), batch.labels
            elif name != "train":
                yield normalised(batch.images[there]), batch.labels[there]
        return
    size = min(size or batch_size(num, split.images.shape[1]), num)
    order = np.random.default_rng(_DRAWN).permutation(num)  # a split may be sorted by class
    for first in range(0, num - num % size if name == "train" else num, size):
        chosen = order[first : first + size]
        yield normalised(np.asarray(split.images)[chosen]), jnp.asarray(np.asarray(split.labels)[chosen])
