"""Pillow's modes as grey or colour of 8 bits: what is converted, and what is refused since its meaning would be lost.

| mode | what is made of it |
|---|---|
| 1, L | grey |
| RGB, P, YCbCr, CMYK | colour; CMYK by Pillow's formula, without a profile; the upper bytes of 16-bit colours |
| LA, La, PA, RGBA, RGBa, or with a transparent colour | grey or colour if every pixel is opaque, else refused |
| I;16, also I of PNG and PGM files | grey, upper bytes; refused if no value reaches 4096: its scale is not known |
| I, F, LAB, HSV and all others | refused |
"""

from typing import Any

import numpy as np

__all__ = ["UnusableImage", "eight_bits", "is_grey_mode", "is_plain", "spread_transparency"]

_GREY, _COLOUR, _GREY_ALPHA = ("1", "L"), ("RGB", "P", "YCbCr", "CMYK"), ("LA", "La")
_ALPHA = (*_GREY_ALPHA, "PA", "RGBA", "RGBa")
_PHOTOMETRIC = 262  # the tag of a TIFF file that says whether 0 is black
_SPREAD = {"L;2": 85, "L;4": 17}
_MIN_BRIGHTEST = 4096  # numbers of 12 bits, which many devices store in 16, would be nearly black


class UnusableImage(ValueError):  # noqa: N818
    """args: what is wrong with an image, and what would work."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


def is_plain(image: Any) -> bool:
    """Whether an image is converted whatever its pixels are, by its mode alone."""
    return image.mode in _GREY + _COLOUR and "transparency" not in image.info


def is_grey_mode(image: Any) -> bool:
    """Whether `eight_bits` makes an image grey, by its mode alone."""
    return image.mode in _GREY + _GREY_ALPHA or _is_16_bit(image)


def spread_transparency(image: Any) -> None:
    """Has the transparent colour of a PNG of 2 or 4 bits that is not yet decoded at 8 bits, as its pixels will be."""
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and image.tile:
        image.info["transparency"] = transparent * _SPREAD.get(str(image.tile[0][3]), 1)


def eight_bits(image: Any) -> Any:
    """An image of Pillow in mode "L" or "RGB"; see the table of this module.

    Raises:
      UnusableImage: of a mode that is refused.
    Example:
      >>> from PIL import Image
      >>> eight_bits(Image.new("LA", (2, 2), (7, 255))).getpixel((0, 0))
      7
      >>> eight_bits(Image.new("F", (2, 2)))
      Traceback (most recent call last):
        ...
      rare_gems.data.image_modes.UnusableImage: mode "F"; expected grey or colour of 8 bits: convert it
    """
    mode = image.mode
    if mode in _ALPHA or (mode in _GREY + _COLOUR and "transparency" in image.info):
        return _opaque(image)
    if mode in _GREY + _COLOUR:
        made = "L" if mode in _GREY else "RGB"
        return image if mode == made else image.convert(made)
    if _is_16_bit(image):
        return _upper_bytes(image)
    raise UnusableImage(f'mode "{mode}"', "expected grey or colour of 8 bits: convert it")


def _is_16_bit(image: Any) -> bool:
    # Pillow gives "I" for what has 16 bits in these files, 65535 being white.
    return image.mode in ("I;16", "I;16L", "I;16B", "I;16N") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _opaque(image: Any) -> Any:
    mode = image.mode
    layered = (image.convert("LA") if mode == "La" else image).convert("RGBA")  # from La, Pillow knows no direct way
    if layered.getchannel("A").getextrema()[0] < 255:
        raise UnusableImage(f'mode "{mode}" with transparent pixels', "expected opaque ones: lay it on a background")
    return layered.getchannel("R") if mode in _GREY + _GREY_ALPHA else layered.convert("RGB")


def _upper_bytes(image: Any) -> Any:
    from PIL import Image

    values = np.asarray(image).astype(np.uint16)  # NumPy 2.0 crashes where big-endian ones are compared with -1
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:  # a TIFF file where 0 is white; Pillow turns 8 bits alone
        values = 65535 - values
    brightest, wrong = int(values.max()), None
    if 0 < brightest < _MIN_BRIGHTEST:
        wrong = f"16 bits and no value above {brightest}"
    elif image.info.get("transparency", -1) in values:
        wrong = "transparent pixels"
    if wrong:
        way = "expected 0 for black to 65535 for white: convert it to 8 bits"
        raise UnusableImage(f'mode "{image.mode}" with {wrong}', way)
    return Image.fromarray((values >> 8).astype(np.uint8))
