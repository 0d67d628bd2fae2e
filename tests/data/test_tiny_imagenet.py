"""Tiny ImageNet from small folders and archives in the official layout."""

import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from rare_gems.data import tiny_imagenet as module
from rare_gems.data.tfds_read import DataUnavailable

GENERATOR = np.random.default_rng(0)
WNIDS = ["n03", "n01", "n02"]  # as in the archive, not sorted


@pytest.fixture
def made(tmp_path):
    """(data_dir, pixels by path): three classes, two training and five validation images each, lossless inside."""
    folder, pixels = tmp_path / "data" / "tiny-imagenet-200", {}
    for wnid in WNIDS:
        pixels |= {f"train/{wnid}/images/{wnid}_{i}.JPEG": None for i in range(2)}
        (folder / f"train/{wnid}/images").mkdir(parents=True)
        (folder / f"train/{wnid}/{wnid}_boxes.txt").write_text("boxes")
    pixels |= {f"val/images/val_{i}.JPEG": None for i in range(15)}
    (folder / "val/images").mkdir(parents=True)
    (folder / "test/images").mkdir(parents=True)  # without labels, not read
    for place in pixels:
        pixels[place] = GENERATOR.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels[place]).save(folder / place, "PNG")
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    lines = [f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t1\t44\t62\n" for i in range(15)]
    (folder / "val/val_annotations.txt").write_text("".join(lines))
    return tmp_path / "data", pixels


@pytest.fixture
def archive(made):
    """The same as an archive, the folder gone."""
    data_dir, _ = made
    folder = data_dir / "tiny-imagenet-200"
    path = data_dir / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member in sorted(folder.rglob("*")):
            file.write(member, member.relative_to(data_dir))
    folder.rename(data_dir.parent / "original")
    return path


def load(data_dir, **options):
    return module.tiny_imagenet(data_dir, data_dir.parent / "cache", **options)


def fails(data_dir, message, error=ValueError, **options):
    """The whole message, with DATA for the folder."""
    with pytest.raises(error, match=r"\w") as caught:
        load(data_dir, **options)
    text = str(caught.value).replace(str(data_dir), "DATA")
    assert re.fullmatch(message, text), text


def assert_whole(got, pixels):
    dataset, skipped = got
    assert skipped == ()
    train = [pixels[f"train/{wnid}/images/{wnid}_{i}.JPEG"] for wnid in sorted(WNIDS) for i in range(2)]
    np.testing.assert_array_equal(dataset.train.images, train)
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.test.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    # n01 is second in the annotations: 1, 4, 7, 10, 13, by name 1, 10, 13, 4, 7.
    test = [pixels[f"val/images/val_{i}.JPEG"] for i in (1, 10, 13, 4, 7, 11, 14, 2, 5, 8, 0, 12, 3, 6, 9)]
    np.testing.assert_array_equal(dataset.test.images, test)


def test_the_folder(made):
    data_dir, pixels = made
    dataset, _ = got = load(data_dir)
    assert_whole(got, pixels)
    assert dataset._replace(train=0, test=0) == (
        "tiny_imagenet", 0, 0, None, 3, (0.480, 0.448, 0.397), (0.276, 0.269, 0.282), 4, True, "",
    )  # fmt: skip
    for split in (dataset.train, dataset.test):
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)


def test_the_folder_of_the_environment(made, monkeypatch):
    data_dir, pixels = made
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    monkeypatch.setenv("XDG_CACHE_HOME", str(data_dir.parent))
    assert_whole(module.tiny_imagenet(), pixels)
    assert len(list((data_dir.parent / "rare_gems").glob("*.npz"))) == 1


def test_halves_of_the_official_validation_images(made):
    data_dir, pixels = made
    dataset, _ = load(data_dir, halves=True)
    first, second = (1, 10, 11, 14, 0, 12), (13, 4, 7, 2, 5, 8, 3, 6, 9)  # 2 and 3 of each class
    for split, which in ((dataset.validation, first), (dataset.test, second)):
        np.testing.assert_array_equal(split.images, [pixels[f"val/images/val_{i}.JPEG"] for i in which])
        assert split.labels.tolist() == [(i % 3 - 1) % 3 for i in which]
    assert_whole(load(data_dir), pixels)


def test_grey_becomes_colour_even_where_all_images_are_grey(made):
    data_dir, pixels = made
    folder = data_dir / "tiny-imagenet-200"
    for place in pixels:
        grey = pixels[place][..., 0]
        Image.fromarray(grey).save(folder / place, "PNG")
        pixels[place] = np.repeat(grey[..., None], 3, 2)
    assert_whole(load(data_dir), pixels)


