"""One image file as a picture: the one reader of image folders, whether they lie in memory or are streamed.

What a file is, its content decides, not its name: JPEG, PNG, WebP, BMP, PPM (with PGM and PBM), TIFF or GIF, as Pillow
reads them. `image_modes` has what is made of grey, colour, palettes, transparency and 16 bits. Pictures are turned
upright as their EXIF data say. Colour profiles are ignored. Refused are:
- a file of several pictures (an animation, pages), since nothing says which is meant; but of a JPEG with further ones
  (MPO) the first is taken, and copies in a TIFF that are marked as smaller ones do not count;
- more pixels than Pillow thinks safe (89 million), and none.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rare_gems.data.decode import one_line
from rare_gems.data.image_modes import UnusableImage, eight_bits, is_grey_mode, is_plain, spread_transparency

__all__ = [
    "FORMATS", "SUFFIXES", "check", "content_of", "is_grey", "opened", "picture", "upright_size", "without_warnings",
]  # fmt: skip

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff",
    ".gif",
)  # fmt: skip

_ORIENTATION, _SUBFILE = 0x0112, 0x00FE  # tags of EXIF and TIFF
_REDUCED = 1  # the bit of _SUBFILE that marks a smaller copy
_END = 4096  # bytes in which the end of a whole file is looked for; some cameras write on after it


def content_of(path: Path) -> bytes:
    """The content of an image file.

    Raises:
      UnusableImage: it cannot be read, or is empty.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnusableImage(f"cannot be read ({error.strerror})", "make it readable") from error
    if not content:
        raise UnusableImage("empty file", "expected an image: replace it")
    return content


@contextlib.contextmanager
def opened(source: bytes | io.BufferedIOBase) -> Iterator[Any]:
    """Pillow's image of a file, its pixels not yet decoded; whatever goes wrong within becomes an `UnusableImage`.

    Args:
      source: the content of a file, or a file open for reading.
    Raises:
      UnusableImage: no image, none of one picture, of too many pixels; or what was done with it failed.
    Example:
      >>> from PIL import Image
      >>> file = io.BytesIO(); Image.new("P", (40, 30)).save(file, "GIF")
      >>> with opened(file.getvalue()) as image:
      ...     upright_size(image), picture(image)[0].mode
      ((40, 30), 'RGB')
    """
    from PIL import Image, UnidentifiedImageError

    most = Image.MAX_IMAGE_PIXELS or 1 << 62
    too_many = UnusableImage(f"more than {most} pixels", "make it smaller")
    try:
        file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > most:
                raise too_many
            if _holds_several(image):
                raise UnusableImage(f"{image.format} of several pictures", "expected one: save the one that is meant")
            spread_transparency(image)
            yield image
    except (UnusableImage, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_many from error
    except UnidentifiedImageError as error:  # its message shows an address in memory
        size = len(source) if isinstance(source, bytes) else source.seek(0, io.SEEK_END)
        wrong = f"expected one of {', '.join(FORMATS)}, got {size} bytes of something else, or damaged from the start"
        raise UnusableImage(wrong, "convert or replace it") from error
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, zlib.error ...
        raise UnusableImage(f"cut short or damaged ({one_line(error)})", "replace it") from error


def upright_size(image: Any, upright: bool = True) -> tuple[int, int]:
    """(width, height) of an opened image, turned as its EXIF data say, or (not `upright`) as stored."""
    turned = _orientation(image) >= 5 and upright
    return image.size[::-1] if turned else image.size


def picture(
    image: Any, at_least: tuple[int, int] | None = None, upright: bool = True
) -> tuple[Any, tuple[float, float, float, float]]:
    """An opened image in Pillow's mode "L" or "RGB".

    Args:
      image: of `opened`. at_least: (width, height) that suffice: a JPEG is decoded at a half, a quarter or an eighth
        where that is as large. upright: whether it is turned as its EXIF data say.
    Returns:
      (the image, where the picture lies in it: left, top, right, bottom). A JPEG that is decoded smaller is rounded up
      to whole pixels, at the end of the rows and columns that are stored: what is turned has that at its beginning.
    Raises:
      UnusableImage: it is of a mode that is refused.
    """
    from PIL.Image import Transpose

    orientation, size = _orientation(image) if upright else 1, None
    swapped = orientation >= 5
    if at_least is not None:
        drafted = image.draft(None, at_least[::-1] if swapped else at_least)  # None where it is no JPEG
        size = drafted and (drafted[1][:1:-1] if swapped else drafted[1][2:])
    made = eight_bits(image)
    # Where row 0 and column 0 of the stored pixels are in the picture: "top left", "top right", and so on.
    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    made = made if turn is None else made.transpose(turn)
    width, height = size or made.size
    left = made.width - width if orientation in (2, 3, 6, 7) else 0
    top = made.height - height if orientation in (3, 4, 7, 8) else 0
    return made, (left, top, left + width, top + height)


def check(path: Path) -> None:
    """Raises what reading a file would, mostly by its first and last bytes alone.

    The pixels are decoded only where the mode does not tell (transparency, 16 bits), or the end is not that of a whole
    file. Damage in the middle of a JPEG, PNG, WebP or GIF file is not seen.

    Raises:
      UnusableImage: the file cannot be read, or holds no picture that can be used.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UnusableImage(f"cannot be read ({error.strerror})", "make it readable") from error
    with file:
        head, size = file.read(12), file.seek(0, io.SEEK_END)
        if size == 0:
            raise UnusableImage("empty file", "expected an image: replace it")
        file.seek(max(0, size - _END))
        end = file.read()
        with opened(file) as image:
            if not (is_plain(image) and _is_whole(image.format, head, end, size)):
                eight_bits(image).load()


def is_grey(path: Path) -> bool:
    """Whether a file is a grey picture by its first bytes; True also where they tell nothing."""
    try:
        with path.open("rb") as file, opened(file) as image:
            return is_grey_mode(image)
    except (OSError, UnusableImage):  # found when it is decoded
        return True


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Silences Pillow in all threads, since what is wrong with an image is told in one line; for the main thread."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield


def _holds_several(image: Any) -> bool:
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return False
    if image.format != "TIFF":
        return True
    whole = 0
    for number in range(1, image.n_frames):
        image.seek(number)
        whole += not int(image.tag_v2.get(_SUBFILE, 0)) & _REDUCED
    image.seek(0)
    return whole > 0


def _orientation(image: Any) -> int:
    """1 to 8, as EXIF data say; 1 where they cannot be read. Decodes the pixels, but not those of a JPEG."""
    if image.format not in ("JPEG", "MPO"):
        image.load()  # in a PNG, EXIF data may follow the pixels
    if image.format == "TIFF":
        return 1  # Pillow has turned it
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # of many kinds
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _is_whole(kind: str, head: bytes, end: bytes, size: int) -> bool:
    """Whether a file of `size` bytes ends as one of its kind does; False where the kind does not tell."""
    if kind in ("JPEG", "MPO"):
        return b"\xff\xd9" in end
    if kind == "PNG":
        return b"IEND" in end
    if kind == "GIF":
        return end.rstrip(b"\0").endswith(b";")
    return kind == "WEBP" and int.from_bytes(head[4:8], "little") + 8 <= size
