"""Tiny ImageNet: 200 classes of 64x64 images, 100,000 to train on and 10,000 to test, from the official archive."""

import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

from rare_gems.data import folder as image_folder
from rare_gems.data.dataset import Dataset, Split
from rare_gems.data.decode import one_line
from rare_gems.data.folder_scan import Listing, class_names, list_images
from rare_gems.data.image_file import SUFFIXES
from rare_gems.data.tfds_read import DataUnavailable, default_data_dir

__all__ = ["tiny_imagenet"]

_NAME = "tiny-imagenet-200"
_URL = f"http://cs231n.stanford.edu/{_NAME}.zip"


def tiny_imagenet(
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = False,
    skip_broken: bool = False,
    halves: bool = False,
) -> tuple[Dataset, tuple[str, ...]]:
    """Tiny ImageNet from data_dir/tiny-imagenet-200, or from tiny-imagenet-200.zip there, extracted beside it.

    The classes are those of wnids.txt, sorted. The test split is the official validation split (the official
    test split has no labels). Grey images become colour. The decoded images are cached (see `folder.load`):
    1.4 GB on disk and in memory.

    Args:
      data_dir: None: TFDS_DATA_DIR, else ~/tensorflow_datasets. cache_dir: None: $XDG_CACHE_HOME/rare_gems,
        else ~/.cache/rare_gems. progress: show bars while files are extracted and images decoded.
      skip_broken: leave out images that cannot be used instead of raising.
      halves: of the official validation images of each class, in the order of file names, the first half is
        the validation split and the rest the test split (25 + 25).
    Returns:
      (data set, files left out as "path: why"): images uint8 [N, 64, 64, 3]; pad-4 crop and flip.
    Raises:
      DataUnavailable: (a ValueError) there is neither the folder nor the archive.
      ValueError: the archive, wnids.txt, the annotations or an image are damaged or missing.

    Source: Le and Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS231N, 2015.
    Deviation: Rare Gems' code tests on the second halves only; `halves=True` does so.
    """
    folder = _find(default_data_dir() if data_dir is None else Path(data_dir).expanduser(), progress)
    classes = _classes(folder)
    train, uneven = _train(folder, classes, skip_broken)
    listings = {"train": train, "test": _annotated(folder, classes)}
    splits, _, _, skipped = image_folder.decode(
        folder, classes, listings, rgb=True, skip_broken=skip_broken, cache_dir=cache_dir, progress=progress
    )
    test, validation = splits["test"], None
    if halves:
        validation, test = _halve(test, classes)
    mean, std = (0.480, 0.448, 0.397), (0.276, 0.269, 0.282)
    dataset = Dataset(
        name="tiny_imagenet",
        train=splits["train"],
        test=test,
        validation=validation,
        num_classes=len(classes),
        mean=mean,
        std=std,
        crop_padding=4,
        flip=True,
        note="",
    )
    return dataset, uneven + skipped


def _find(data_dir: Path, progress: bool) -> Path:
    folder, archive = data_dir / _NAME, data_dir / f"{_NAME}.zip"
    if not folder.is_dir():
        if not archive.is_file():
            raise DataUnavailable(
                f"no Tiny ImageNet: neither the folder {folder} nor the archive {archive}. "
                f"Download {_URL} and put it into {data_dir}"
            )
        _extract(archive, folder, progress)
    return folder


def _extract(archive: Path, folder: Path, progress: bool) -> None:
    from tqdm import tqdm

    hint = f"expected the whole file from {_URL}: download it again"
    try:
        with (
            zipfile.ZipFile(archive) as file,
            tempfile.TemporaryDirectory(prefix=".extracting-", dir=folder.parent) as scratch,
        ):
            members = file.infolist()
            for member in members:
                path = PurePosixPath(member.filename)
                if path.is_absolute() or ".." in path.parts or stat.S_ISLNK(member.external_attr >> 16):
                    raise ValueError(f"{archive}: {member.filename} leads out of the folder; {hint}")
            if not any(PurePosixPath(member.filename).parts[:1] == (_NAME,) for member in members):
                raise ValueError(f"{archive}: no folder {_NAME} in it; {hint}")
            for member in tqdm(members, desc=f"extracting {archive.name}", disable=None if progress else True):
                file.extract(member, scratch)
            try:
                (Path(scratch) / _NAME).rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, UnicodeDecodeError) as error:
        raise ValueError(f"{archive}: cut short or damaged ({one_line(error)}); {hint}") from error
    except OSError as error:
        reason = f"cannot be extracted into {folder.parent} ({error.strerror or error})"
        raise ValueError(f"{archive}: {reason}; expected a folder to write into, with 0.7 GB free") from error


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ValueError(f"{file}: cannot be read ({reason}); expected the file of the official archive") from error