def test_jpeg_is_read(made):
    data_dir, _ = made
    path = data_dir / "tiny-imagenet-200/train/n01/images/n01_0.JPEG"
    Image.new("RGB", (16, 16), (200, 100, 50)).save(path, "JPEG")
    np.testing.assert_allclose(load(data_dir)[0].train.images[0].mean((0, 1)), [200, 100, 50], atol=2)


def test_the_archive_is_extracted_once(archive, made):
    data_dir, pixels = made
    assert_whole(load(data_dir), pixels)
    assert sorted(path.name for path in data_dir.iterdir()) == ["tiny-imagenet-200", archive.name]
    original = data_dir.parent / "original"
    assert {path.relative_to(original) for path in original.rglob("*")} == {
        path.relative_to(data_dir / "tiny-imagenet-200") for path in (data_dir / "tiny-imagenet-200").rglob("*")
    }
    archive.write_bytes(b"not looked at again")
    assert_whole(load(data_dir), pixels)


HINT = "expected the whole file from http://cs231n.stanford.edu/tiny-imagenet-200.zip: download it again"


@pytest.mark.parametrize("damage", ["cut", "half", "flipped", "empty"])
def test_a_damaged_archive_is_named_and_leaves_nothing(archive, made, damage):
    data_dir, _ = made
    content = bytearray(archive.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    else:
        del content[{"cut": -10, "half": len(content) // 2, "empty": 0}[damage] :]
    archive.write_bytes(content)
    reason = "(Bad CRC-32 for file .*|Error -3 .*)" if damage == "flipped" else "File is not a zip file"
    fails(data_dir, rf"DATA/tiny-imagenet-200.zip: cut short or damaged \({reason}\); {HINT}")
    assert list(data_dir.iterdir()) == [archive]


@pytest.mark.parametrize("name", ["tiny-imagenet-200/../../evil.txt", "/evil.txt", "../evil.txt"])
def test_paths_out_of_the_folder_are_refused(archive, made, name):
    data_dir, _ = made
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(zipfile.ZipInfo(name), "evil")
    fails(data_dir, f"DATA/tiny-imagenet-200.zip: {re.escape(name)} leads out of the folder; {HINT}")
    assert list(data_dir.iterdir()) == [archive]
    assert not list(data_dir.parent.rglob("evil.txt"))


def test_another_archive_and_a_full_disk(archive, made, monkeypatch):
    data_dir, _ = made

    def extract(self, member, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extract", extract)
    message = r"cannot be extracted into DATA \(No space left on device\)"
    fails(data_dir, f"DATA/tiny-imagenet-200.zip: {message}; expected .*")
    assert list(data_dir.iterdir()) == [archive]
    monkeypatch.undo()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("other/wnids.txt", "n01")
    fails(data_dir, f"DATA/tiny-imagenet-200.zip: no folder tiny-imagenet-200 in it; {HINT}")


def test_neither_folder_nor_archive(tmp_path):
    places = "neither the folder DATA/tiny-imagenet-200 nor the archive DATA/tiny-imagenet-200.zip"
    way = "Download http://cs231n.stanford.edu/tiny-imagenet-200.zip and put it into DATA"
    fails(tmp_path, f"no Tiny ImageNet: {places}. {way}", DataUnavailable)


ANNOTATIONS = "DATA/tiny-imagenet-200/val/val_annotations.txt"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: [], "empty; expected a line for each validation image"),
        (lambda lines: [*lines[:2], "val_2.JPEG"], r"line 3 is 'val_2.JPEG'; expected NAME.JPEG, a tab, a class name"),
        (lambda lines: ["a/b.JPEG\tn01", *lines], r"line 1 is 'a/b.JPEG\\tn01'; expected NAME.JPEG, .*"),
        (lambda lines: [*lines, "x.JPEG\tn09\t0"], "line 16 has class n09; expected one of wnids.txt"),
        (
            lambda lines: [*lines, "val_0.JPEG\tn02"],
            "line 16 has a second class of val_0.JPEG; expected one line for each image",
        ),
        (lambda lines: lines[:-2], r"no line for 2 images \(val_13.JPEG\); extract the archive again"),
    ],
)
def test_annotations_that_cannot_be_right(made, edit, message):
    data_dir, _ = made
    file = data_dir / "tiny-imagenet-200/val/val_annotations.txt"
    file.write_text("\n".join(edit(file.read_text().splitlines())))
    fails(data_dir, f"{ANNOTATIONS}: {message}")


def test_what_systems_leave_behind_is_passed_over(made):
    data_dir, _ = made
    folder = data_dir / "tiny-imagenet-200"
    (folder / "train/__MACOSX").mkdir()
    for place in ("train/n01/images", "val/images"):
        (folder / place / "Thumbs.db").write_bytes(b"none")
        (folder / place / "._x.JPEG").write_bytes(b"none")
    dataset, skipped = load(data_dir)
    assert (len(dataset.train.labels), len(dataset.test.labels), skipped) == (6, 15, ())


def test_missing_files_are_named(made):
    data_dir, _ = made
    folder, name = data_dir / "tiny-imagenet-200", "DATA/tiny-imagenet-200"
    (folder / "val/images/val_3.JPEG").unlink()
    fails(data_dir, rf"{name}/val/images: 1 annotated images missing \(val_3.JPEG\); extract the archive again")
    (folder / "val/images").rename(folder / "val/other")
    reason = r"cannot be listed \(No such file or directory\)"
    fails(data_dir, rf"{name}/val/images: {reason}; expected the validation images")
    expected = "expected the file of the official archive"
    (folder / "val/val_annotations.txt").unlink()
    fails(data_dir, rf"{ANNOTATIONS}: cannot be read \(No such file or directory\); {expected}")
    (folder / "wnids.txt").write_bytes(b"\xff\xfe")
    fails(data_dir, rf"{name}/wnids.txt: cannot be read \(not text\); {expected}")
    for text in ("", "n01\nn02\nn01\n"):
        (folder / "wnids.txt").write_text(text)
        lines = text.count("\n")
        wanted = "expected two or more different class names, a line each"
        fails(data_dir, f"{name}/wnids.txt: {wanted}, got {lines} lines")


def test_training_folders_are_those_of_wnids(made):
    data_dir, _ = made
    folder, name = data_dir / "tiny-imagenet-200", "DATA/tiny-imagenet-200/train"
    (folder / "train/n04").mkdir()
    fails(data_dir, rf"{name}: 1 class folders not in wnids.txt \(n04\); expected those of wnids.txt")
    (folder / "train/n04").rmdir()
    (folder / "train/n02/images/n02_0.JPEG").unlink()
    uneven = f"{name}/n02: 1 images, 2 in other classes"
    fails(data_dir, f"{uneven}; expected as many in each: extract the archive again, or give --skip-broken-images")
    dataset, skipped = load(data_dir, skip_broken=True)
    assert skipped == (uneven.replace("DATA", str(data_dir)),)
    assert dataset.train.labels.tolist() == [0, 0, 1, 2, 2]
    (folder / "train/n02").rename(folder / "n02")
    fails(data_dir, rf"{name}: 1 class folders missing \(n02\); expected those of wnids.txt")


def test_a_broken_image_is_named_or_left_out(made):
    data_dir, _ = made
    name = "DATA/tiny-imagenet-200"
    (data_dir / "tiny-imagenet-200/train/n01/images/n01_1.JPEG").write_bytes(b"")
    Image.new("RGB", (9, 16)).save(data_dir / "tiny-imagenet-200/val/images/val_0.JPEG", "PNG")
    ways = r"expected an image: replace it, or skip such files \(--skip-broken-images\)"
    fails(data_dir, f"{name}/train/n01/images/n01_1.JPEG: empty file; {ways}")
    (data_dir / "tiny-imagenet-200/train/n01/images/n01_1.JPEG").write_bytes(
        (data_dir / "tiny-imagenet-200/train/n01/images/n01_0.JPEG").read_bytes()
    )
    fails(data_dir, f"{name}/val/images/val_0.JPEG: 9x16 pixels, .* has 16x16; expected one size: resize it, or skip.*")
    (data_dir / "tiny-imagenet-200/train/n01/images/n01_1.JPEG").write_bytes(b"")
    dataset, skipped = load(data_dir, skip_broken=True)
    first = data_dir / "tiny-imagenet-200/train/n01/images/n01_0.JPEG"
    assert [line.replace(str(data_dir), "DATA") for line in skipped] == [
        f"{name}/train/n01/images/n01_1.JPEG: empty file",
        f"{name}/val/images/val_0.JPEG: 9x16 pixels, but {first} has 16x16".replace(str(data_dir), "DATA"),
    ]
    assert dataset.train.labels.tolist() == [0, 1, 1, 2, 2]
    assert len(dataset.test.labels) == 14


def test_changed_annotations_are_not_answered_from_the_cache(made):
    data_dir, _ = made
    load(data_dir)
    file = data_dir / "tiny-imagenet-200/val/val_annotations.txt"
    file.write_text(file.read_text().replace("n01", "x").replace("n03", "n01").replace("x", "n03"))
    images, pixels = load(data_dir)[0].test.images, made[1]
    np.testing.assert_array_equal(images[0], pixels["val/images/val_0.JPEG"])
