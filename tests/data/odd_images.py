"""Files of images as people have them, each with the colour that it shows or the reason why it is refused."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 24, 16
COLOUR = (200, 100, 50)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def flat(mode, colour, kind="PNG", **options):
    return saved(Image.new(mode, (WIDTH, HEIGHT), colour), kind, **options)


def palette(kind="PNG", used=0, **options):
    """Palette images with two colours, the second used where asked for."""
    image = Image.new("P", (WIDTH, HEIGHT), 0)
    image.putpalette([*COLOUR, 1, 2, 3])
    image.putpixel((3, 3), used)
    return saved(image, kind, **options)


def sixteen(value, kind="PNG", order="<"):
    return saved(Image.fromarray(np.full((HEIGHT, WIDTH), value, f"{order}u2")), kind)


def frames(kind, **options):
    images = [Image.new("RGB", (WIDTH, HEIGHT), (50 * i, 0, 0)) for i in range(3)]
    return saved(images[0], kind, save_all=True, append_images=images[1:], **options)


def with_thumbnail():
    """A TIFF whose second page is marked as a smaller copy of the first."""
    file = io.BytesIO()
    from PIL import TiffImagePlugin

    smaller = Image.new("RGB", (3, 2))
    with TiffImagePlugin.AppendingTiffWriter(file, True) as writer:
        Image.new("RGB", (WIDTH, HEIGHT), COLOUR).save(writer, "TIFF")
        writer.newFrame()
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[254] = 1
        smaller.save(writer, "TIFF", tiffinfo=tags)
    return file.getvalue()


def png_of_size(width, height):
    """A PNG whose header claims a size, without the pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data


