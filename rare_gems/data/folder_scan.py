"""What is in an image folder: its classes, its images by their suffix, and what is passed over."""

import contextlib
import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np

from rare_gems.data.image_file import SUFFIXES

__all__ = [
    "ImageFolder", "Listing", "PassedOver", "class_names", "identity", "list_images", "passed_over_line", "scan",
]  # fmt: skip

_SPLITS = ("train", "test", "val")
_NO_CLASSES = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")  # systems make them
_CLASS_EXPECTED = f"expected files with one of the suffixes {' '.join(SUFFIXES)}, or no such folder"
_KINDS, _EXAMPLES = 8, 2  # that are told of what is passed over


class Listing(NamedTuple):
    """The image files of a split, by class, then by name, and their labels, int32 [N]."""

    files: tuple[Path, ...]
    labels: np.ndarray


class PassedOver(NamedTuple):
    """Entries of folders that are no images: their kind, how many there are, and the first of them."""

    kind: str
    count: int
    examples: tuple[Path, ...]


class ImageFolder(NamedTuple):
    """classes: sorted names; a label is a position in it. validation: None, or a split besides train and test.
    passed_over: what is there besides the images, by kind; see `passed_over_line`."""

    classes: tuple[str, ...]
    train: Listing
    test: Listing
    validation: Listing | None
    passed_over: tuple[PassedOver, ...] = ()


def scan(folder: str | Path) -> ImageFolder:
    """Lists the images in train/CLASS/ and in test/CLASS/ and val/CLASS/ beside it, by the suffixes of `image_file`.

    Where there is only val/, it is the test split; where there are both, val/ is the validation split. Classes
    and files are sorted by name, so that labels and order are the same on every machine. The names of classes may be
    written in Unicode in different ways from split to split. What is passed over is counted: hidden files, files with
    other suffixes or outside class folders, folders within class folders or beside the splits, and folders that
    systems leave behind, such as __MACOSX.

    Args:
      folder: the folder that holds train/.
    Raises:
      ValueError: a folder is missing or cannot be listed; there are fewer than two classes; a class has no
        images; the splits have different classes.
    """
    folder = Path(folder).expanduser()
    if not _holds(folder.is_dir):
        raise ValueError(f"{folder} is {'a file' if folder.exists() else 'missing'}; expected a folder with train/")
    if not _holds((folder / "train").is_dir):
        raise ValueError(f"no folder train in {folder}; expected {folder}/train/CLASS/*.png (or .jpg, .webp, ...)")
    held_out = [name for name in _SPLITS[1:] if _holds((folder / name).is_dir)]
    if not held_out:
        raise ValueError(f"neither test nor val in {folder}; expected one of the two folders beside train")
    classes, passed = _classes(folder / "train")
    if len(classes) == 1:
        raise ValueError(f"only one class folder in {folder / 'train'} ({classes[0]}); expected two or more")
    names = {"train": classes}
    for split in held_out:
        found, more = _classes(folder / split)
        names[split] = _in_order(folder, split, found, classes)
        passed += more
    listings = []
    for split in ("train", *held_out):
        listing, more = _listed(folder / split, names[split])
        listings.append(listing)
        passed += more
    with contextlib.suppress(ValueError):  # a folder that cannot be listed may be entered all the same
        passed += _passed((folder / entry.name, _kind_beside(entry)) for entry in _entries(folder))
    validation = listings[2] if len(listings) == 3 else None
    return ImageFolder(classes, listings[0], listings[1], validation, _merged(passed))


def passed_over_line(folder: Path, found: ImageFolder) -> str | None:
    """What `scan` passed over, counted, with examples, in one line; None where that is nothing.

    Example:
      >>> found = ImageFolder((), None, None, None, (PassedOver(".txt", 3, (Path("pets/train/cat/a.txt"),)),))
      >>> passed_over_line(Path("pets"), found)
      'passed over 3 entries of pets that are no images of a class: .txt: 3 (train/cat/a.txt)'
    """
    if not found.passed_over:
        return None
    total = sum(passed.count for passed in found.passed_over)
    return f"passed over {total} entries of {folder} that are no images of a class: {_shown(folder, found.passed_over)}"


def class_names(folder: Path) -> tuple[str, ...]:
    """The sorted names of the folders in a folder; hidden ones and those that systems make are passed over.

    Raises:
      ValueError: there are none, or the folder cannot be listed.
    """
    return _classes(folder)[0]


def list_images(folder: Path, classes: Sequence[str], within: str = "") -> Listing:
    """The images of folder/CLASS/within for each of the classes, labelled 0, 1, ... in the order given.

    Raises:
      ValueError: a class has no images, or a folder is missing or cannot be listed.
    """
    return _listed(folder, classes, within)[0]


