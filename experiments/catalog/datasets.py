"""Every data set that `python -m experiments.NAME` names, a row each: what is known unread, and its reader."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from experiments.terminal.errors import UsageError
from rare_gems.data import folder, imagenet
from rare_gems.data.caltech101 import caltech101
from rare_gems.data.cifar import cifar10, cifar100
from rare_gems.data.dataset import Dataset
from rare_gems.data.digits import digits
from rare_gems.data.folder_scan import passed_over_line
from rare_gems.data.folder_stream import load_stream
from rare_gems.data.mnist import mnist
from rare_gems.data.streamed_dataset import Streamed
from rare_gems.data.tiny_imagenet import tiny_imagenet

__all__ = ["DATASETS", "DatasetRow", "Facts", "Loaded", "Source", "forget_folder"]


class Source(NamedTuple):
    """Where images are, and in what form they are wanted: the flags that belong to data sets."""

    data_dir: Path | None = None
    image_size: int | None = None
    skip_broken_images: bool = False
    stream: bool = False


class Facts(NamedTuple):
    """What is known of a data set before it is read."""

    image_shape: tuple[int, int, int]
    num_train: int
    num_test: int
    num_classes: int
    num_validation: int = 0


class Loaded(NamedTuple):
    """A data set, the images that were left out because they are broken, and lines to be told once."""

    data: Dataset | Streamed
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class DatasetRow(NamedTuple):
    """A row of the catalogue.

    title: as in tables. facts: what is known, or a function that finds it out. read: the reader.
    flags: the fields of `Source` that it takes. what: a line for those who choose. streamed: whether it is always read
    while training. is_folder: whether --data-dir is the data set itself, so that runs on other folders are other runs.
    shrinks: whether --image-size averages pixels of the images read.
    """

    title: str
    facts: Facts | Callable[[Source], Facts]
    read: Callable[[Source], Loaded]
    what: str
    flags: tuple[str, ...] = ("data_dir",)
    streamed: bool = False
    is_folder: bool = False
    shrinks: bool = False

    def facts_of(self, source: Source) -> Facts:
        """What is known of the whole data set.

        Raises:
          ValueError: for a folder that cannot be used, or a size to which images cannot be averaged.
        """
        facts = self.facts(source) if callable(self.facts) else self.facts
        if source.image_size is None or not self.shrinks:
            return facts
        (side, _, channels), size = facts.image_shape, source.image_size
        if size < 1 or side % size:
            raise UsageError(f"--image-size: expected a size that divides {side}, got {size}")
        return facts._replace(image_shape=(size, size, channels))


def _folder_path(source: Source) -> Path:
    if source.data_dir is None:
        raise UsageError("--data-dir: expected the folder with train/CLASS/*.png or *.jpg in it, got none")
    return source.data_dir.expanduser()


_scan = functools.lru_cache(maxsize=1)(folder.scan)


def forget_folder() -> bool:
    """Has the next command of this process look again at a folder of images. Returns whether one had been looked at."""
    looked = _scan.cache_info().currsize > 0
    _scan.cache_clear()
    return looked


def _folder_facts(source: Source) -> Facts:
    found = _scan(_folder_path(source))
    shape = folder.image_shape(found, _streamed_size(source), source.skip_broken_images)
    shape = (*shape[:2], 3) if source.stream else shape  # streams are in colour
    held = 0 if found.validation is None else len(found.validation.files)
    return Facts(shape, len(found.train.files), len(found.test.files), len(found.classes), held)


def _streamed_size(source: Source) -> int | None:
    return source.image_size or (224 if source.stream else None)


def _read_folder(source: Source) -> Loaded:
    path, skip = _folder_path(source), source.skip_broken_images
    found = _scan(path)
    line = passed_over_line(path, found)
    notes = () if line is None else (line,)
    if source.stream:
        return Loaded(*load_stream(found, image_size=_streamed_size(source) or 224, skip_broken=skip), notes)
    return Loaded(*folder.load(path, image_size=source.image_size, skip_broken=skip, progress=True), notes)


def _imagenet_facts(source: Source) -> Facts:
    size = source.image_size or 224
    return Facts((size, size, 3), 1_281_167, 50_000, 1000)


DATASETS: dict[str, DatasetRow] = {
    "digits": DatasetRow(
        title="digits",
        facts=Facts((8, 8, 1), 1437, 360, 10),
        read=lambda s: Loaded(digits()),
        what="scikit-learn's 1,797 handwritten digits of 8x8 pixels, offline",
        flags=(),
    ),
    "mnist": DatasetRow(
        title="MNIST",
        facts=Facts((28, 28, 1), 60_000, 10_000, 10),
        read=lambda s: Loaded(mnist(s.data_dir, progress=True)),
        what="70,000 handwritten digits of 28x28 pixels",
        flags=("data_dir", "image_size"),
        shrinks=True,
    ),
    "cifar10": DatasetRow(
        title="CIFAR-10",
        facts=Facts((32, 32, 3), 50_000, 10_000, 10),
        read=lambda s: Loaded(cifar10(s.data_dir, progress=True)),
        what="60,000 images of 32x32 pixels, 10 classes",
        flags=("data_dir", "image_size"),
        shrinks=True,
    ),
    "cifar100": DatasetRow(
        title="CIFAR-100",
        facts=Facts((32, 32, 3), 50_000, 10_000, 100),
        read=lambda s: Loaded(cifar100(s.data_dir, progress=True)),
        what="60,000 images of 32x32 pixels, 100 classes",
        flags=("data_dir", "image_size"),
        shrinks=True,
    ),
    "tiny_imagenet": DatasetRow(
        title="TinyImageNet",
        facts=Facts((64, 64, 3), 100_000, 10_000, 200),
        read=lambda s: Loaded(*tiny_imagenet(s.data_dir, progress=True, skip_broken=s.skip_broken_images)),
        what="110,000 images of 64x64 pixels, 200 classes",
        flags=("data_dir", "image_size", "skip_broken_images"),
        shrinks=True,
    ),
    "caltech101": DatasetRow(
        title="Caltech-101",
        facts=Facts((224, 224, 3), 5_206, 1_735, 101, 1_736),
        read=lambda s: Loaded(*caltech101(s.data_dir, progress=True, skip_broken=s.skip_broken_images)),
        what="8,677 photographs, 101 classes",
        flags=("data_dir", "image_size", "skip_broken_images"),
        shrinks=True,
    ),
    "imagenet": DatasetRow(
        title="ImageNet",
        facts=_imagenet_facts,
        read=lambda s: Loaded(imagenet.imagenet(s.data_dir, image_size=s.image_size or 224)),
        what="1.3 million photographs, 1000 classes, streamed",
        flags=("data_dir", "image_size", "skip_broken_images"),
        streamed=True,
    ),
    "folder": DatasetRow(
        title="folder",
        facts=_folder_facts,
        read=_read_folder,
        what="images of your own: --data-dir with train/CLASS/*.png and test/",
        flags=("data_dir", "image_size", "skip_broken_images", "stream"),
        is_folder=True,
    ),
}
