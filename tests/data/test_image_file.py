"""Odd images: each becomes the picture that it shows, or is refused in one line, the same in memory and streamed."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rare_gems.data import crops, folder, folder_stream, image_file, image_form, image_modes, stream_batches
from rare_gems.data.image_modes import UnusableImage
from tests.data.odd_images import BAD, COLOUR, GOOD, HEIGHT, WIDTH, saved

SIZE = 8


def read(content, **options):
    with image_file.opened(content) as image:
        return np.asarray(image_file.picture(image, **options)[0].convert("RGB"))


@pytest.mark.parametrize("name", GOOD)
def test_what_a_file_shows_is_read(name):
    content, colour = GOOD[name]
    pixels = read(content)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    exact = b"JFIF" not in content and name != "cmyk.jpg"
    assert np.abs(pixels.astype(int) - colour).max() <= (0 if exact else 1)
    whole = crops.eval_image(content, SIZE)
    np.testing.assert_array_equal(whole, np.broadcast_to(pixels[0, 0], whole.shape))
    np.testing.assert_array_equal(crops.train_image(content, 3, SIZE, seed=0), whole)


@pytest.mark.parametrize("name", BAD)
def test_what_would_lose_its_meaning_is_refused(name):
    content, what = BAD[name]
    for reader in (read, lambda content: crops.eval_image(content, SIZE)):
        if not content:
            continue  # `content_of` refuses it
        with pytest.raises(UnusableImage) as caught:
            reader(content)
        wrong, way = caught.value.args
        assert re.fullmatch(what, wrong), wrong
        assert str(caught.value) == f"{wrong}; {way}"
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder with all odd images in one class, and plain ones in the other."""
    root = tmp_path_factory.mktemp("odd") / "images"
    for place in ("train/odd", "train/plain", "test/odd", "test/plain"):
        (root / place).mkdir(parents=True)
        (root / place / "rgb.png").write_bytes(GOOD["rgb.png"][0])
    for name, (content, _) in (GOOD | BAD).items():
        (root / "train/odd" / name).write_bytes(content)
    (root / "train/odd/link.png").symlink_to("nowhere.png")
    (root / "train/odd/circle.png").symlink_to("circle.png")
    return root


def test_in_memory_and_streamed_the_same_files_give_the_same(odd, tmp_path):
    memory, left_out = folder.load(odd, image_size=SIZE, skip_broken=True, cache_dir=tmp_path)
    found = folder.scan(odd)
    streamed, left_out_too = folder_stream.load_stream(found, image_size=SIZE, skip_broken=True)
    assert left_out == left_out_too
    refused = {line.split(": ")[0].rpartition("/")[2] for line in left_out}
    assert refused == {*BAD, "link.png", "circle.png"}
    assert all(line.startswith(f"{odd}/train/odd/") and "\n" not in line for line in left_out)
    assert sum("cannot be read (No such file" in line for line in left_out) == 1
    batches = list(stream_batches.eval_batches(streamed.train, batch_size=8, image_size=SIZE))
    images = [image for batch in batches for image in np.asarray(batch.images)[np.asarray(batch.weights) == 1]]
    np.testing.assert_array_equal(memory.train.images, images)
    assert len(memory.train.labels) == len(GOOD) + 1
    assert memory.train.labels.tolist() == streamed.train.labels.tolist()


@pytest.mark.parametrize("name", [*BAD, "link.png"])
def test_the_line_of_a_refusal_is_the_same(odd, tmp_path, name):
    found = folder.scan(odd)
    good, bad = odd / "train/odd/rgb.png", odd / "train/odd" / name
    files = found._replace(train=folder.Listing((good, bad, good), np.array([0, 0, 1], np.int32)))
    with pytest.raises(ValueError, match=re.escape(name)) as streamed:
        folder_stream.load_stream(files)
    with pytest.raises(ValueError, match=re.escape(name)) as memory:
        folder.decode(tmp_path, ("odd", "plain"), {"train": files.train}, image_size=SIZE, cache_dir=tmp_path)
    assert str(memory.value) == str(streamed.value)
    assert str(memory.value).endswith(", or skip such files (--skip-broken-images)")


