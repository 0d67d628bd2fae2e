"""Crops of encoded images, as networks for ImageNet train on them and are evaluated: pure functions of bytes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rare_gems.data.image_file import opened, picture, upright_size

__all__ = ["draw_crop", "eval_image", "train_image"]

_TRIES = 10  # of a random crop, before the whole image is taken
_MIN_AREA, _MAX_ASPECT = 0.08, 4 / 3


def train_image(content: bytes, index: int, image_size: int, seed: int, upright: bool = True) -> np.ndarray:
    """A random crop of an image, resized and perhaps mirrored; a JPEG is decoded no larger than the crop needs.

    Args:
      content: of an image file. index, seed: see `draw_crop`. image_size: S, pixels.
      upright: whether it is turned as its EXIF data say.
    Returns:
      uint8 [S, S, 3], bilinear; grey and others as RGB (see `image_modes`).
    Raises:
      UnusableImage: (a ValueError) it cannot be read, or is refused (see `image_file`).
    """
    with opened(content) as image:
        size = upright_size(image, upright)
        box, flip = draw_crop(seed, index, *size)
        enough = [math.ceil(n * image_size / (b - a)) for n, a, b in zip(size, box[:2], box[2:], strict=True)]
        made, lies = picture(image, (enough[0], enough[1]), upright)
        scale = size[0] / (lies[2] - lies[0])  # 1, 2, 4 or 8
        pixels = _resize(made, image_size, [side / scale + at for side, at in zip(box, 2 * lies[:2], strict=True)])
    return pixels[:, ::-1] if flip else pixels


def eval_image(content: bytes, image_size: int, upright: bool = True) -> np.ndarray:
    """The middle of an image: its shorter side resized to round(256/224 image_size), then a crop in the centre.

    One resize of the part that is kept, within one grey level of resizing the whole.

    Args:
      content: of an image file. image_size: S, pixels. upright: whether it is turned as its EXIF data say.
    Returns:
      uint8 [S, S, 3], bilinear; grey and others as RGB (see `image_modes`).
    Raises:
      UnusableImage: (a ValueError) it cannot be read, or is refused (see `image_file`).
    """
    with opened(content) as image:
        size = upright_size(image, upright)
        resized = [int(round(image_size * 256 / 224) * n / min(size)) for n in size]
        corner = [round((n - image_size) / 2) for n in resized]
        ends = [c + image_size for c in corner]
        box = [c * n / r for c, n, r in zip(corner + ends, size + size, resized + resized, strict=True)]
        return _resize(picture(image, upright=upright)[0], image_size, box)


def draw_crop(seed: int, index: int, width: int, height: int) -> tuple[tuple[int, int, int, int], bool]:
    """The training crop of an image: 8 to 100 % of its area, aspect ratio 3/4 to 4/3, mirrored half of the time.

    Area uniform, aspect log-uniform; where ten draws do not fit into the image, as much of its middle as the bounds of
    the aspect allow.

    Args:
      seed: of the epoch. index: of the example. width, height: pixels.
    Returns:
      ((left, top, right, bottom), whether it is mirrored).
    Example:
      >>> draw_crop(0, 0, 500, 375)
      ((34, 18, 478, 368), False)
    """
    # Raw bits: the distributions of numpy.random may change between versions.
    raw = np.random.PCG64(np.random.SeedSequence([seed, index])).random_raw(4 * _TRIES + 1)
    drawn = ((raw >> np.uint64(11)).astype(np.float64) / 2**53).tolist()
    flip = drawn.pop() < 0.5
    for area, aspect, x, y in zip(*[iter(drawn)] * 4, strict=True):
        pixels = width * height * (_MIN_AREA + (1 - _MIN_AREA) * area)
        ratio = _MAX_ASPECT ** (2 * aspect - 1)
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return (left, top, left + w, top + h), flip
    w, h = min(width, round(height * _MAX_ASPECT)), min(height, round(width * _MAX_ASPECT))
    left, top = (width - w) // 2, (height - h) // 2
    return (left, top, left + w, top + h), flip


def _resize(image: Any, image_size: int, box: Sequence[float]) -> np.ndarray:
    from PIL import Image

    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return np.asarray(rgb.resize((image_size, image_size), Image.Resampling.BILINEAR, box=tuple(box)))
