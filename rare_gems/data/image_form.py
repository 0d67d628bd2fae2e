"""The form that all images of a folder are made to be: the size and the channels of the first that can be used."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rare_gems.data.image_file import content_of, is_grey, opened, picture, upright_size
from rare_gems.data.image_modes import UnusableImage

__all__ = ["Form", "check_classes", "find_form", "read_image", "refusal"]


class Form(NamedTuple):
    """What all images are made to be; grey ones become colour. like: the image it comes from. fixed: there is no other
    size to ask for."""

    shape: tuple[int, int, int]
    like: Path
    image_size: int | None
    fixed: bool


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
        except UnusableImage as error:
            if not skip_broken:
                raise ValueError(refusal(path, error)) from error
            first = first or f"{path}: {error.args[0]}"
            continue
        if rgb or (channels == 1 and any(_is_colour(path, image_size, skip_broken) for path in files)):
            channels = 3
        return Form((height, width, channels), path, image_size, fixed=rgb)
    raise ValueError(f"none of the {len(files)} training images can be used. The first: {first}")


def _is_colour(path: Path, image_size: int | None, skip_broken: bool) -> bool:
    """Whether a file is one of colour; with skip_broken, one that is not left out."""
    if is_grey(path):
        return False
    if not skip_broken:
        return True
    try:
        return _pixels(path, image_size).shape[2] == 3
    except UnusableImage:
        return False


def read_image(path: Path, form: Form) -> np.ndarray:
    """An image in the given form, but for a grey one among colour images, which keeps its one channel.

    Returns:
      uint8 [H, W, C].
    Raises:
      UnusableImage: the file cannot be read, or holds no image of this form.
    """
    pixels = _pixels(path, form.image_size, form)
    channels, expected = pixels.shape[2], form.shape[2]
    if channels > expected:
        wrong = f'colour ("RGB"), but {form.like} is grey ("L")'
        raise UnusableImage(wrong, "expected one mode: convert it")
    return pixels


def refusal(path: Path, error: UnusableImage) -> str:
    """The line that refuses a file: what is wrong with it, and what would work."""
    return f"{path}: {error}, or skip such files (--skip-broken-images)"


def check_classes(split: str, classes: Sequence[str], labels: np.ndarray, broken: Sequence[tuple[int, str]]) -> None:
    """Checks that images of each class are left where broken ones are left out.

    Args:
      split: its name. labels: int [N], of all its images. broken: (position, "path: why") of those left out.
    Raises:
      ValueError: all images of a class are broken.
    """
    kept = np.delete(labels, [i for i, _ in broken])
    for label in np.setdiff1d(labels, kept).tolist():
        message = f"no image of class {classes[label]} of the {split} split can be used; expected one or more"
        raise ValueError(f"{message}. The first: {next(text for i, text in broken if labels[i] == label)}")


def _pixels(path: Path, image_size: int | None, form: Form | None = None) -> np.ndarray:
    """uint8 [H, W, 1 or 3]."""
    with opened(content_of(path)) as image:
        like = form.shape[1::-1] if form is not None and image_size is None else None
        # As stored first, before the pixels of a large image take memory.
        size = image.size if like and like not in (image.size, image.size[::-1]) else upright_size(image)
        if form is not None and like is not None and size != like:
            wrong = f"{size[0]}x{size[1]} pixels, but {form.like} has {like[0]}x{like[1]}"
            ways = "resize it" if form.fixed else "resize it, give --image-size N to convert all"
            raise UnusableImage(wrong, f"expected one size: {ways}")
        pixels = np.asarray(_resized(image, size, image_size))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _resized(image: Any, whole: tuple[int, int], size: int | None) -> Any:
    """The central square of an image of `whole` pixels, its shorter side resized to size; one step does both."""
    from PIL import Image

    if size is None or whole == (size, size):
        return picture(image)[0]
    # Each side: length after resizing, then the part of the original that is kept.
    box = []
    for length in whole:
        resized = max(size, round(length * size / min(whole)))
        begin = (resized - size) // 2
        box.append((begin / resized, (begin + size) / resized))
    made, lies = picture(image, at_least=(size, size))
    (left, right), (top, bottom) = box
    shares = enumerate((left, top, right, bottom))
    part = tuple(lies[i % 2] + share * (lies[i % 2 + 2] - lies[i % 2]) for i, share in shares)
    return made.resize((size, size), Image.Resampling.BILINEAR, box=part)
