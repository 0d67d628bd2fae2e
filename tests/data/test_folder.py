"""Image folders: layout, decoding, resizing, statistics, the cache, and what is said of each mistake."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rare_gems.data import folder, image_form

GENERATOR = np.random.default_rng(0)


def picture(height=8, width=8, channels=3):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return GENERATOR.integers(0, 256, shape, np.uint8)


def save(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.fixture
def made(tmp_path):
    """(folder, pixels by path): three images of cat and two of dog to train on, one each to test on."""
    root, pixels = tmp_path / "pets", {}
    for place in ("train/cat/b.png", "train/cat/a.png", "train/cat/C.PNG", "train/dog/1.png", "train/dog/2.png"):
        pixels[place] = picture()
    pixels |= {"test/cat/x.png": picture(), "test/dog/x.png": picture()}
    for place, image in pixels.items():
        save(root / place, image)
    return root, pixels


def load(root, **options):
    return folder.load(root, cache_dir=root.parent / "cache", **options)


def fails(root, message, call=load, **options):
    """The whole message, with ROOT for the folder."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        call(root, **options)
    text = str(caught.value).replace(str(root), "ROOT")
    assert re.fullmatch(message, text), text


def test_images_and_labels_are_in_sorted_order_and_others_are_passed_over(made):
    root, pixels = made
    (root / "train/cat/.hidden.png").write_bytes(b"")
    (root / "train/cat/notes.txt").write_text("no image")
    (root / "train/.cache").mkdir()
    (root / "train/readme.md").write_text("no class")
    dataset, skipped = load(root)
    order = [f"train/{name}.png" for name in ("cat/a", "cat/b", "dog/1", "dog/2")]
    order.insert(0, "train/cat/C.PNG")  # capitals first, as Python sorts
    np.testing.assert_array_equal(dataset.train.images, [pixels[place] for place in order])
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_array_equal(dataset.test.images, [pixels["test/cat/x.png"], pixels["test/dog/x.png"]])
    assert dataset.test.labels.tolist() == [0, 1]
    assert (dataset.train.images.dtype, dataset.train.labels.dtype) == (np.uint8, np.int32)
    assert dataset.name == "folder"
    assert (dataset.num_classes, dataset.validation, dataset.note, dataset.flip) == (2, None, "", True)
    assert dataset.crop_padding == 1  # 8 // 8
    assert skipped == ()
    found = folder.scan(root)
    assert found.classes == ("cat", "dog")
    assert found.train.files == tuple(root / place for place in order)
    assert folder.image_shape(root) == folder.image_shape(found) == (8, 8, 3)


def test_val_is_the_test_split_unless_there_is_test_too(made):
    root, pixels = made
    (root / "test").rename(root / "val")
    found = folder.scan(root)
    assert found.test.files[0] == root / "val/cat/x.png"
    assert found.validation is None
    for place in ("cat", "dog"):
        save(root / f"test/{place}/y.jpg", picture())
    found = folder.scan(root)
    assert found.test.files[0] == root / "test/cat/y.jpg"
    dataset = load(root)[0]
    np.testing.assert_array_equal(dataset.validation.images, [pixels["test/cat/x.png"], pixels["test/dog/x.png"]])
    assert dataset.validation.labels.tolist() == [0, 1]


