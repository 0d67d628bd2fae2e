"""What a configuration asks to be solved: the data on the device, the network, the loss, the recipe."""

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.config import Config, UsageError
from rare_gems import init, masks, ticket_io
from rare_gems.data import batches, sources
from rare_gems.feeds import Feed
from rare_gems.models.lenet import lenet_300_100
from rare_gems.models.model import Model
from rare_gems.models.resnet import resnet20, resnet32
from rare_gems.phase import LossFn, ModelState, Params, Ticket

__all__ = ["MODELS", "Problem", "load_data", "make_feed", "make_loss", "make_problem", "run_key", "start_ticket"]


class Problem(NamedTuple):
    """`accuracy(params, state, split) -> float32 scalar on the device`; `splits`: name -> uint8 images, labels;
    `fingerprint`: of the training data, so that a run is not resumed on other data."""

    data: sources.Dataset
    model: Model
    loss_fn: LossFn
    feed: Feed
    splits: dict[str, sources.Split]
    accuracy: Callable[[Params, ModelState, sources.Split], jax.Array]
    fingerprint: int


MODELS: dict[str, Callable[[tuple[int, ...], int], Model]] = {
    "resnet20": lambda shape, num_classes: resnet20(num_classes),
    "resnet32": lambda shape, num_classes: resnet32(num_classes),
    "lenet_300_100": lambda shape, num_classes: lenet_300_100(num_classes, math.prod(shape)),
}
WEIGHTS = {"signed_constant": init.signed_constant, "kaiming_normal": init.kaiming_normal, "uniform": init.uniform}


def load_data(name: str, config: Config) -> sources.Dataset:
    """The data set as the configuration cuts it, on the host.

    Raises:
      ValueError: if it is not there, or smaller than asked.
    """
    data = sources.digits() if name == "digits" else sources.cifar10(config.data_dir, progress=True)
    if config.validation_examples:
        data = sources.hold_out(data, config.validation_examples, config.seed)
    if config.train_examples is not None:
        data = data._replace(train=sources.subset(data.train, config.train_examples, data.num_classes, config.seed))
    if config.model.startswith("resnet") and data.train.images.shape[-1] == 1:
        data = _in_colour(data)
    return data


def _in_colour(data: sources.Dataset) -> sources.Dataset:
    """Grey images in three equal channels, so that the network is the same for all data sets."""

    def repeat(split: sources.Split | None) -> Any:
        return split and split._replace(images=split.images.repeat(3, axis=-1))

    return data._replace(
        train=repeat(data.train), test=repeat(data.test), validation=repeat(data.validation),
        mean=data.mean * 3, std=data.std * 3,
    )  # fmt: skip


def make_problem(data: sources.Dataset, config: Config) -> Problem:
    """Puts the data on the device and closes over the network.

    Raises:
      ValueError: if a batch is larger than the training set.
    """
    model = MODELS[config.model](data.train.images.shape[1:], data.num_classes)
    splits = {"train": data.train, "test": data.test} | ({"validation": data.validation} if data.validation else {})
    splits = {name: sources.Split(*map(jnp.asarray, split)) for name, split in splits.items()}
    feed = make_feed(data, splits["train"], config.batch_size)
    fingerprint = zlib.crc32(b"".join(np.asarray(part).tobytes() for part in data.train))
    if config.pretrained is not None:
        fingerprint = zlib.crc32(_ticket_file(config.pretrained).read_bytes(), fingerprint)
    accuracy = _accuracy_fn(model, {"mean": data.mean, "std": data.std})
    return Problem(data, model, make_loss(model), feed, splits, accuracy, fingerprint)


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


def make_feed(data: sources.Dataset, split: sources.Split, batch_size: int) -> Feed:
    """Batches of `split`, shuffled, cropped, flipped and normalised as `data` says, on the device.

    Raises:
      ValueError: if a batch is larger than the split.
    """
    size = int(split.labels.shape[0])
    pixels = {"mean": data.mean, "std": data.std, "crop_padding": data.crop_padding, "flip": data.flip}
    return Feed(
        data=sources.Split(*map(jnp.asarray, split)),
        num_batches=batches.num_batches(size, batch_size),
        order=lambda key: batches.epoch_order(key, size, batch_size),
        batch=lambda split, indices, key: batches.train_batch(split, indices, key, **pixels),
    )


def _hits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return (logits.argmax(-1) == labels).astype(jnp.float32)


def _accuracy_fn(model: Model, pixels: dict[str, Any], batch_size: int = 500) -> Callable[..., jax.Array]:
    @jax.jit
    def hits(params: Params, state: ModelState, split: sources.Split, first: jax.Array) -> jax.Array:
        size = min(batch_size, split.labels.shape[0])
        batch = batches.eval_batch(split, first, size, **pixels)
        logits, _ = model.apply(params, state, batch.images, False)
        return (_hits(logits, batch.labels) * batch.weights).sum()

    def accuracy(params: Params, state: ModelState, split: sources.Split) -> jax.Array:
        size = split.labels.shape[0]
        starts = range(0, size, min(batch_size, size))
        return sum((hits(params, state, split, jnp.int32(first)) for first in starts), jnp.float32(0)) / size

    return accuracy


def start_ticket(model: Model, config: Config) -> tuple[Ticket, ModelState]:
    """Weights drawn as configured (or pre-trained), scores U[0, 1), a mask that keeps everything, and the statistics.

    Raises:
      ValueError: if the pre-trained weights are not there, of another network, or of a sparse one.
    """

    @jax.jit
    def start(key: jax.Array) -> tuple[Ticket, ModelState]:
        key_model, key_weights, key_scores = jax.random.split(key, 3)
        params, state = model.init(key_model)
        mask = masks.ones(params)
        params = WEIGHTS[config.init](key_weights, params, mask)
        return Ticket(params, init.uniform_scores(key_scores, mask), mask), state

    ticket, state = start(jax.random.split(jax.random.key(config.seed))[0])
    if config.pretrained is None:
        return ticket, state
    path = _ticket_file(config.pretrained)
    file = ticket_io.load(path, like=ticket._replace(scores=None), like_state=state)
    kept, size = masks.num_kept(file.ticket.mask), masks.num_prunable(ticket.mask)
    if kept < size:
        raise UsageError(f"--pretrained: {path}: expected the weights of a dense network, got {kept:,} of {size:,}")
    return ticket._replace(params=file.ticket.params), file.model_state


def _ticket_file(path: Path) -> Path:
    file = path / "ticket.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"--pretrained: expected a ticket.safetensors or the folder of a finished run, got {path}")
    return file


def run_key(config: Config) -> jax.Array:
    """The randomness of the training, apart from that of `start_ticket`."""
    return jax.random.split(jax.random.key(config.seed))[1]