def _classes(folder: Path) -> tuple[str, ...]:
    file = folder / "wnids.txt"
    names = [line.strip() for line in _lines(file) if line.strip()]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"{file}: expected two or more different class names, a line each, got {len(names)} lines")
    return tuple(sorted(names))


def _train(folder: Path, classes: tuple[str, ...], skip_broken: bool) -> tuple[Listing, tuple[str, ...]]:
    """(the training images, what is odd about them)."""
    found = class_names(folder / "train")
    for what, names in (("missing", set(classes) - set(found)), ("not in wnids.txt", set(found) - set(classes))):
        if names:
            some = ", ".join(sorted(names)[:3])
            raise ValueError(
                f"{folder / 'train'}: {len(names)} class folders {what} ({some}); expected those of wnids.txt"
            )
    train = list_images(folder / "train", classes, "images")
    counts = np.bincount(train.labels)
    fewest = int(counts.argmin())
    if counts[fewest] == counts.max():
        return train, ()
    uneven = f"{folder / 'train' / classes[fewest]}: {counts[fewest]} images, {counts.max()} in other classes"
    if not skip_broken:
        raise ValueError(f"{uneven}; expected as many in each: extract the archive again, or give --skip-broken-images")
    return train, (uneven,)


def _annotated(folder: Path, classes: tuple[str, ...]) -> Listing:
    """The official validation images by class, then by name, labelled by val_annotations.txt."""
    place, file = folder / "val" / "images", folder / "val" / "val_annotations.txt"
    labels = {name: label for label, name in enumerate(classes)}
    found: dict[str, int] = {}
    for number, line in enumerate(_lines(file), 1):
        name, tab, rest = line.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if not (name and tab and wnid) or PurePosixPath(name).name != name:
            raise ValueError(f"{file}: line {number} is {line[:60]!r}; expected NAME.JPEG, a tab, a class name")
        if wnid not in labels:
            raise ValueError(f"{file}: line {number} has class {wnid}; expected one of wnids.txt")
        if found.setdefault(name, labels[wnid]) != labels[wnid]:
            raise ValueError(f"{file}: line {number} has a second class of {name}; expected one line for each image")
    if not found:
        raise ValueError(f"{file}: empty; expected a line for each validation image")
    try:
        there = {path.name for path in place.iterdir() if not path.name.startswith(".")}
    except OSError as error:
        raise ValueError(f"{place}: cannot be listed ({error.strerror}); expected the validation images") from error
    if absent := sorted(set(found) - there):
        raise ValueError(f"{place}: {len(absent)} annotated images missing ({absent[0]}); extract the archive again")
    if unnamed := sorted(name for name in there - set(found) if PurePosixPath(name).suffix.lower() in SUFFIXES):
        raise ValueError(f"{file}: no line for {len(unnamed)} images ({unnamed[0]}); extract the archive again")
    order = sorted(found, key=lambda name: (found[name], name))
    return Listing(tuple(place / name for name in order), np.array([found[name] for name in order], np.int32))


def _halve(split: Split, classes: tuple[str, ...]) -> tuple[Split, Split]:
    """The first half of each class of a split that is sorted by class, and the others."""
    images, labels = np.asarray(split.images), np.asarray(split.labels)
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < 2:
        fewest = int(counts.argmin())
        raise ValueError(f"{counts[fewest]} validation images of class {classes[fewest]}; expected 2 or more to halve")
    rank = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels]
    first = rank < counts[labels] // 2
    return Split(images[first], labels[first]), Split(images[~first], labels[~first])
