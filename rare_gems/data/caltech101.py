"""Caltech-101, read from a copy prepared by TFDS: pictures of 101 kinds of things, for transfer from ImageNet."""

from pathlib import Path

import numpy as np

from rare_gems.data import tfds_read
from rare_gems.data.array_cache import cached
from rare_gems.data.dataset import Dataset, Split
from rare_gems.data.imagenet import MEAN, STD
from rare_gems.data.tfds_read import DataUnavailable, default_data_dir

__all__ = ["caltech101"]

_SHAPE = (224, 224, 3)
_DROPPED = "background_google"  # TFDS's 102nd class: pictures of nothing in particular
_SEED = 0
_NAMES = ("train_images", "train_labels", "validation_images", "validation_labels", "test_images", "test_labels")


def caltech101(
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = False,
    skip_broken: bool = False,
) -> tuple[Dataset, tuple[str, ...]]:
    """Caltech-101: 8,677 photographs of 101 classes, 60 % train, 20 % validation and 20 % test of each class.

    The split is drawn once, from the class and the file name of each image: the same on every machine, though TFDS's
    own splits, which are put together first, may differ. Decoding needs about 3 GB of memory once, later calls 1.5 GB.

    Args:
      data_dir: the folder of TFDS data sets; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
      cache_dir: None: $XDG_CACHE_HOME/rare_gems, else ~/.cache/rare_gems.
      progress: show a bar while images are decoded.
      skip_broken: leave out images that cannot be decoded, rather than raise.
    Returns:
      (data, what was left out: a line for each image). images uint8 [N, 224, 224, 3], RGB, resized (bilinear, aspect
      ratio not kept); with a validation split; the mean and std of ImageNet; no crop, no flip. Labels are those of TFDS
      without background_google.
    Raises:
      DataUnavailable: (a ValueError) there is no copy in data_dir; it cannot be prepared without TensorFlow.
      ValueError: a record file is damaged, or an image in one (without skip_broken).

    Source: Rare Gems v1, Appendix A.1. Deviations: it says neither how the split was drawn (here within each class)
    nor how images were resized.
    """
    data_dir = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    if (folder := tfds_read.prepared_folder(data_dir, "caltech101")) is None:
        raise DataUnavailable(
            f"no Caltech-101 in {data_dir / 'caltech101'}. Run in a place with network and TensorFlow: "
            f"tfds build caltech101 --file_format=array_record --data_dir={data_dir}, then copy that folder here"
        )

    def make() -> dict[str, np.ndarray]:
        decoded, classes = tfds_read.decode(folder, _SHAPE, resize=True, skip_broken=skip_broken, progress=progress)
        if _DROPPED not in classes:
            raise ValueError(f"expected a class {_DROPPED} in {folder}, got {len(classes)} other classes")
        arrays = _divide(decoded, classes.index(_DROPPED))
        arrays["num_classes"] = np.array(len(classes) - 1)
        arrays["broken"] = np.array([line for part in decoded.values() for line in part.broken], str)
        return arrays

    name = "caltech101-skip-broken" if skip_broken else "caltech101"
    arrays = cached(folder, make, (*_NAMES, "num_classes", "broken"), name, cache_dir)
    train, validation, test = (
        Split(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "validation", "test")
    )
    num_classes = int(arrays["num_classes"])
    data = Dataset(
        name="caltech101",
        train=train,
        test=test,
        validation=validation,
        num_classes=num_classes,
        mean=MEAN,
        std=STD,
        crop_padding=0,
        flip=False,
        note="",
    )
    return data, tuple(arrays["broken"].tolist())


def _divide(decoded: dict[str, tfds_read.Decoded], dropped: int) -> dict[str, np.ndarray]:
    """The three splits, without the class `dropped`, whose number the classes after it move down to."""
    parts = list(decoded.values())
    labels = np.concatenate([part.labels for part in parts])
    files = np.array([file for part in parts for file in part.files], str)
    # By class and file name, in which order neither TFDS's splits nor its shuffling matter.
    order = np.lexsort((files, labels))
    order = order[labels[order] != dropped]
    splits = np.zeros(len(order), np.int32)  # 0: train
    for label in np.unique(labels[order]):
        places = np.flatnonzero(labels[order] == label)
        # Raw bits and a stable sort: numpy.random's permutations may change between versions. A stream for each class,
        # so that an image left out moves those of its class only.
        bits = np.random.PCG64(np.random.SeedSequence([_SEED, int(label)])).random_raw(len(places))
        places = places[np.argsort(bits, kind="stable")]
        num_test = (2 * len(places) + 5) // 10  # a fifth, to the nearest
        num_validation = (len(places) - num_test + 2) // 4  # a quarter of the rest
        splits[places[:num_test]] = 2
        splits[places[num_test : num_test + num_validation]] = 1
    arrays = {}
    for number, name in enumerate(("train", "validation", "test")):
        chosen = order[splits == number]
        arrays[f"{name}_images"] = _rows([part.images for part in parts], chosen)
        arrays[f"{name}_labels"] = labels[chosen] - (labels[chosen] > dropped).astype(np.int32)
    return arrays


def _rows(arrays: list[np.ndarray], chosen: np.ndarray) -> np.ndarray:
    """Rows of the arrays joined together, without joining them."""
    out = np.empty((len(chosen), *arrays[0].shape[1:]), arrays[0].dtype)
    begin = 0
    for array in arrays:
        for row in np.flatnonzero((chosen >= begin) & (chosen < begin + len(array))):
            out[row] = array[chosen[row] - begin]
        begin += len(array)
    return out
