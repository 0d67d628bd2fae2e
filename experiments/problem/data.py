"""The data set of a configuration: what is known of it, and itself, as the configuration cuts it."""

from typing import Any

import numpy as np

from experiments.catalog.datasets import Facts, Loaded
from experiments.catalog.networks import input_shape
from experiments.config.config import Config
from rare_gems.data import dataset, streamed_dataset
from rare_gems.data.dataset import Dataset, Split
from rare_gems.data.streamed_dataset import Streamed

__all__ = ["facts_of", "load_data"]


def facts_of(config: Config) -> Facts:
    """What is known before anything is read; validation images are taken out of the training set.

    Raises:
      ValueError: for a folder that cannot be used.
    """
    facts, held = config.data.facts_of(config.source), config.validation_examples
    train = config.train_examples or facts.num_train - held
    return facts._replace(num_train=train, num_validation=held or facts.num_validation)


def load_data(config: Config) -> Loaded:
    """The data on the host, in the colours that the network takes.

    Raises:
      ValueError: if it is not there, or smaller than asked.
    """
    data, skipped, notes = config.data.read(config.source)
    if config.image_size is not None and config.data.shrinks and isinstance(data, Dataset):
        data = dataset.shrink(data, config.image_size)
    parts: Any = streamed_dataset if isinstance(data, Streamed) else dataset
    if config.validation_examples:
        data = parts.hold_out(data, config.validation_examples, config.seed)
    if config.train_examples is not None:
        data = data._replace(train=parts.subset(data.train, config.train_examples, data.num_classes, config.seed))
    if isinstance(data, Dataset):
        shape = data.train.images.shape[1:]
        data = data if input_shape(config.model, shape) == shape else _in_colour(data)
    if not config.normalize:
        note = ", ".join(filter(None, (data.note, "not normalized")))
        data = data._replace(mean=(0.0,) * len(data.mean), std=(1.0,) * len(data.std), note=note)
    return Loaded(data, skipped, notes)


def _in_colour(data: Dataset) -> Dataset:
    """Grey images in three equal channels."""

    def repeat(split: Split | None) -> Any:
        return split and split._replace(images=np.asarray(split.images).repeat(3, axis=-1))

    return data._replace(
        train=repeat(data.train),
        test=repeat(data.test),
        validation=repeat(data.validation),
        mean=data.mean * 3,
        std=data.std * 3,
    )
