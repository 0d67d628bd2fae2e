"""What a folder is taken to hold: suffixes, what is passed over and how it is told, names in Unicode, links."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rare_gems.data import folder, folder_scan, folder_stream, image_file, stream_batches


@pytest.fixture
def pets(tmp_path):
    """An image of each class in each split."""
    root = tmp_path / "pets"
    for i, place in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        (root / place).mkdir(parents=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(root / place / "1.png")
    return root


def test_all_suffixes_in_any_case_are_read(pets):
    for suffix in image_file.SUFFIXES:
        (pets / f"train/cat/x{suffix}").write_bytes(b"")
        (pets / f"train/cat/y{suffix.upper()}").write_bytes(b"")
    assert len(folder_scan.scan(pets).train.files) == 2 + 2 * len(image_file.SUFFIXES)
    assert {".webp", ".bmp", ".jfif", ".tif", ".tiff", ".gif", ".ppm"} <= {*image_file.SUFFIXES}


def test_what_is_passed_over_is_counted_and_told(pets):
    assert folder_scan.passed_over_line(pets, folder_scan.scan(pets)) is None
    for i in range(5):
        (pets / f"train/dog/{i}.txt").write_text("")
    for place in ("train/cat/.DS_Store", "train/cat/._1.png", "test/.hidden", "train/cat/Thumbs.db", "test/dog/README"):
        (pets / place).write_text("")
    (pets / "train/stray.png").write_text("")
    (pets / "list.csv").write_text("")
    for place in ("train/__MACOSX", "train/cat/more", "train/cat/more.png", "valid"):
        (pets / place).mkdir()
    os.mkfifo(pets / "test/cat/pipe.png")
    found = folder_scan.scan(pets)
    assert (found.classes, len(found.train.files), len(found.test.files)) == (("cat", "dog"), 2, 2)
    assert folder_scan.passed_over_line(pets, found) == (
        f"passed over 17 entries of {pets} that are no images of a class: .txt: 5 (train/dog/0.txt, train/dog/1.txt), "
        "hidden: 3 (test/.hidden, train/cat/.DS_Store), folders within class folders: 2 (train/cat/more, "
        "train/cat/more.png), outside class folders: 2 (train/stray.png, list.csv), .db: 1 (train/cat/Thumbs.db), "
        "folders beside train: 1 (valid), folders of a system: 1 (train/__MACOSX), "
        "neither file nor folder: 1 (test/cat/pipe.png), others: 1"
    )


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_may_be_written_in_unicode_in_two_ways(pets, forms):
    for split, form in zip(("train", "test"), forms, strict=True):
        (pets / split / "dog").rename(pets / split / unicodedata.normalize(form, "żaba"))
    found = folder_scan.scan(pets)
    assert found.classes == ("cat", unicodedata.normalize(forms[0], "żaba"))
    assert found.test.files[1].parent.name == unicodedata.normalize(forms[1], "żaba")
    data, _ = folder.load(pets, cache_dir=pets.parent)
    assert data.test.images[:, 0, 0, 0].tolist() == [2, 3]
    (pets / "test/cat").rename(pets / "test/cow")
    with pytest.raises(ValueError, match=r"missing cat, .*unexpected cow"):
        folder_scan.scan(pets)


def test_names_that_are_no_text_are_read(pets):
    strange = Path(os.fsdecode(os.fsencode(pets / "train/cat") + b"/\xff\n2.png"))
    Image.new("RGB", (8, 8), (9, 0, 0)).save(strange)
    Image.new("RGBA", (8, 8)).save(strange.with_name("\udcfe3.png"))
    for _ in range(2):  # the second from the cache
        data, skipped = folder.load(pets, cache_dir=pets.parent / "cache", skip_broken=True)
        assert data.train.images[:, 0, 0, 0].tolist() == [0, 9, 1]
        assert skipped[0].endswith('\udcfe3.png: mode "RGBA" with transparent pixels')
    streamed, skipped_too = folder_stream.load_stream(pets, image_size=4, skip_broken=True)
    assert skipped_too == skipped
    (batch,) = stream_batches.eval_batches(streamed.train, batch_size=3, image_size=4)
    assert np.asarray(batch.images)[:, 0, 0, 0].tolist() == [0, 9, 1]


def test_links_are_followed(pets, tmp_path):
    (pets / "test").rename(tmp_path / "elsewhere")
    (pets / "test").symlink_to(tmp_path / "elsewhere")
    (pets / "train/dog").rename(tmp_path / "dogs")
    (pets / "train/dog").symlink_to(tmp_path / "dogs")
    (pets / "train/cat/2.png").symlink_to(pets / "train/cat/1.png")
    (pets / "train/loop").symlink_to("loop")
    data, _ = folder.load(pets, cache_dir=tmp_path / "cache")
    assert data.train.labels.tolist() == [0, 0, 1]
    assert data.test.labels.tolist() == [0, 1]
    assert folder_scan.scan(pets).passed_over[0].kind == "outside class folders"


def test_a_validation_split_is_streamed_too(pets):
    (pets / "val").symlink_to("test")
    streamed, _ = folder_stream.load_stream(pets, image_size=4)
    assert (streamed.validation.num, streamed.num_classes, streamed.image_size) == (2, 2, 4)