def identity(listings: Mapping[str, Listing], image_size: int | None, rgb: bool) -> str:
    """A digest of the paths, sizes and times of all files, their labels, and how they are decoded."""
    digest = hashlib.sha256(f"3\0{image_size}\0{rgb}".encode())  # 3: the version of the reader and the cached form
    for name, listing in listings.items():
        digest.update(f"\0{name}\0".encode() + listing.labels.tobytes())
        for path in listing.files:
            try:
                stat = path.stat()
                what = f"{stat.st_size}\0{stat.st_mtime_ns}"
            except OSError:  # found when it is decoded
                what = ""
            digest.update(os.fsencode(path.absolute()) + f"\0{what}\0".encode())
    return digest.hexdigest()


def _classes(folder: Path) -> tuple[tuple[str, ...], list[PassedOver]]:
    entries = [(entry, _kind_of_class(entry)) for entry in _entries(folder)]
    names = tuple(entry.name for entry, kind in entries if kind is None)
    if not names:
        raise ValueError(f"no class folders in {folder}; expected one folder of images for each class")
    return names, _passed((folder / entry.name, kind) for entry, kind in entries)


def _listed(folder: Path, classes: Sequence[str], within: str = "") -> tuple[Listing, list[PassedOver]]:
    files: list[Path] = []
    counts, passed = [], []
    for name in classes:
        place = folder / name / within
        entries = [(place / entry.name, _kind_of_image(entry)) for entry in _entries(place)]
        others = _passed(entries)
        found = [path for path, kind in entries if kind is None]
        if not found:
            instead = f"; passed over {_shown(place, others)}" if others else ""
            raise ValueError(f"no images in {place}; {_CLASS_EXPECTED}{instead}")
        files += found
        counts.append(len(found))
        passed += others
    return Listing(tuple(files), np.repeat(np.arange(len(counts), dtype=np.int32), counts)), passed


def _kind_beside(entry: os.DirEntry[str]) -> str | None:
    """Why an entry beside train is passed over; None for a split."""
    if entry.name.startswith("."):
        return "hidden"
    if not _holds(entry.is_dir):
        return "outside class folders"
    return None if entry.name in _SPLITS else "folders beside train"


def _kind_of_class(entry: os.DirEntry[str]) -> str | None:
    if entry.name.startswith("."):
        return "hidden"
    if not _holds(entry.is_dir):
        return "outside class folders"
    return "folders of a system" if entry.name in _NO_CLASSES else None


def _kind_of_image(entry: os.DirEntry[str]) -> str | None:
    if entry.name.startswith("."):
        return "hidden"
    if _holds(entry.is_dir):
        return "folders within class folders"
    suffix = PurePath(entry.name).suffix.lower()
    if suffix not in SUFFIXES:
        return suffix or "without suffix"
    # A link that leads nowhere is to be found broken, not passed over.
    return None if entry.is_symlink() or _holds(entry.is_file) else "neither file nor folder"


def _holds(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a link in a circle, say
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{folder} cannot be listed ({error.strerror}); expected a readable folder") from error


def _passed(entries: Iterable[tuple[Path, str | None]]) -> list[PassedOver]:
    return list(_merged(PassedOver(kind, 1, (path,)) for path, kind in entries if kind is not None))


def _merged(passed: Iterable[PassedOver]) -> tuple[PassedOver, ...]:
    by_kind: dict[str, PassedOver] = {}
    for kind, count, examples in passed:
        before = by_kind.get(kind, PassedOver(kind, 0, ()))
        by_kind[kind] = PassedOver(kind, before.count + count, (before.examples + examples)[:_EXAMPLES])
    return tuple(sorted(by_kind.values(), key=lambda passed: (-passed.count, passed.kind)))


def _shown(folder: Path, passed: Sequence[PassedOver]) -> str:
    shown, others = passed[:_KINDS], sum(each.count for each in passed[_KINDS:])
    parts = [f"{p.kind}: {p.count} ({', '.join(str(e.relative_to(folder)) for e in p.examples)})" for p in shown]
    return ", ".join([*parts, f"others: {others}"] if others else parts)


def _in_order(folder: Path, split: str, got: Sequence[str], expected: Sequence[str]) -> tuple[str, ...]:
    """The classes of a split, as they are called there, in the order of those of train."""
    if set(got) == set(expected):
        return tuple(expected)
    names = {unicodedata.normalize("NFC", name): name for name in got}
    wanted = [unicodedata.normalize("NFC", name) for name in expected]
    if set(wanted) == set(names) and len(wanted) == len(names) == len(got):  # a copy by another system
        return tuple(names[name] for name in wanted)
    missing, unexpected = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    found = [f"{what} {_some(names)}" for what, names in (("missing", missing), ("unexpected", unexpected)) if names]
    raise ValueError(f"expected the class folders of {folder / 'train'} in {folder / split}; {', '.join(found)}")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
