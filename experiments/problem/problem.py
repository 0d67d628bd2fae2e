"""What a configuration asks to be solved: the data, on the device or streamed to it, the network, the loss."""

import contextlib
import functools
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.catalog.datasets import Loaded
from experiments.config.config import Config
from experiments.problem.evaluation import Accuracy, hits, make_evaluation, stream_place
from experiments.problem.network import network_for
from experiments.problem.pretrained import pretrained_file
from experiments.terminal.errors import UsageError
from rare_gems.data import device_batches as batches
from rare_gems.data import stream_batches
from rare_gems.data.dataset import Dataset, Split
from rare_gems.data.streamed_dataset import Examples, Streamed
from rare_gems.models.model import Model, with_key
from rare_gems.phase import LossFn, ModelState, Params
from rare_gems.training import sharding
from rare_gems.training.feeds import Feed, Stream

__all__ = ["Problem", "make_feed", "make_loss", "make_problem"]


class Problem(NamedTuple):
    """`accuracy(params, state, split) -> float32 scalar on the device`; `accuracies` the same of several runs, whose
    params and state have a leading axis; `ranked` and `ranked_many` the same with a last axis, of `tops_of` the data;
    `splits`: name -> uint8 images and labels, or what they are streamed from;
    `fingerprint`: of the training data, so that a run is not resumed on other data;
    `skipped`: broken images left out, to which streams add while they run; `mesh`: where the work is spread over
    devices, and `norm_mesh` the same where BatchNorm's statistics are those of each device."""

    data: Dataset | Streamed
    image_shape: tuple[int, ...]
    model: Model
    loss_fn: LossFn
    feed: Feed | Stream
    splits: dict[str, Split | Examples]
    accuracy: Accuracy
    accuracies: Accuracy
    ranked: Accuracy
    ranked_many: Accuracy
    fingerprint: int
    skipped: list[str]
    mesh: Mesh | None
    norm_mesh: Mesh | None


def make_problem(loaded: Loaded, config: Config, mesh: Mesh | None = None) -> Problem:
    """Puts the data on the device, or on each of several, if they are to lie there, and closes over the network.

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
        splits = {name: sharding.place(Split(*map(jnp.asarray, split)), mesh) for name, split in whole.items()}
    model = network_for(config, shape, data.num_classes)
    skipped = list(loaded.skipped)
    feed = make_feed(data, splits["train"], config, skipped, mesh)
    evaluation = make_evaluation(model, data, skipped if config.skip_broken_images else None, mesh=mesh)
    norm_mesh = mesh if config.batch_norm == "per-device" else None
    return Problem(
        data=data,
        image_shape=shape,
        model=model,
        loss_fn=make_loss(model, mesh=norm_mesh),
        feed=feed,
        splits=splits,
        accuracy=evaluation.one,
        accuracies=evaluation.many,
        ranked=evaluation.ranked,
        ranked_many=evaluation.ranked_many,
        fingerprint=_fingerprint(data, config),
        skipped=skipped,
        mesh=mesh,
        norm_mesh=norm_mesh,
    )


def _fingerprint(data: Dataset | Streamed, config: Config) -> int:
    if isinstance(data, Streamed):
        value = zlib.crc32(str(data.train.num).encode())  # of a hundred images: there may be a million
        for i in np.unique(np.linspace(0, data.train.num - 1, 100, dtype=int)).tolist():
            with contextlib.suppress(OSError, ValueError):
                value = zlib.crc32(data.train.read(i)[0], zlib.crc32(os.fsencode(data.train.name(i)), value))
    else:
        value = zlib.crc32(b"".join(np.asarray(part).tobytes() for part in data.train))
    if config.pretrained is not None:
        value = zlib.crc32(pretrained_file(config.pretrained).read_bytes(), value)
    return value


def make_loss(model: Model, temperature: float = 1.0, *, smoothing: float = 0.0, mesh: Mesh | None = None) -> LossFn:
    """Mean cross-entropy of the logits divided by `temperature`, in training mode, and the batch's accuracy; with a
    mesh each of its devices normalises its own rows (see `sharding.per_device`). The key is for dropout.

    Args:
      smoothing: the share of a label that all classes get alike (Szegedy et al., 2016, section 7).
    """

    def loss_fn(params: Params, state: ModelState, batch: batches.Batch, key: jax.Array) -> tuple[jax.Array, Any]:
        logits, state = with_key(model.apply, key)(params, state, batch.images, True)
        if temperature != 1.0:
            logits = logits / temperature
        if smoothing:
            labels = optax.smooth_labels(jax.nn.one_hot(batch.labels, logits.shape[-1], dtype=logits.dtype), smoothing)
            loss = optax.softmax_cross_entropy(logits, labels).mean()
        else:
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()
        return loss, (state, hits(logits, batch.labels).mean())

    return sharding.per_device(loss_fn, mesh)


@functools.lru_cache(maxsize=32)
def _order_fn(num_examples: int, batch_size: int) -> Callable[[jax.Array], jax.Array]:
    """One function for equal sizes: what is compiled for it is found again."""
    return lambda key: batches.epoch_order(key, num_examples, batch_size)


def make_feed(
    data: Dataset | Streamed,
    split: Split | Examples,
    config: Config,
    skipped: list[str] | None = None,
    mesh: Mesh | None = None,
) -> Feed | Stream:
    """Batches of `split`, shuffled, cropped, flipped and normalised as `data` says.

    Args:
      skipped: where a stream notes the images that it leaves out, if it is to leave out broken ones.
      mesh: where the data go: all of them onto each device, but of a stream's batches to each device its rows.

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
            return stream_batches.train_batches(
                split, batch_size=config.batch_size, image_size=size, seed=seed, first=first, skip_broken=broken,
                **stream_place(mesh),
            )  # fmt: skip

        normalised = lambda made, key: made._replace(images=batches.normalise(made.images, **pixels))  # noqa: E731
        return Stream(batches.num_batches(split.num, config.batch_size), open_epoch, normalised)
    assert isinstance(data, Dataset)
    num, pixels = available, pixels | {"crop_padding": data.crop_padding, "flip": data.flip}
    return Feed(
        data=sharding.place(Split(*map(jnp.asarray, split)), mesh),
        num_batches=batches.num_batches(num, config.batch_size),
        order=_order_fn(num, config.batch_size),
        batch=lambda split, indices, key: batches.train_batch(split, indices, key, **pixels),
    )
