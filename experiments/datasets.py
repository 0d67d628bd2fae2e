"""Every data set that `python -m experiments.NAME` names: what is known before it is read, and how it is read."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.config import Config, UsageError
from rare_gems.data import caltech101, examples, folder, imagenet, sources, tiny_imagenet
from rare_gems.data.examples import Streamed
from rare_gems.data.sources import Dataset, Split

__all__ = ["DATASETS", "Entry", "Facts", "Loaded", "facts_of", "load"]


class Facts(NamedTuple):
    """What is known of a data set before it is read."""

    image_shape: tuple[int, int, int]
    num_train: int
    num_test: int
    num_classes: int
    num_validation: int = 0


class Loaded(NamedTuple):
    """A data set, and the images that were left out because they are broken."""

    data: Dataset | Streamed
    skipped: tuple[str, ...] = ()


class Entry(NamedTuple):
    """`title` as in tables; `flags`: which of --data-dir, --image-size, --skip-broken-images and --stream it takes."""

    title: str
    facts: Callable[[Config], Facts]
    read: Callable[[Config], Loaded]
    flags: tuple[str, ...] = ("data_dir",)


def _folder_path(config: Config) -> Path:
    if config.data_dir is None:
        raise UsageError("--data-dir: expected the folder with train/CLASS/*.png or *.jpg in it, got none")
    return config.data_dir.expanduser()


_scan = functools.lru_cache(maxsize=1)(folder.scan)


def _folder_facts(config: Config) -> Facts:
    found = _scan(_folder_path(config))
    shape = folder.image_shape(found, _streamed_size(config), config.skip_broken_images)
    shape = (*shape[:2], 3) if config.stream else shape  # streams are in colour
    held = 0 if found.validation is None else len(found.validation.files)
    return Facts(shape, len(found.train.files), len(found.test.files), len(found.classes), held)


def _streamed_size(config: Config) -> int | None:
    return config.image_size or (224 if config.stream else None)


def _read_folder(config: Config) -> Loaded:
    path = _folder_path(config)
    if not config.stream:
        return Loaded(*folder.load(path, image_size=config.image_size, skip_broken=config.skip_broken_images,
                                   progress=True))  # fmt: skip
    found = _scan(path)
    skip = config.skip_broken_images
    train, broken = examples.checked(found.train.files, found.train.labels, skip)
    test, more = examples.checked(found.test.files, found.test.labels, skip)
    validation, most = None, ()
    if found.validation is not None:
        validation, most = examples.checked(found.validation.files, found.validation.labels, skip)
    size, classes = _streamed_size(config) or 224, len(found.classes)
    streamed = Streamed("folder", train, test, validation, classes, imagenet.MEAN, imagenet.STD, size, "")
    return Loaded(streamed, broken + more + most)


def _imagenet_facts(config: Config) -> Facts:
    size = config.image_size or 224
    return Facts((size, size, 3), 1_281_167, 50_000, 1000)


DATASETS: dict[str, Entry] = {
    "digits": Entry(
        "digits", lambda c: Facts((8, 8, 1), 1437, 360, 10), lambda c: Loaded(sources.digits()), flags=()
    ),
    "mnist": Entry(
        "MNIST", lambda c: Facts((28, 28, 1), 60_000, 10_000, 10),
        lambda c: Loaded(sources.mnist(c.data_dir, progress=True)),
    ),
    "cifar10": Entry(
        "CIFAR-10", lambda c: Facts((32, 32, 3), 50_000, 10_000, 10),
        lambda c: Loaded(sources.cifar10(c.data_dir, progress=True)),
    ),
    "cifar100": Entry(
        "CIFAR-100", lambda c: Facts((32, 32, 3), 50_000, 10_000, 100),
        lambda c: Loaded(sources.cifar100(c.data_dir, progress=True)),
    ),
    "tiny_imagenet": Entry(
        "TinyImageNet", lambda c: Facts((64, 64, 3), 100_000, 10_000, 200),
        lambda c: Loaded(*tiny_imagenet.tiny_imagenet(c.data_dir, progress=True, skip_broken=c.skip_broken_images)),
        flags=("data_dir", "skip_broken_images"),
    ),
    "caltech101": Entry(
        "Caltech-101", lambda c: Facts((224, 224, 3), 5_206, 1_735, 101, 1_736),
        lambda c: Loaded(*caltech101.caltech101(c.data_dir, progress=True, skip_broken=c.skip_broken_images)),
        flags=("data_dir", "skip_broken_images"),
    ),
    "imagenet": Entry(
        "ImageNet", _imagenet_facts, lambda c: Loaded(imagenet.imagenet(c.data_dir, image_size=c.image_size or 224)),
        flags=("data_dir", "image_size", "skip_broken_images"),
    ),
    "folder": Entry(
        "folder", _folder_facts, _read_folder, flags=("data_dir", "image_size", "skip_broken_images", "stream")
    ),
}  # fmt: skip


def facts_of(dataset: str, config: Config) -> Facts:
    """What is known of the data set, as the configuration cuts it: validation images are taken out of the training set.

    Raises:
      ValueError: for a folder that cannot be used.
    """
    facts = DATASETS[dataset].facts(config)
    held = config.validation_examples
    train = config.train_examples or facts.num_train - held
    return facts._replace(num_train=train, num_validation=held or facts.num_validation)


def load(dataset: str, config: Config) -> Loaded:
    """The data set as the configuration cuts it.

    Raises:
      ValueError: if it is not there, or smaller than asked.
    """
    data, skipped = DATASETS[dataset].read(config)
    if isinstance(data, Streamed):
        return Loaded(_cut_stream(data, config), skipped)
    if config.validation_examples:
        data = sources.hold_out(data, config.validation_examples, config.seed)
    if config.train_examples is not None:
        data = data._replace(train=sources.subset(data.train, config.train_examples, data.num_classes, config.seed))
    return Loaded(data, skipped)


def _cut_stream(data: Streamed, config: Config) -> Streamed:
    if config.validation_examples:
        data = examples.hold_out(data, config.validation_examples, config.seed)
    if config.train_examples is not None:
        data = data._replace(train=examples.subset(data.train, config.train_examples, data.num_classes, config.seed))
    return data


def in_colour(data: Dataset) -> Dataset:
    """Grey images in three equal channels."""

    def repeat(split: Split | None) -> Any:
        return split and split._replace(images=np.asarray(split.images).repeat(3, axis=-1))

    return data._replace(
        train=repeat(data.train), test=repeat(data.test), validation=repeat(data.validation),
        mean=data.mean * 3, std=data.std * 3,
    )  # fmt: skip
