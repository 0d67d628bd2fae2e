"""What a configuration asks to be solved: the data, on the device or streamed to it, the network, the loss."""

import contextlib
import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import datasets
from experiments.config import Config, UsageError
from experiments.networks import input_shape, network_for
from experiments.starting import pretrained_file
from rare_gems.data import batches, stream
from rare_gems.data.examples import Examples, Streamed
from rare_gems.data.sources import Dataset, Split
from rare_gems.feeds import Feed, Stream
from rare_gems.models.model import Model
from rare_gems.phase import LossFn, ModelState, Params

__all__ = ["Problem", "load_data", "make_feed", "make_loss", "make_problem"]


class Problem(NamedTuple):
    """`accuracy(params, state, split) -> float32 scalar on the device`; `splits`: name -> uint8 images and labels, or
    what they are streamed from; `fingerprint`: of the training data, so that a run is not resumed on other data;
    `skipped`: broken images left out, to which streams add while they run."""

    data: Dataset | Streamed
    image_shape: tuple[int, ...]
    model: Model
    loss_fn: LossFn
    feed: Feed | Stream
    splits: dict[str, Split | Examples]
    accuracy: Callable[[Params, ModelState, Split | Examples], jax.Array]
    fingerprint: int
    skipped: list[str]


def load_data(dataset: str, config: Config) -> datasets.Loaded:
    """The data set as the configuration cuts it, on the host, in the colours that the network takes.

    Raises:
      ValueError: if it is not there, or smaller than asked.
    """
    loaded = datasets.load(dataset, config)
    data = loaded.data
    if isinstance(data, Streamed):
        return loaded
    shape = data.train.images.shape[1:]
    return loaded if input_shape(config, shape) == shape else loaded._replace(data=datasets.in_colour(data))


def make_problem(loaded: datasets.Loaded, config: Config) -> Problem:
    """Puts the data on the device, if they are to lie there, and closes over the network.

    Raises:
      ValueError: if a batch is larger than the training set, or for what the network refuses.
    """
    data = loaded.data
    whole = {"train": data.train, "test": data.test} | ({"validation": data.validation} if data.validation else {})
    splits: dict[str, Any]
    if isinstance(data, Streamed):
        shape, splits = (data.image_size, data.image_size, 3), whole
    else:
        shape = data.train.images.shape[1:]
        splits = {name: Split(*map(jnp.asarray, split)) for name, split in whole.items()}
    model = network_for(config, shape, data.num_classes)
    skipped = list(loaded.skipped)
    feed = make_feed(data, splits["train"], config, skipped)
    accuracy = _accuracy_fn(model, data, skipped if config.skip_broken_images else None)
    return Problem(data, shape, model, make_loss(model), feed, splits, accuracy, _fingerprint(data, config), skipped)


def _fingerprint(data: Dataset | Streamed, config: Config) -> int:
    if isinstance(data, Streamed):
        value = zlib.crc32(str(data.train.num).encode())  # of a hundred images: there may be a million
        for i in np.unique(np.linspace(0, data.train.num - 1, 100, dtype=int)).tolist():
            with contextlib.suppress(OSError):
                value = zlib.crc32(data.train.read(i)[0], zlib.crc32(data.train.name(i).encode(), value))
    else:
        value = zlib.crc32(b"".join(np.asarray(part).tobytes() for part in data.train))
    if config.pretrained is not None:
        value = zlib.crc32(pretrained_file(config.pretrained).read_bytes(), value)
    return value


def make_loss(model: Model, temperature: float = 1.0) -> LossFn:
    """Mean cross-entropy of the logits divided by `temperature`, in training mode, and the batch's accuracy."""

    def loss_fn(params: Params, state: ModelState, batch: batches.Batch, key: jax.Array) -> tuple[jax.Array, Any]:
        del key
        logits, state = model.apply(params, state, batch.images, True)
        if temperature != 1.0:
            logits = logits / temperature
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()
        return loss, (state, _hits(logits, batch.labels).mean())

    return loss_fn


def make_feed(
    data: Dataset | Streamed, split: Split | Examples, config: Config, skipped: list[str] | None = None
) -> Feed | Stream:
    """Batches of `split`, shuffled, cropped, flipped and normalised as `data` says.

    Args:
      skipped: where a stream notes the images that it leaves out, if it is to leave out broken ones.

    Raises:
      ValueError: if a batch is larger than the split.
    """
    pixels: dict[str, Any] = {"mean": data.mean, "std": data.std}
    available = split.num if isinstance(split, Examples) else int(split.labels.shape[0])
    if config.batch_size > available:
        raise UsageError(f"--batch-size: expected at most the {available} training images, got {config.batch_size}")
    if isinstance(split, Examples):
        assert isinstance(data, Streamed)
        size, broken = data.image_size, (skipped if skipped is not None else []) if config.skip_broken_images else None

        def open_epoch(seed: int, first: int) -> Iterator[batches.Batch]:
            return stream.train_batches(
                split, batch_size=config.batch_size, image_size=size, seed=seed, first=first, skip_broken=broken
            )

        normalised = lambda made, key: made._replace(images=batches.normalise(made.images, **pixels))  # noqa: E731
        return Stream(batches.num_batches(split.num, config.batch_size), open_epoch, normalised)
    assert isinstance(data, Dataset)
    num, pixels = available, pixels | {"crop_padding": data.crop_padding, "flip": data.flip}
    return Feed(
        data=Split(*map(jnp.asarray, split)),
        num_batches=batches.num_batches(num, config.batch_size),
        order=lambda key: batches.epoch_order(key, num, config.batch_size),
        batch=lambda split, indices, key: batches.train_batch(split, indices, key, **pixels),
    )


def _hits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return (logits.argmax(-1) == labels).astype(jnp.float32)


def _accuracy_fn(model: Model, data: Dataset | Streamed, broken: list[str] | None) -> Callable[..., jax.Array]:
    pixels = {"mean": data.mean, "std": data.std}

    def count(params: Params, state: ModelState, batch: batches.Batch) -> jax.Array:
        logits, _ = model.apply(params, state, batch.images, False)
        return (_hits(logits, batch.labels) * batch.weights).sum()

    @functools.partial(jax.jit, static_argnums=4)
    def from_device(params: Params, state: ModelState, split: Split, first: jax.Array, size: int) -> jax.Array:
        return count(params, state, batches.eval_batch(split, first, size, **pixels))

    @jax.jit
    def from_stream(params: Params, state: ModelState, batch: batches.Batch) -> jax.Array:
        return count(params, state, batch._replace(images=batches.normalise(batch.images, **pixels)))

    def accuracy(params: Params, state: ModelState, split: Split | Examples) -> jax.Array:
        total = jnp.float32(0)
        if isinstance(split, Examples):
            assert isinstance(data, Streamed)
            size, seen = min(256, split.num), jnp.float32(0)
            for batch in stream.eval_batches(split, batch_size=size, image_size=data.image_size, skip_broken=broken):
                total, seen = total + from_stream(params, state, batch), seen + batch.weights.sum()
            return total / jnp.maximum(seen, 1)
        num = split.labels.shape[0]
        size = _eval_batch_size(num, split.images.shape[1])
        for first in range(0, num, size):
            total = total + from_device(params, state, split, jnp.int32(first), size)
        return total / num

    return accuracy


def _eval_batch_size(num: int, side: int) -> int:
    """500 images of up to 32 pixels a side; of larger ones so many that the activations take no more."""
    return min(num, max(1, 500 * 32**2 // max(side, 32) ** 2))
