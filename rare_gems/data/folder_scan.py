"""What is in an image folder: its classes and files, and each file as pixels."""

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rare_gems.data.decode import one_line

__all__ = [
    "BrokenImage", "Form", "ImageFolder", "Listing", "class_names", "find_form", "identity", "list_images",
    "read_image", "scan",
]  # fmt: skip

_ENDINGS = (".png", ".jpg", ".jpeg")
_SKIP = "or skip such files (--skip-broken-images)"


class Listing(NamedTuple):
    """The image files of a split, by class, then by name, and their labels, int32 [N]."""

    files: tuple[Path, ...]
    labels: np.ndarray


class ImageFolder(NamedTuple):
    """classes: sorted names; a label is a position in it. validation: None, or a split besides train and test."""

    classes: tuple[str, ...]
    train: Listing
    test: Listing
    validation: Listing | None


class Form(NamedTuple):
    """What all images are made to be. like: the image it comes from. convert: grey ones become colour."""

    shape: tuple[int, int, int]
    like: Path
    image_size: int | None
    convert: bool


class BrokenImage(Exception):  # noqa: N818
    """args: what is wrong with an image, and what would work."""


def scan(folder: str | Path) -> ImageFolder:
    """Lists the images of train/CLASS/*.png (.jpg, .jpeg, in any case) and of test/ and val/ beside train/.

    Where there is only val/, it is the test split; where there are both, val/ is the validation split. Classes
    and files are sorted by name, so that labels and order are the same on every machine. Hidden files, files
    with other endings and folders within class folders are passed over.

    Args:
      folder: the folder that holds train/.
    Raises:
      ValueError: a folder is missing or cannot be listed; there are fewer than two classes; a class has no
        images; the splits have different classes.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder} is {'a file' if folder.exists() else 'missing'}; expected a folder with train/")
    if not (folder / "train").is_dir():
        raise ValueError(f"no folder train in {folder}; expected {folder}/train/CLASS/*.png (or .jpg, .jpeg)")
    held_out = [name for name in ("test", "val") if (folder / name).is_dir()]
    if not held_out:
        raise ValueError(f"neither test nor val in {folder}; expected one of the two folders beside train")
    classes = class_names(folder / "train")
    if len(classes) == 1:
        raise ValueError(f"only one class folder in {folder / 'train'} ({classes[0]}); expected two or more")
    for name in held_out:
        _check_same(folder, name, class_names(folder / name), classes)
    train, *others = (list_images(folder / name, classes) for name in ("train", *held_out))
    return ImageFolder(classes, train, others[0], others[1] if len(others) == 2 else None)


def class_names(folder: Path) -> tuple[str, ...]:
    """The sorted names of the folders in a folder, hidden ones passed over.

    Raises:
      ValueError: there are none, or the folder cannot be listed.
    """
    names = tuple(entry.name for entry in _entries(folder) if entry.is_dir())
    if not names:
        raise ValueError(f"no class folders in {folder}; expected one folder of images for each class")
    return names


def list_images(folder: Path, classes: Sequence[str], within: str = "") -> Listing:
    """The images of folder/CLASS/within for each of the classes, labelled 0, 1, ... in the order given.

    Raises:
      ValueError: a class has no images, or a folder is missing or cannot be listed.
    """
    files: list[Path] = []
    counts = []
    for name in classes:
        place = folder / name / within
        entries = [entry for entry in _entries(place) if entry.name.lower().endswith(_ENDINGS)]
        # A link that leads nowhere is to be found broken, not passed over.
        found = [place / entry.name for entry in entries if entry.is_file() or entry.is_symlink()]
        if not found:
            raise ValueError(f"no images in {place}; expected *.png, *.jpg or *.jpeg files, or no such folder")
        files += found
        counts.append(len(found))
    return Listing(tuple(files), np.repeat(np.arange(len(counts), dtype=np.int32), counts))


def identity(listings: Mapping[str, Listing], image_size: int | None, rgb: bool) -> str:
    """A digest of the paths, sizes and times of all files, their labels, and how they are decoded."""
    digest = hashlib.sha256(f"1\0{image_size}\0{rgb}".encode())  # 1: the version of the cached form
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


def find_form(files: Sequence[Path], image_size: int | None, rgb: bool, skip_broken: bool) -> Form:
    """The form of the first training image that can be used; see `folder.decode` for the arguments.

    Raises:
      ValueError: image_size is below 1, or the first image (with skip_broken: every image) cannot be used.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"expected an image_size of 1 pixel or more, got {image_size}")
    first: str | None = None
    for path in files:
        try:
            height, width, channels = _pixels(path, image_size).shape
        except BrokenImage as error:
            if not skip_broken:
                raise ValueError(f"{path}: {'; '.join(error.args)}") from error
            first = first or f"{path}: {error.args[0]}"
            continue
        if rgb or (image_size and channels == 1 and not all(map(_is_grey, files))):
            channels = 3
        return Form((height, width, channels), path, image_size, convert=rgb or image_size is not None)
    raise ValueError(f"none of the {len(files)} training images can be used; expected PNG or JPEG. The first: {first}")