def test_damage_that_only_decoding_finds_is_told_in_the_same_words(odd, tmp_path):
    content = bytearray(saved(Image.effect_noise((64, 64), 100).convert("RGB"), "PNG"))
    content[len(content) // 2] ^= 1
    (tmp_path / "bad.png").write_bytes(content)
    image_file.check(tmp_path / "bad.png")  # its ends are whole
    listing = folder.Listing((odd / "train/odd/rgb.png", tmp_path / "bad.png"), np.array([0, 1], np.int32))
    with pytest.raises(ValueError, match=r"bad\.png") as memory:
        folder.decode(tmp_path, ("a", "b"), {"train": listing}, image_size=SIZE, cache_dir=tmp_path)
    examples, _ = folder_stream.checked(listing, ("a", "b"))
    with pytest.raises(ValueError, match=r"bad\.png") as streamed:
        list(stream_batches.eval_batches(examples, batch_size=2, image_size=SIZE))
    assert str(streamed.value) == f"cannot read image {memory.value}"


def test_a_class_that_runs_out_is_told_the_same(odd, tmp_path):
    listing = folder.Listing((odd / "train/odd/rgb.png", odd / "train/odd/empty.jpg"), np.array([0, 1], np.int32))
    expected = "no image of class b of the train split can be used; expected one or more. The first: "
    for call in (
        lambda: folder_stream.checked(listing, ("a", "b"), skip_broken=True),
        lambda: folder.decode(tmp_path, ("a", "b"), {"train": listing}, skip_broken=True, cache_dir=tmp_path),
    ):
        with pytest.raises(ValueError, match=re.escape(f"{expected}{listing.files[1]}: empty file")):
            call()


def test_without_rights_a_file_is_named(odd, monkeypatch, tmp_path):
    def no(self, *args, **options):
        raise PermissionError(13, "Permission denied")

    file = odd / "train/odd/rgb.png"
    monkeypatch.setattr(type(file), "open", no)  # root may read anything
    for call in (image_file.check, image_file.content_of):
        with pytest.raises(UnusableImage, match=r"^cannot be read \(Permission denied\); make it readable$"):
            call(file)
    assert image_file.is_grey(file)  # not known


# Orientation. What EXIF says of row 0 and column 0 of the stored pixels.
SIDES = {1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
         5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom")}  # fmt: skip


def stored(upright, orientation):
    """The pixels that show `upright` when they are turned."""
    height, width = upright.shape[:2]
    place = {"top": range(height), "bottom": range(height)[::-1], "left": range(width), "right": range(width)[::-1]}
    row, column = (place[side] for side in SIDES[orientation])  # where each row and column is in the picture
    return upright[np.ix_(row, column)] if orientation < 5 else upright[np.ix_(column, row)].transpose(1, 0, 2)


def turned(upright, orientation, kind="PNG", **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(stored(upright, orientation)), kind, exif=exif, **options)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", SIDES)
def test_pictures_are_turned_upright(kind, orientation, tmp_path):
    upright = np.random.default_rng(orientation).integers(0, 256, (13, 21, 3), np.uint8)
    content = turned(upright, orientation, kind, **({"lossless": True} if kind == "WEBP" else {}))
    plain = saved(Image.fromarray(upright), "PNG")
    np.testing.assert_array_equal(read(content), upright)
    np.testing.assert_array_equal(crops.eval_image(content, 9), crops.eval_image(plain, 9))
    for index in range(4):
        one, other = (crops.train_image(each, index, 9, seed=0) for each in (content, plain))
        np.testing.assert_array_equal(one, other)


def test_a_jpeg_is_turned_where_it_is_decoded_small():
    y, x = np.mgrid[:240, :400]
    upright = np.stack([x * 255 // 399, y * 255 // 239, (x + y) // 3], -1).astype(np.uint8)
    plain = saved(Image.fromarray(upright), "JPEG", quality=95)
    for orientation in (3, 6, 7):
        content = turned(upright, orientation, "JPEG", quality=95)
        for make in (lambda c: crops.eval_image(c, 24), lambda c: crops.train_image(c, 1, 24, seed=0)):
            assert np.abs(make(content).astype(int) - make(plain)).max() <= 4
        with image_file.opened(content) as image:
            assert image_file.upright_size(image) == (400, 240)
            small, lies = image_file.picture(image, at_least=(100, 50))
            assert (small.size, lies) == ((100, 60), (0.0, 0.0, 100.0, 60.0))
        with image_file.opened(content) as image:
            as_stored = image_file.picture(image, upright=False)[0].size
            assert as_stored == image_file.upright_size(image, upright=False) == image.size


@pytest.mark.parametrize("orientation", SIDES)
def test_a_turned_jpeg_lies_where_it_lay_when_its_size_is_rounded_up(orientation):
    """Of 803 pixels an eighth is 101 with the last one partly empty, which is the first one once it is turned."""
    y, x = np.mgrid[:333, :803]
    for edge in (x > 401, y > 166):  # where it is, the share of white tells
        upright = np.repeat((edge * 255).astype(np.uint8)[..., None], 3, 2)
        content, plain = turned(upright, orientation, "JPEG", quality=95), saved(Image.fromarray(upright), "PNG")
        at = []
        for each in (content, plain):
            with image_file.opened(each) as image:
                at.append(32 * np.mean(image_form._resized(image, image_file.upright_size(image), 32)) / 255)
        assert abs(at[0] - at[1]) < 0.06  # pixels of 32; once up to 0.5
        for index in range(4):
            one, other = (16 * crops.train_image(each, index, 16, seed=0).mean() / 255 for each in (content, plain))
            assert abs(one - other) < 0.12


def test_the_size_of_a_folder_is_that_of_upright_pictures(tmp_path):
    upright = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    for i, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (tmp_path / "images" / place).mkdir(parents=True)
        (tmp_path / "images" / place / "x.png").write_bytes(turned(upright, (6, 1, 8, 3)[i]))
    data, _ = folder.load(tmp_path / "images", cache_dir=tmp_path)
    assert folder.image_shape(tmp_path / "images") == (6, 9, 3)
    np.testing.assert_array_equal(data.train.images, [upright, upright])
    np.testing.assert_array_equal(data.test.images, [upright, upright])


def test_an_orientation_that_means_nothing_is_ignored():
    upright = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    exif = Image.Exif()
    for value in (0, 9, 65535):
        exif[0x0112] = value
        np.testing.assert_array_equal(read(saved(Image.fromarray(upright), "PNG", exif=exif)), upright)
    damaged = saved(Image.fromarray(upright), "WEBP", lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05")
    np.testing.assert_array_equal(read(damaged), upright)


def test_prepared_sets_keep_pictures_as_stored():
    upright = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    content = turned(upright, 6)
    np.testing.assert_array_equal(read(content, upright=False), stored(upright, 6))
    plain = saved(Image.fromarray(stored(upright, 6)), "PNG")
    np.testing.assert_array_equal(crops.eval_image(content, 5, upright=False), crops.eval_image(plain, 5))
    one, other = crops.train_image(content, 0, 5, 0, upright=False), crops.train_image(plain, 0, 5, 0)
    np.testing.assert_array_equal(one, other)


def test_sixteen_bits_keep_their_upper_half():
    ramp = np.arange(0, 65536, 171, np.uint16)[:384].reshape(HEIGHT, WIDTH)
    np.testing.assert_array_equal(read(saved(Image.fromarray(ramp), "PNG"))[..., 0], ramp // 256)


def test_ycbcr_and_premultiplied_alpha_are_converted():
    colour = Image.new("RGB", (2, 1), COLOUR)
    premultiplied = colour.convert("RGBA").convert("RGBa")
    got = [image_modes.eight_bits(image) for image in (colour.convert("YCbCr"), premultiplied)]
    assert [image.mode for image in got] == ["RGB", "RGB"]
    assert np.abs(np.asarray(got[0]).astype(int) - COLOUR).max() <= 1
    np.testing.assert_array_equal(got[1], np.asarray(colour))
    grey = Image.new("LA", (2, 1), (77, 255)).convert("La")
    np.testing.assert_array_equal(image_modes.eight_bits(grey), [[77, 77]])
    for image in (colour.convert("RGBA"), Image.new("PA", (2, 1))):
        image.putalpha(7)
        with pytest.raises(UnusableImage, match="with transparent pixels"):
            image_modes.eight_bits(image)
    with pytest.raises(UnusableImage, match=r'^mode "HSV"; expected grey or colour of 8 bits: convert it$'):
        image_modes.eight_bits(colour.convert("HSV"))


def test_every_suffix_is_one_that_pillow_knows_for_a_format_that_is_read():
    known = Image.registered_extensions()
    assert {known[suffix] for suffix in image_file.SUFFIXES if suffix != ".pnm"} - {"DIB"} <= {*image_file.FORMATS}
    assert GOOD["rgb.png"][1] == COLOUR
    file = io.BytesIO(GOOD["paint.bmp"][0])
    with image_file.opened(file) as image:
        assert image.format == "BMP"


def grey_tiff(values, white_is_zero):
    """A TIFF file, uncompressed, whose numbers stand for grey, from black or from white on."""
    bits, (height, width) = 8 * values.itemsize, values.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 200), (277, 1),
            (278, height), (279, values.nbytes)]  # fmt: skip
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", t, 4, 1, n) for t, n in tags)
    return (head + b"\0" * 4).ljust(200, b"\0") + values.tobytes()


@pytest.mark.parametrize("dtype", ["<u1", "<u2"])
def test_zero_may_be_white_in_a_tiff(dtype):
    top = np.iinfo(dtype).max
    values = np.array([[0, top // 5, top // 2], [top, top // 3, 0]], dtype)
    black, white = (read(grey_tiff(values, each)) for each in (False, True))
    assert black.min() == 0
    assert black.max() == 255
    np.testing.assert_array_equal(white, 255 - black)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_grey_of_a_png_is_seen_at_every_depth(bits):
    top = 2**bits - 1

    def png(transparent):
        def chunk(name, data):
            return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

        rows = (b"\0" + b"\xff" * bits) * 2  # eight pixels of the brightest grey in each
        return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 2, bits, 0, 0, 0, 0))
                + chunk(b"tRNS", struct.pack(">H", transparent)) + chunk(b"IDAT", zlib.compress(rows))
                + chunk(b"IEND", b""))  # fmt: skip

    assert np.unique(read(png(0))).tolist() == [255]
    with pytest.raises(UnusableImage, match="transparent pixels"):
        read(png(top))