def test_crop_padding_and_flip_are_an_eighth_and_true_unless_given(made, tmp_path):
    root, _ = made
    dataset, _ = load(root, crop_padding=3, flip=False)
    assert (dataset.crop_padding, dataset.flip) == (3, False)
    assert load(root, image_size=32)[0].crop_padding == 4
    fails(root, "expected a crop_padding of 0 pixels or more, got -1", crop_padding=-1)
    fails(root, "expected an image_size of 1 pixel or more, got 0", image_size=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_those_of_the_training_images_in_float64(made, channels, monkeypatch):
    root, pixels = made
    monkeypatch.setattr(folder, "_PIXELS", 100)  # several blocks, the last one smaller
    for place in pixels:
        pixels[place] = (picture(8, 8, channels) // 2 if place.startswith("train") else picture(8, 8, channels)) | 1
        save(root / place, pixels[place])
    values = np.stack([image for place, image in pixels.items() if place.startswith("train")]).reshape(-1, channels)
    dataset = load(root)[0]
    assert dataset.train.images.shape == (5, 8, 8, channels)
    scaled = values.astype(np.float64) / 255
    np.testing.assert_allclose(dataset.mean, scaled.mean(0), atol=6e-7)
    np.testing.assert_allclose(dataset.std, scaled.std(0), atol=6e-7)
    assert dataset.mean == tuple(round(value, 6) for value in dataset.mean)


def test_a_channel_without_any_change_gets_std_one(made):
    root, pixels = made
    for place in pixels:
        pixels[place][..., 2] = 51
        save(root / place, pixels[place])
    dataset = load(root)[0]
    assert (dataset.mean[2], dataset.std[2]) == (0.2, 1.0)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_all_grey_gives_one_channel(made, mode):
    root, pixels = made
    for place in pixels:
        save(root / place, picture(channels=1), mode)
    for size in (None, 8):
        dataset = load(root, image_size=size)[0]
        assert dataset.train.images.shape == (5, 8, 8, 1)
        assert len(dataset.mean) == len(dataset.std) == 1
        assert folder.image_shape(root, size) == (8, 8, 1)
        with Image.open(root / "train/cat/a.png") as image:
            np.testing.assert_array_equal(dataset.train.images[1, :, :, 0], np.asarray(image.convert("L")))
    assert (set(np.unique(dataset.train.images)) == {0, 255}) == (mode == "1")


def test_an_image_that_is_left_out_has_no_say_in_the_channels(made):
    root, pixels = made
    for place in pixels:
        save(root / place, picture(channels=1))
    Image.new("RGBA", (8, 8), (1, 2, 3, 0)).save(root / "train/cat/zz.png")
    dataset, skipped = load(root, skip_broken=True)
    assert (len(skipped), dataset.train.images.shape[1:]) == (1, (8, 8, 1))
    assert folder.image_shape(root, None, True) == (8, 8, 1)


@pytest.mark.parametrize("size", [None, 8])
def test_grey_among_colour_becomes_colour(made, size):
    root, pixels = made
    grey = picture(channels=1)
    save(root / "train/dog/1.png", grey)
    save(root / "test/cat/x.png", grey, "1")
    dataset, skipped = load(root, image_size=size)
    assert skipped == ()
    assert (dataset.train.images.shape, dataset.test.images.shape[1:]) == ((5, 8, 8, 3), (8, 8, 3))
    np.testing.assert_array_equal(dataset.train.images[3], np.repeat(grey[..., None], 3, 2))
    np.testing.assert_array_equal(dataset.train.images[0], pixels["train/cat/C.PNG"])
    assert set(np.unique(dataset.test.images[0])) == {0, 255}
    # Grey comes first: the image in colour is noticed all the same.
    save(root / "train/cat/C.PNG", grey)
    images = load(root, image_size=size)[0].train.images
    np.testing.assert_array_equal(images[0], np.repeat(grey[..., None], 3, 2))
    np.testing.assert_array_equal(images[1], pixels["train/cat/a.png"])
    assert folder.image_shape(root, size) == (8, 8, 3)


def test_colour_only_in_the_test_split_is_an_error(made):
    root, pixels = made
    for place in pixels:
        if place.startswith("train"):
            save(root / place, picture(channels=1))
    wrong = r'colour \("RGB"\), but ROOT/train/cat/C.PNG is grey \("L"\)'
    ways = r"expected one mode: convert it, or skip such files \(--skip-broken-images\)"
    fails(root, rf"ROOT/test/cat/x.png: {wrong}; {ways}", image_size=4)


def at(tmp_path, pixels, size, ending="png"):
    """An image as it is read with image_size=size."""
    path = save(tmp_path / f"image.{ending}", np.asarray(pixels, np.uint8))
    form = image_form.find_form([path], size, False, False)
    return image_form.read_image(path, form)[..., 0]


def test_geometry_worked_by_hand(tmp_path):
    columns = np.arange(0, 60, 10)
    # 2 x 6 at its own height: the two central columns. 2 x 5: one left, two right.
    np.testing.assert_array_equal(at(tmp_path, [columns, columns], 2), [[20, 30], [20, 30]])
    np.testing.assert_array_equal(at(tmp_path, [columns[:5], columns[:5]], 2), [[10, 20], [10, 20]])
    np.testing.assert_array_equal(at(tmp_path, np.array([columns, columns]).T, 2), [[20, 20], [30, 30]])
    # 2 x 6 at half: one pixel, the central 2 x 2. Weights of a triangle of half width 2 about the centre between
    # the columns 20 and 30, whose distances are .5, .5, 1.5, 1.5: 3/8, 3/8, 1/8, 1/8: 10 and 40 have weight too.
    step = [0, 0, 0, 80, 80, 160]
    assert at(tmp_path, [step, step], 1).tolist() == [[40]]
    assert at(tmp_path, [[0, 40, 0, 80, 80, 160]] * 2, 1).tolist() == [[45]]  # 40/8 + 0 + 80 * 3/8 + 80/8
    # Twice as large: pixels of the middle half lie a quarter and three quarters between two.
    assert at(tmp_path, [[0, 100], [0, 100]], 4).tolist() == [[0, 25, 75, 100]] * 4


@pytest.mark.parametrize(("height", "width", "size"), [(31, 47, 13), (47, 31, 13), (40, 40, 16), (9, 20, 24)])
def test_one_step_equals_resizing_then_cropping(tmp_path, height, width, size):
    pixels = picture(height, width)
    scale = size / min(height, width)
    tall, wide = max(size, round(height * scale)), max(size, round(width * scale))
    whole = np.asarray(Image.fromarray(pixels).resize((wide, tall), Image.Resampling.BILINEAR))
    top, left = (tall - size) // 2, (wide - size) // 2
    expected = whole[top : top + size, left : left + size, 0]
    got = at(tmp_path, pixels, size)
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_jpeg_decoded_small_is_nearly_the_same(tmp_path):
    y, x = np.mgrid[:203, :301]
    pixels = np.stack([(x * 255) // 300, (y * 255) // 202, (x + y) // 2], -1).astype(np.uint8)
    png, jpeg = (at(tmp_path, pixels, 24, ending).astype(int) for ending in ("png", "jpg"))
    assert np.abs(png - jpeg).max() <= 3  # a shift by one small pixel would change 9
    assert png[0, -1] - png[0, 0] > 150


BROKEN = {
    "empty": (lambda path: path.write_bytes(b""), "empty file", "expected an image: replace it"),
    "text": (
        lambda path: path.write_text("hello"),
        "expected one of JPEG, PNG, .*, GIF, got 5 bytes of something else, or damaged from the start",
        "convert or replace it",
    ),
    "short": (
        lambda path: path.write_bytes(path.read_bytes()[:-60]),
        r"cut short or damaged \(.*truncated.*\)",
        "replace it",
    ),
    "header": (lambda path: path.write_bytes(path.read_bytes()[:20]), r"cut short or damaged \(.+\)", "replace it"),
    "size": (
        lambda path: save(path, picture(6, 9)),
        "9x6 pixels, but ROOT/train/cat/C.PNG has 8x8",
        "expected one size: resize it, give --image-size N to convert all",
    ),
    "absent": (
        lambda path: (path.unlink(), path.symlink_to("nowhere")),
        r"cannot be read \(No such file or directory\)",
        "make it readable",
    ),
}
BROKEN["I;16"] = (
    lambda path: save(path, picture(channels=1) | 1, "I;16"),
    r'mode "I;16" with 16 bits and no value above \d+',
    "expected 0 for black to 65535 for white: convert it to 8 bits",
)
BROKEN["alpha"] = (
    lambda path: save(path, np.dstack([picture(), np.arange(64, dtype=np.uint8).reshape(8, 8)])),
    'mode "RGBA" with transparent pixels',
    "expected opaque ones: lay it on a background",
)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_named_or_left_out(made, kind):
    root, pixels = made
    spoil, what, way = BROKEN[kind]
    spoil(root / "train/dog/2.png")
    way += r", or skip such files \(--skip-broken-images\)"
    fails(root, f"ROOT/train/dog/2.png: {what}; {way}")
    dataset, skipped = load(root, skip_broken=True)
    assert dataset.train.labels.tolist() == [0, 0, 0, 1]
    np.testing.assert_array_equal(dataset.train.images[3], pixels["train/dog/1.png"])
    kept = dataset.train.images.reshape(-1, 3) / 255
    np.testing.assert_allclose(dataset.mean, kept.mean(0), atol=6e-7)
    (line,) = skipped
    assert re.fullmatch(f"ROOT/train/dog/2.png: {what}", line.replace(str(root), "ROOT"))
    fails(root, f"ROOT/train/dog/2.png: {what}; {way}")  # also where a cache lists it


def test_cmyk_is_converted_and_cut_jpeg_is_named(made):
    root, _ = made
    cmyk = save(root / "train/dog/0.jpg", picture(), "CMYK")
    path = save(root / "train/dog/3.jpg", picture(64, 64))
    path.write_bytes(path.read_bytes()[:-300])
    dataset, skipped = load(root, skip_broken=True, image_size=8)
    with Image.open(cmyk) as image:
        np.testing.assert_array_equal(dataset.train.images[3], np.asarray(image.convert("RGB")))
    assert len(skipped) == 1
    assert skipped[0].startswith(f"{root}/train/dog/3.jpg: cut short or damaged (image file is truncated")


def test_the_first_good_training_image_decides_and_a_class_may_not_run_out(made):
    root, _ = made
    (root / "train/cat/C.PNG").write_bytes(b"")
    dataset, skipped = load(root, skip_broken=True)
    assert dataset.train.labels.tolist() == [0, 0, 1, 1]
    assert skipped == (f"{root}/train/cat/C.PNG: empty file",)
    assert folder.image_shape(root, skip_broken=True) == (8, 8, 3)
    ways = r"expected an image: replace it, or skip such files \(--skip-broken-images\)"
    fails(root, f"ROOT/train/cat/C.PNG: empty file; {ways}", folder.image_shape)
    (root / "test/dog/x.png").write_bytes(b"")
    message = "no image of class dog of the test split can be used; expected one or more. "
    fails(root, message + "The first: ROOT/test/dog/x.png: empty file", skip_broken=True)
    for place in ("cat/a", "cat/b", "dog/1", "dog/2"):
        (root / f"train/{place}.png").write_text("no image")
    message = "none of the 5 training images can be used. "
    fails(root, message + "The first: ROOT/train/cat/C.PNG: empty file", skip_broken=True)


def test_the_first_of_several_broken_images_is_named(made):
    root, _ = made
    for i in range(3 * folder._BLOCK):
        save(root / f"train/dog/x{i:03}.png", picture(2, 2))
    fails(root, "ROOT/train/dog/x000.png: 2x2 pixels.*", skip_broken=False)


def test_layouts_that_cannot_be_read(made):
    root, _ = made
    fails(root / "none", "ROOT is missing; expected a folder with train/", folder.scan)
    fails(root / "train/cat/a.png", "ROOT is a file; expected a folder with train/", folder.scan)
    expected = r"expected ROOT/train/CLASS/\*.png \(or .jpg, .webp, ...\)"
    fails(root / "train", f"no folder train in ROOT; {expected}", folder.scan)
    (root / "train/empty").mkdir()
    fails(root, "expected the class folders of ROOT/train in ROOT/test; missing empty", folder.scan)
    (root / "test/empty").mkdir()
    expected = r"expected files with one of the suffixes \.jpg .* \.webp .*, or no such folder"
    fails(root, f"no images in ROOT/train/empty; {expected}", folder.scan)
    (root / "train/empty/deeper").mkdir()
    (root / "train/empty/a.txt").write_text("")
    others = r"passed over \.txt: 1 \(a\.txt\), folders within class folders: 1 \(deeper\)"
    fails(root, f"no images in ROOT/train/empty; {expected}; {others}", folder.scan)
    save(root / "train/empty/x.png", picture())
    fails(root, f"no images in ROOT/test/empty; {expected}", folder.scan)
    (root / "test/empty").rename(root / "test/ant")
    for name in "pqrs":
        (root / "train" / name).mkdir()
    missing = "missing empty, p, q and 2 more, unexpected ant"
    fails(root, f"expected the class folders of ROOT/train in ROOT/test; {missing}", folder.scan)
    (root / "test").rename(root / "valid")
    fails(root, "neither test nor val in ROOT; expected one of the two folders beside train", folder.scan)
    (root / "val").mkdir()
    fails(root, "no class folders in ROOT/val; expected one folder of images for each class", folder.scan)


def test_one_class_and_none(made):
    root, _ = made
    for split in ("train", "test"):
        (root / split / "cat").rename(root / f"{split}-cat")
    fails(root, r"only one class folder in ROOT/train \(dog\); expected two or more", folder.scan)
    (root / "train/dog").rename(root / "train-dog")
    fails(root, "no class folders in ROOT/train; expected one folder of images for each class", folder.scan)


def test_a_folder_without_rights_is_named(made, monkeypatch):
    root, _ = made

    def scandir(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", scandir)  # root may list anything
    fails(root, r"ROOT/train cannot be listed \(Permission denied\); expected a readable folder", folder.scan)


def test_too_large_a_set_is_refused_before_it_is_decoded(made):
    root, _ = made
    (root / "train/dog/2.png").write_bytes(b"")  # not looked at
    size = "7 images of 8x8 pixels take 1.34e-06 GB of memory; expected at most 1.34e-06 GB"
    ways = "make them smaller with --image-size N, or stream them from disk with --stream"
    fails(root, f"{size}: {ways}", max_bytes=7 * 8 * 8 * 3 - 1)
    dataset, _ = load(root, max_bytes=7 * 8 * 8 * 3, skip_broken=True)
    fails(root, f"{size}: {ways}", max_bytes=7 * 8 * 8 * 3 - 1, skip_broken=True)  # cached by now
    assert load(root, max_bytes=7 * 4 * 4 * 3, image_size=4, skip_broken=True)[0].train.images.shape[1] == 4
    assert len(dataset.train.labels) == 4


@pytest.fixture
def count(monkeypatch):
    """A list that gets the path of each image decoded."""
    seen, real = [], image_form.read_image
    monkeypatch.setattr(image_form, "read_image", lambda path, form: seen.append(path) or real(path, form))
    return seen


def assert_equal(got, expected):
    assert got[1] == expected[1]
    assert got[0]._replace(train=0, test=0) == expected[0]._replace(train=0, test=0)
    for split in ("train", "test"):
        for one, other in zip(getattr(got[0], split), getattr(expected[0], split), strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype


def test_the_second_call_does_not_decode(made, count):
    root, _ = made
    first = load(root)
    assert len(count) == 7
    assert_equal(load(root), first)
    assert_equal(load(root, skip_broken=True), first)
    assert len(count) == 7
    load(root, image_size=4)
    assert len(count) == 14
    load(root, image_size=4)
    load(root)
    assert len(count) == 14
    assert len(list((root.parent / "cache").iterdir())) == 2


def test_a_changed_file_or_set_of_files_is_decoded_anew(made, count):
    root, _ = made
    load(root)
    path, changed = root / "train/dog/1.png", picture()
    before = path.stat()
    save(path, changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    np.testing.assert_array_equal(load(root)[0].train.images[3], changed)
    path.rename(root / "train/dog/3.png")
    np.testing.assert_array_equal(load(root)[0].train.images[4], changed)
    (root / "train/dog/3.png").unlink()
    assert len(load(root)[0].train.labels) == 4
    assert len(count) == 7 + 7 + 7 + 6
    assert len(list((root.parent / "cache").iterdir())) == 1  # no old ones pile up


def test_a_cache_of_the_reader_before_is_passed_over(made):
    """That one refused transparency and did not turn pictures; its cache had the same name."""
    root, pixels = made
    load(root)
    (cache,) = (root.parent / "cache").iterdir()
    with np.load(cache) as stored:
        arrays = dict(stored)
    digest = hashlib.sha256(b"1\0None\0False")
    found = folder.scan(root)
    for name in ("train", "test"):
        files, labels = getattr(found, name)
        digest.update(f"\0{name}\0".encode() + labels.tobytes())
        for path in files:
            stat = path.stat()
            digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    arrays["key"] = np.array(digest.hexdigest())
    arrays["train_images"] = np.zeros_like(arrays["train_images"])
    np.savez(cache, **arrays)
    np.testing.assert_array_equal(load(root)[0].train.images[0], pixels["train/cat/C.PNG"])


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other", "folder"])
def test_a_damaged_cache_is_passed_over(made, count, damage):
    root, _ = made
    first = load(root)
    (cache,) = (root.parent / "cache").iterdir()
    content = bytearray(cache.read_bytes())
    if damage == "cut":
        content = content[:-50]
    elif damage == "flipped":
        content[content.index(first[0].train.images.tobytes()) + 5] ^= 1
    elif damage == "empty":
        content.clear()
    elif damage == "other":
        content[:] = b"hello"
    cache.unlink()
    if damage == "folder":
        cache.mkdir()  # nor can one be written in its place
    else:
        cache.write_bytes(content)
    assert_equal(load(root), first)
    assert len(count) == 14
    assert_equal(load(root), first)
    assert len(count) == (21 if damage == "folder" else 14)
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]  # nothing left of the attempt


def test_a_cache_folder_that_cannot_be_made_is_no_obstacle(made):
    root, _ = made
    (root.parent / "file").write_text("in the way")
    assert len(folder.load(root, cache_dir=root.parent / "file/cache")[0].train.labels) == 5


def test_what_could_not_be_opened_is_tried_again(made, count, monkeypatch):
    root, _ = made
    real = Path.read_bytes

    def read_bytes(path):
        if path.name == "2.png":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    _, skipped = load(root, skip_broken=True)
    assert skipped == (f"{root}/train/dog/2.png: cannot be read (Permission denied)",)
    monkeypatch.undo()
    dataset, skipped = load(root, skip_broken=True)
    assert (len(dataset.train.labels), skipped) == (5, ())


def test_progress_is_quiet_unless_there_is_a_terminal(made, capsys):
    load(made[0], progress=True)
    assert capsys.readouterr() == ("", "")