def cut(content, part=0.6):
    return content[: int(len(content) * part)]


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
GOOD = {  # name: (content, the colour that it shows)
    "rgb.png": (flat("RGB", COLOUR), COLOUR),
    "bit.png": (flat("1", 1), (255,) * 3),
    "grey.png": (flat("L", 77), (77,) * 3),
    "grey_alpha.png": (flat("LA", (77, 255)), (77,) * 3),
    "grey_key.png": (flat("L", 77, transparency=78), (77,) * 3),
    "palette.png": (palette(), COLOUR),
    "palette_key.png": (palette(transparency=1), COLOUR),
    "palette_alpha.png": (palette(transparency=b"\xff\x10"), COLOUR),
    "palette.gif": (palette("GIF"), COLOUR),
    "rgb_key.png": (flat("RGB", COLOUR, transparency=(1, 2, 3)), COLOUR),
    "rgba.png": (flat("RGBA", (*COLOUR, 255)), COLOUR),
    "cmyk.tif": (flat("CMYK", (55, 155, 205, 0), "TIFF"), COLOUR),
    "cmyk.jpg": (flat("CMYK", (55, 155, 205, 0), "JPEG", quality=100), COLOUR),
    "sixteen.png": (sixteen(77 * 257), (77,) * 3),
    "sixteen.tif": (sixteen(77 * 257, "TIFF", ">"), (77,) * 3),
    "sixteen.pgm": (b"P5 24 16 65535\n" + struct.pack(">H", 77 * 257) * WIDTH * HEIGHT, (77,) * 3),
    "twelve.pgm": (b"P5 24 16 4095\n" + struct.pack(">H", 4095) * WIDTH * HEIGHT, (255,) * 3),
    "black_of_sixteen.png": (sixteen(0), (0,) * 3),
    "photo.jpg": (flat("RGB", COLOUR, "JPEG", quality=100), COLOUR),
    "photo.jfif": (flat("RGB", COLOUR, "JPEG", quality=100), COLOUR),
    "photo.webp": (flat("RGB", COLOUR, "WEBP", lossless=True), COLOUR),
    "webp_bytes.png": (flat("RGB", COLOUR, "WEBP", lossless=True), COLOUR),
    "jpeg_bytes.bmp": (flat("RGB", COLOUR, "JPEG", quality=100), COLOUR),
    "paint.bmp": (flat("RGB", COLOUR, "BMP"), COLOUR),
    "scan.tif": (flat("RGB", COLOUR, "TIFF"), COLOUR),
    "scan.TIFF": (flat("RGB", COLOUR, "TIFF", compression="tiff_lzw"), COLOUR),
    "plain.ppm": (flat("RGB", COLOUR, "PPM"), COLOUR),
    "plain.pbm": (flat("1", 1, "PPM"), (255,) * 3),
    "thumbnail.tif": (with_thumbnail(), COLOUR),
    "two.jpg": (
        saved(
            Image.new("RGB", (WIDTH, HEIGHT), COLOUR), "MPO", quality=100, save_all=True,
            append_images=[Image.new("RGB", (8, 8))],
        ),
        COLOUR,
    ),
}  # fmt: skip
BAD = {  # name: (content, what is said of it)
    "grey_clear.png": (flat("LA", (77, 0)), 'mode "LA" with transparent pixels'),
    "grey_key_used.png": (flat("L", 77, transparency=77), 'mode "L" with transparent pixels'),
    "palette_clear.png": (palette(used=1, transparency=1), 'mode "P" with transparent pixels'),
    "palette_clear.gif": (palette("GIF", used=1, transparency=1), 'mode "P" with transparent pixels'),
    "rgb_key_used.png": (flat("RGB", COLOUR, transparency=COLOUR), 'mode "RGB" with transparent pixels'),
    "rgba_clear.png": (flat("RGBA", (*COLOUR, 254)), 'mode "RGBA" with transparent pixels'),
    "rgba_clear.webp": (flat("RGBA", (*COLOUR, 9), "WEBP", lossless=True), 'mode "RGBA" with transparent pixels'),
    "twelve_of_sixteen.png": (sixteen(4000), 'mode "I(;16)?" with 16 bits and no value above 4000'),
    "lab.tif": (flat("LAB", (1, 2, 3), "TIFF"), 'mode "LAB"'),
    "integers.tif": (flat("I", 7, "TIFF"), 'mode "I"'),
    "floats.tif": (flat("F", 0.5, "TIFF"), 'mode "F"'),
    "moving.gif": (frames("GIF"), "GIF of several pictures"),
    "moving.webp": (frames("WEBP"), "WEBP of several pictures"),
    "moving.png": (frames("PNG"), "PNG of several pictures"),
    "pages.tif": (frames("TIFF"), "TIFF of several pictures"),
    "empty.jpg": (b"", "empty file"),
    "text.png": (b"not an image", "expected one of JPEG.* got 12 bytes of something else, .*"),
    "vector.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "expected one of .*something else.*"),
    "cut.png": (cut(saved(NOISE, "PNG")), r"cut short or damaged \(.+\)"),
    "cut.jpg": (cut(saved(NOISE, "JPEG", quality=100)), r"cut short or damaged \(.+\)"),
    "cut.webp": (cut(saved(NOISE, "WEBP", lossless=True)), r"cut short or damaged \(.+\)|.*something else.*"),
    "cut.gif": (cut(saved(NOISE, "GIF"), 0.9), r"cut short or damaged \(.+\)"),
    "cut.bmp": (cut(saved(NOISE, "BMP")), r"cut short or damaged \(.+\)"),
    "cut.tif": (cut(saved(NOISE, "TIFF")), r"cut short or damaged \(.+\)|.*something else.*"),
    "cut.ppm": (cut(saved(NOISE, "PPM")), r"cut short or damaged \(.+\)"),
    "head.png": (saved(NOISE, "PNG")[:20], r"cut short or damaged \(.+\)|.*something else.*"),
    "large.png": (png_of_size(10_000, 10_000), "more than 89478485 pixels"),
    "vast.png": (png_of_size(100_000, 100_000), "more than 89478485 pixels"),
    "nothing.png": (png_of_size(0, 5), "expected one of .*something else, or damaged from the start"),
}