def read_image(path: Path, form: Form) -> np.ndarray:
    """An image in the given form, but for a grey one among colour images, which keeps its one channel.

    Returns:
      uint8 [H, W, C].
    Raises:
      BrokenImage: the file cannot be read, or holds no image of this form.
    """
    pixels = _pixels(path, form.image_size)
    height, width, channels = pixels.shape
    expected_height, expected_width, expected_channels = form.shape
    hint = "" if form.convert else ", give --image-size N to convert all"
    if channels != expected_channels and not (form.convert and channels == 1):
        names = {1: 'grey ("L")', 3: 'colour ("RGB")'}
        wrong = f"{names[channels]}, but {form.like} is {names[expected_channels]}"
        raise BrokenImage(wrong, f"expected one mode: convert it{hint}, {_SKIP}")
    if (height, width) != (expected_height, expected_width):
        wrong = f"{width}x{height} pixels, but {form.like} has {expected_width}x{expected_height}"
        raise BrokenImage(wrong, f"expected one size: resize it{hint}, {_SKIP}")
    return pixels


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{folder} cannot be listed ({error.strerror}); expected a readable folder") from error


def _check_same(folder: Path, name: str, got: Sequence[str], expected: Sequence[str]) -> None:
    missing, unexpected = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    found = [f"{what} {_some(names)}" for what, names in (("missing", missing), ("unexpected", unexpected)) if names]
    if found:
        raise ValueError(f"expected the class folders of {folder / 'train'} in {folder / name}; {', '.join(found)}")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _pixels(path: Path, image_size: int | None) -> np.ndarray:
    """uint8 [H, W, 1 or 3]."""
    from PIL import Image, UnidentifiedImageError

    try:
        content = path.read_bytes()
    except OSError as error:
        raise BrokenImage(f"cannot be read ({error.strerror})", f"make it readable, {_SKIP}") from error
    if not content:
        raise BrokenImage("empty file", f"expected a PNG or JPEG image: replace it, {_SKIP}")
    try:
        with Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]) as image:
            if image.mode in ("1", "L", "RGB"):
                pixels = np.asarray(_resized(image.convert("L") if image.mode == "1" else image, image_size))
                return pixels if pixels.ndim == 3 else pixels[..., None]
            mode = image.mode
    except UnidentifiedImageError as error:
        raise BrokenImage("neither PNG nor JPEG", f"convert it, {_SKIP}") from error
    except MemoryError:
        raise
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, zlib.error ...
        raise BrokenImage(f"cut short or damaged ({one_line(error)})", f"replace it, {_SKIP}") from error
    raise BrokenImage(f'mode "{mode}"', f'expected "L" or "RGB": convert it, {_SKIP}')


def _resized(image: Any, size: int | None) -> Any:
    """The central square of an image whose shorter side was resized to size; one step does both."""
    from PIL import Image

    width, height = image.size
    if size is None or (width == height == size):
        return image
    # Each side: length after resizing, then the part of the original that is kept.
    shorter, box = min(width, height), []
    for length in (width, height):
        resized = max(size, round(length * size / shorter))
        begin = (resized - size) // 2
        box.append((begin / resized, (begin + size) / resized))
    drafted = image.draft(None, (size, size))  # JPEG: decodes at 1/2, 1/4 or 1/8 where that is still large enough
    if drafted is not None:
        width, height = drafted[1][2:]  # before rounding up to whole pixels
    (left, right), (top, bottom) = box
    part = (left * width, top * height, right * width, bottom * height)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=part)


def _is_grey(path: Path) -> bool:
    """Whether an image is grey; False where the header says colour."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG", "JPEG"]) as image:
            return image.mode != "RGB"
    except Exception:  # found when it is decoded
        return True
