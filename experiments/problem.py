"""What a configuration asks to be solved: the data on the device, the network, the loss, the recipe."""

import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.config import Config
from rare_gems import init, masks
from rare_gems.data import batches, sources
from rare_gems.models.lenet import lenet_300_100
from rare_gems.models.model import Model
from rare_gems.models.resnet import resnet20
from rare_gems.phase import LossFn, Mask, ModelState, Params, Phase, Recipe, Ticket
from rare_gems.pruners.finetune import dense, finetune
from rare_gems.pruners.gem_miner import gem_miner
from rare_gems.pruners.random import random
from rare_gems.trainer import Feed

__all__ = ["MODELS", "Problem", "load_data", "make_problem", "recipe_for", "run_key", "start_ticket", "training_phase"]


class Problem(NamedTuple):
    """`accuracy(params, state, split) -> float32 scalar on the device`; `splits`: name -> uint8 images, labels;
    `fingerprint`: of the training data, so that a run is not resumed on other data."""

    model: Model
    loss_fn: LossFn
    feed: Feed
    splits: dict[str, sources.Split]
    accuracy: Callable[[Params, ModelState, sources.Split], jax.Array]
    fingerprint: int


MODELS: dict[str, Callable[[tuple[int, ...], int], Model]] = {
    "resnet20": lambda shape, num_classes: resnet20(num_classes),
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
    if config.model == "resnet20" and data.train.images.shape[-1] == 1:
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
    pixels = {"mean": data.mean, "std": data.std}
    size = len(data.train.labels)
    splits = {"train": data.train, "test": data.test} | ({"validation": data.validation} if data.validation else {})
    splits = {name: sources.Split(*map(jnp.asarray, split)) for name, split in splits.items()}

    def loss_fn(params: Params, state: ModelState, batch: batches.Batch, key: jax.Array) -> tuple[jax.Array, Any]:
        del key
        logits, state = model.apply(params, state, batch.images, True)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()
        return loss, (state, _hits(logits, batch.labels).mean())

    feed = Feed(
        data=splits["train"],
        num_batches=batches.num_batches(size, config.batch_size),
        order=lambda key: batches.epoch_order(key, size, config.batch_size),
        batch=lambda split, indices, key: batches.train_batch(
            split, indices, key, **pixels, crop_padding=data.crop_padding, flip=data.flip
        ),
    )
    fingerprint = zlib.crc32(b"".join(np.asarray(part).tobytes() for part in data.train))
    return Problem(model, loss_fn, feed, splits, _accuracy_fn(model, pixels), fingerprint)


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
    """Weights drawn as configured, scores U[0, 1), a mask that keeps everything, and the initial statistics."""

    @jax.jit
    def start(key: jax.Array) -> tuple[Ticket, ModelState]:
        key_model, key_weights, key_scores = jax.random.split(key, 3)
        params, state = model.init(key_model)
        mask = masks.ones(params)
        params = WEIGHTS[config.init](key_weights, params, mask)
        return Ticket(params, init.uniform_scores(key_scores, mask), mask), state

    return start(jax.random.split(jax.random.key(config.seed))[0])


def run_key(config: Config) -> jax.Array:
    """The randomness of the training, apart from that of `start_ticket`."""
    return jax.random.split(jax.random.key(config.seed))[1]


def training_phase(config: Config, steps_per_epoch: int) -> Phase:
    """The finetuning that every pruner ends with."""
    return finetune(
        num_epochs=config.finetune_epochs, steps_per_epoch=steps_per_epoch,
        learning_rate=config.finetune_learning_rate, momentum=config.momentum, weight_decay=config.weight_decay,
    )  # fmt: skip


def recipe_for(config: Config, mask: Mask, steps_per_epoch: int) -> Recipe:
    """The pruner's recipe. Raises ValueError for what the pruner refuses."""
    return PRUNERS[config.pruner](config, mask, steps_per_epoch, training_phase(config, steps_per_epoch))


def _gem_miner(config: Config, mask: Mask, steps_per_epoch: int, training: Phase) -> Recipe:
    options = {name: getattr(config.gem_miner, name) for name in config.gem_miner.__dataclass_fields__}
    return gem_miner(
        mask, finetune=training, sparsity=config.sparsity, num_epochs=config.epochs, steps_per_epoch=steps_per_epoch,
        learning_rate=config.learning_rate, momentum=config.momentum, **options,
    )  # fmt: skip


def _random(config: Config, mask: Mask, steps_per_epoch: int, training: Phase) -> Recipe:
    return random(mask, sparsity=config.sparsity, finetune=training, scope=config.random.scope)


def _dense(config: Config, mask: Mask, steps_per_epoch: int, training: Phase) -> Recipe:
    return dense(training)


PRUNERS: dict[str, Callable[[Config, Mask, int, Phase], Recipe]] = {
    "gem_miner": _gem_miner, "dense": _dense, "random": _random,
}  # fmt: skip
