"""Sources: digits, splits, and sets from tiny prepared folders (and the real CIFAR-10 if there is a copy)."""

import hashlib
import json
import shutil
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from rare_gems.data import cifar, dataset, decode, digits, download, mnist, tfds_read, tfds_write
from tests.data import tiny as originals


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """(TFDS folder, {split: (images, labels)}): 50 train and 12 test images in TFDS's layout."""
    root = tmp_path_factory.mktemp("tiny")
    generator = np.random.default_rng(0)
    content, splits = {"batches.meta.txt": "\n".join("abcdefghij").encode()}, {}
    for split, files, count in (
        ("train", [f"data_batch_{i}.bin" for i in range(1, 6)], 10),
        ("test", ["test_batch.bin"], 12),
    ):
        images, labels = [], []
        for file in files:
            label = (np.arange(count) % 10).astype(np.uint8)
            image = generator.integers(0, 256, (count, 32, 32, 3), np.uint8)
            planes = image.transpose(0, 3, 1, 2).reshape(count, 3072)
            content[file] = np.concatenate([label[:, None], planes], 1).tobytes()
            images.append(image)
            labels.append(label)
        splits[split] = (np.concatenate(images), np.concatenate(labels))
    archive = root / "archive.tar.gz"
    digest = originals.make_archive(archive, content, "cifar-10-batches-bin")
    cifar.prepare_cifar10(root / "tfds", url=archive.as_uri(), sha256=digest)
    return root / "tfds", splits


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of the tiny TFDS folder that a test may damage."""
    shutil.copytree(tiny[0], tmp_path / "tfds")
    return tmp_path / "tfds"


def assert_split(split, expected):
    images, labels = expected
    np.testing.assert_array_equal(split.images, images)
    np.testing.assert_array_equal(split.labels, labels)
    assert split.images.dtype == np.uint8
    assert split.labels.dtype == np.int32


def test_digits():
    import sklearn.datasets

    data = digits.digits()
    grey, labels = sklearn.datasets.load_digits(return_X_y=True)
    assert data.train.images.shape == (1437, 8, 8, 1)
    assert data.test.images.shape == (360, 8, 8, 1)
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int32
    assert np.bincount(data.test.labels).tolist() == [36] * 10
    assert (data.crop_padding, data.flip, data.validation, data.num_classes) == (1, False, None, 10)
    # Each original appears once, in one of the two parts: compare as multisets of (label, pixels).
    both = [
        (int(label), image.tobytes())
        for split in (data.train, data.test)
        for image, label in zip(split.images, split.labels, strict=True)
    ]
    original = [
        (int(label), np.array([round(v * 255 / 16) for v in row], np.uint8).tobytes())
        for row, label in zip(grey, labels, strict=True)
    ]
    assert sorted(both) == sorted(original)
    assert data.mean == pytest.approx((data.train.images.astype(float).mean() / 255,), abs=1e-6)
    assert data.std == pytest.approx((data.train.images.astype(float).std() / 255,), abs=1e-6)


def test_digits_are_found_elsewhere_too(monkeypatch):
    known = digits.digits()
    moved_away = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(digits, "importlib", moved_away)  # its file is not where it was
    for one, other in zip((*known.train, *known.test), (*(moved := digits.digits()).train, *moved.test), strict=True):
        np.testing.assert_array_equal(one, other)


def test_digits_split_never_changes():
    data = digits.digits()
    digest = hashlib.sha256(data.test.images.tobytes() + data.test.labels.tobytes()).hexdigest()
    assert digest[:16] == "498ad56589c93e65"


@pytest.mark.parametrize("count", [1, 7, 10, 25, 1000, 1437])
def test_subset_is_balanced_nested_and_fixed(count):
    train = digits.digits().train
    some = dataset.subset(train, count, 10, seed=3)
    assert len(some.labels) == len(some.images) == count
    available = np.bincount(train.labels, minlength=10)
    counts = np.bincount(some.labels, minlength=10)
    short = counts < available  # classes that did not run out
    if short.any():
        assert counts.max() - counts[short].min() <= 1
    else:
        assert count == 1437
    again = dataset.subset(train, count, 10, seed=3)
    np.testing.assert_array_equal(some.images, again.images)
    if count < 1437:
        more = dataset.subset(train, count + 1, 10, seed=3)
        assert {x.tobytes() for x in some.images} <= {x.tobytes() for x in more.images}


def test_subset_depends_on_the_seed_and_keeps_images_with_their_labels():
    train = digits.digits().train
    label_of = {image.tobytes(): label for image, label in zip(train.images, train.labels, strict=True)}
    one, other = (dataset.subset(train, 100, 10, seed=seed) for seed in (0, 1))
    assert [label_of[image.tobytes()] for image in one.images] == one.labels.tolist()
    assert len({x.tobytes() for x in one.images} & {x.tobytes() for x in other.images}) < 30


@pytest.mark.parametrize("count", [0, -5, 1438])
def test_subset_refuses(count):
    with pytest.raises(ValueError, match=f"between 1 and 1437 examples, got {count}"):
        dataset.subset(digits.digits().train, count, 10, seed=0)


def test_subset_refuses_labels_out_of_range():
    with pytest.raises(ValueError, match=r"labels in 0\.\.4, got 0\.\.9"):
        dataset.subset(digits.digits().train, 10, 5, seed=0)


def test_hold_out():
    data = digits.digits()
    held = dataset.hold_out(data, 143, seed=0)
    counts = np.bincount(held.validation.labels)
    assert counts.max() - counts.min() == 1
    assert counts.sum() == 143
    parts = [x.tobytes() for x in (*held.train.images, *held.validation.images)]
    assert sorted(parts) == sorted(x.tobytes() for x in data.train.images)
    assert held.test is data.test
    with pytest.raises(ValueError, match="got one of 143 examples"):
        dataset.hold_out(held, 10, seed=0)
    for count in (0, 1437):
        with pytest.raises(ValueError, match=f"between 1 and 1436 validation examples, got {count}"):
            dataset.hold_out(data, count, seed=0)


def test_cifar10_reads_what_was_prepared_and_caches_it(tiny, tmp_path, monkeypatch):
    folder, expected = tiny
    data = cifar.cifar10(folder, tmp_path)
    assert_split(data.train, expected["train"])
    assert_split(data.test, expected["test"])
    assert (data.name, data.note, data.flip, data.crop_padding, data.num_classes) == (
        "cifar10",
        "",
        True,
        4,
        10,
    )
    assert (data.mean, data.std) == ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
    assert [file.suffix for file in tmp_path.iterdir()] == [".npz"]

    monkeypatch.setattr(tfds_read, "decode", None)  # the second call must not decode
    again = cifar.cifar10(folder, tmp_path)
    assert_split(again.train, expected["train"])
    assert_split(again.test, expected["test"])
    assert again[4:] == data[4:]


def test_cifar10_folder_from_the_environment(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny[0]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert_split(cifar.cifar10().test, tiny[1]["test"])
    assert len(list((tmp_path / "rare_gems").iterdir())) == 1
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tfds_read.default_data_dir() == tmp_path / "tensorflow_datasets"


def test_damaged_cache_is_passed_over_and_mended(tiny, tmp_path):
    cifar.cifar10(tiny[0], tmp_path)
    [cache] = tmp_path.iterdir()
    whole = cache.read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for damage in (b"", whole[:1000], changed, b"no zip file"):
        cache.write_bytes(damage)
        assert_split(cifar.cifar10(tiny[0], tmp_path).train, tiny[1]["train"])
        assert cache.stat().st_size == len(whole)


def test_a_cache_of_the_decoder_before_is_passed_over(tiny, tmp_path):
    """That one took palettes for grey; the digest in the name of its files began with 1."""
    cifar.cifar10(tiny[0], tmp_path)
    [cache] = tmp_path.iterdir()
    digest = hashlib.sha256(b"1")
    for path in sorted((tiny[0] / "cifar10" / "3.0.2").resolve().iterdir()):
        digest.update(f"{path}\0{path.stat().st_size}\0{path.stat().st_mtime_ns}\0".encode())
    with np.load(cache) as stored:
        arrays = dict(stored)
    arrays["test_images"] = np.zeros_like(arrays["test_images"])
    np.savez(tmp_path / f"cifar10-{digest.hexdigest()[:16]}.npz", **arrays)
    cache.unlink()
    assert_split(cifar.cifar10(tiny[0], tmp_path).test, tiny[1]["test"])


def test_cache_that_cannot_be_written_is_no_error(tiny, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert_split(cifar.cifar10(tiny[0], blocked / "cache").test, tiny[1]["test"])


def test_cache_follows_the_source_files(copy, tiny, tmp_path):
    cifar.cifar10(copy, tmp_path / "cache")
    # The test records under the train records' name: other content, other size.
    folder = copy / "cifar10" / "3.0.2"
    shutil.copy(
        folder / "cifar10-test.array_record-00000-of-00001",
        folder / "cifar10-train.array_record-00000-of-00001",
    )
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["12"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    assert_split(cifar.cifar10(copy, tmp_path / "cache").train, tiny[1]["test"])


def damage_cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def damage_empty(file):
    file.write_bytes(b"")


def damage_remove(file):
    file.unlink()


def damage_bytes(file):
    data = bytearray(file.read_bytes())
    data[5000:5200] = bytes(x ^ 1 for x in data[5000:5200])
    file.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "what"),
    [(damage_cut, "damaged"), (damage_empty, "empty"), (damage_remove, "missing"), (damage_bytes, "damaged")],
)
def test_damaged_records_are_one_error_naming_the_file(copy, tmp_path, damage, what):
    damage(copy / "cifar10" / "3.0.2" / "cifar10-test.array_record-00000-of-00001")
    with pytest.raises(ValueError, match=rf"^{what} record file .*cifar10-test\.array_record-00000") as caught:
        cifar.cifar10(copy, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_too_few_records_are_an_error(copy, tmp_path):
    info_file = copy / "cifar10" / "3.0.2" / "dataset_info.json"
    info_file.write_text(info_file.read_text().replace('"50"', '"60"'))
    with pytest.raises(ValueError, match=r"^another number of records in .*cifar10-train.*: expected 60, .*, got 50;"):
        cifar.cifar10(copy, tmp_path / "cache")


@pytest.mark.parametrize("num", [0, -3])
def test_a_split_without_examples_is_an_error(copy, tmp_path, num):
    info_file = copy / "cifar10" / "3.0.2" / "dataset_info.json"
    info_file.write_text(info_file.read_text().replace('"12"', f'"{num}"'))
    with pytest.raises(ValueError, match=rf"^expected one or more examples in split test of .*3\.0\.2, got {num}$"):
        cifar.cifar10(copy, tmp_path / "cache")


def test_a_missing_description_is_named(copy, tmp_path):
    file = copy / "cifar10" / "3.0.2" / "features.json"
    file.unlink()
    with pytest.raises(ValueError, match=f"^missing file {file}; copy the folder again, whole$"):
        cifar.cifar10(copy, tmp_path / "cache")


@pytest.mark.parametrize(("old", "new"), [("{", ""), ("array_record", "tfrecord"), ('"train"', '"other"')])
def test_damaged_description_is_one_error_naming_the_folder(copy, tmp_path, old, new):
    info_file = copy / "cifar10" / "3.0.2" / "dataset_info.json"
    info_file.write_text(info_file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=r"expected TFDS array_record files in .*3\.0\.2") as caught:
        cifar.cifar10(copy, tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_newest_version_wins(copy):
    for version in ("3.0.10", "3.0.9", "3.0.11", "incomplete", "1.0.0"):
        (copy / "cifar10" / version).mkdir()
        if version != "3.0.11":
            (copy / "cifar10" / version / "dataset_info.json").write_text("{}")
    assert tfds_read.prepared_folder(copy).name == "3.0.10"
    assert tfds_read.prepared_folder(copy / "nowhere") is None


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist"])
def test_jpeg_records_are_noted(tmp_path, monkeypatch, name):
    """Records written as JPEG, as a re-encoded copy has them."""
    from PIL import Image

    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda self, file, kind: save(self, file, "JPEG"))
    folder = tmp_path / name / "3.0.2"
    folder.mkdir(parents=True)
    shape = (28, 28, 1) if name == "mnist" else (32, 32, 3)
    flat = tfds_write.Labelled(np.full((2, *shape), 77, np.uint8), {"label": np.array([1, 0])})
    about = tfds_write.About(name, "3.0.2", "", "", "", "")
    tfds_write.write(folder, about, {"train": flat, "test": flat}, {"label": ["a", "b"]}, with_id=False)
    data = getattr({"mnist": mnist}.get(name, cifar), name)(tmp_path, tmp_path / "cache")
    assert data.note == "JPEG"
    assert data.train.images.shape == (2, *shape)
    assert set(np.unique(data.train.images)) <= {76, 77, 78}
    assert (
        getattr({"mnist": mnist}.get(name, cifar), name)(tmp_path, tmp_path / "cache").note == "JPEG"
    )  # from the cache


def test_cifar100_reads_what_was_prepared(tmp_path):
    archive = tmp_path / "archive.tar.gz"
    digest = originals.make_archive(archive, originals.cifar100_files(), "cifar-100-binary")
    cifar.prepare_cifar100(tmp_path, url=archive.as_uri(), sha256=digest)
    for _ in range(2):  # the second from the cache
        data = cifar.cifar100(tmp_path, tmp_path / "cache")
        assert data.train.labels.tolist() == [99, 7, 0]  # the fine ones
        assert data.test.labels.tolist() == [98, 1]
        assert data.test.images.shape == (2, 32, 32, 3)
        assert data.test.images[1, 5, 31].tolist() == [9 + 10 + 31, 9 + 40 + 10 + 31, 9 + 80 + 10 + 31]
        assert data._replace(train=None, test=None) == dataset.Dataset(
            "cifar100", None, None, None, 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), 4, True, ""
        )


def test_mnist_reads_what_was_prepared(tmp_path):
    sha256 = originals.write_mnist(tmp_path / "files", originals.mnist_files())
    mnist.prepare_mnist(tmp_path, url=(tmp_path / "files").as_uri() + "/", sha256=sha256)
    for _ in range(2):  # the second from the cache
        data = mnist.mnist(tmp_path, tmp_path / "cache")
        assert data.train.labels.tolist() == [5, 0, 4, 9]
        assert data.test.labels.tolist() == [7, 2, 1]
        assert data.train.images.shape == (4, 28, 28, 1)
        expected = (3 * 9 + np.arange(28 * 28)).astype(np.uint8).reshape(28, 28, 1)
        np.testing.assert_array_equal(data.train.images[3], expected)
        assert data._replace(train=None, test=None) == dataset.Dataset(
            "mnist", None, None, None, 10, (0.1307,), (0.3081,), 0, False, ""
        )


@pytest.fixture
def on_two_cores(monkeypatch):
    """Has the smallest set decoded by two processes, seven records at a time; the list counts tasks."""
    monkeypatch.setattr(tfds_read, "_FEW", 0)
    monkeypatch.setattr(tfds_read, "_CHUNK", 7)
    monkeypatch.setattr(decode, "usable_cores", lambda: 2)
    asked, ask = [], decode._ask
    monkeypatch.setattr(decode, "_ask", lambda child, part: asked.append(child.pid) or ask(child, part))
    return asked


def test_decoded_by_two_processes_it_is_the_same(tiny, tmp_path, on_two_cores):
    data = cifar.cifar10(tiny[0], tmp_path)
    assert_split(data.train, tiny[1]["train"])
    assert_split(data.test, tiny[1]["test"])
    assert len(on_two_cores) == 8 + 2  # of 50 and 12 records
    assert len(set(on_two_cores)) == 2


def test_damage_that_another_process_finds(copy, tmp_path, on_two_cores):
    file = copy / "cifar10" / "3.0.2" / "cifar10-test.array_record-00000-of-00001"
    damage_bytes(file)
    with pytest.raises(ValueError, match=f"damaged record file {file}: Corrupted"):
        cifar.cifar10(copy, tmp_path / "cache")
    assert on_two_cores


def test_label_out_of_range_is_an_error(tmp_path):
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    images = np.zeros((3, 32, 32, 3), np.uint8)
    splits = {name: tfds_write.Labelled(images, {"label": np.array([0, 1, 2])}) for name in ("train", "test")}
    about = tfds_write.About("cifar10", "3.0.2", "", "", "", "")
    tfds_write.write(folder, about, splits, {"label": ["a", "b", "c"]}, with_id=False)
    (folder / "label.labels.txt").write_text("a\nb\n")
    config = (folder / "features.json").read_text()
    assert '"numClasses": "3"' in config
    (folder / "features.json").write_text(config.replace('"numClasses": "3"', '"numClasses": "2"'))
    expected = r"damaged record file .*cifar10-train.*, record 2: expected a label in 0\.\.1, got 2"
    with pytest.raises(ValueError, match=expected):
        cifar.cifar10(tmp_path, tmp_path / "cache")


def test_image_of_another_shape_is_an_error(tmp_path):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    images = np.zeros((2, 1, 1, 1), np.uint8)
    splits = {name: tfds_write.Labelled(images, {"label": np.array([0, 1])}) for name in ("train", "test")}
    about = tfds_write.About("mnist", "3.0.1", "", "", "", "")
    tfds_write.write(folder, about, splits, {"label": ["a", "b"]}, with_id=False)
    with pytest.raises(ValueError, match=r"mnist-train.*, record 0: expected an image of shape \(28, 28, 1\)"):
        mnist.mnist(tmp_path, tmp_path / "cache")


@pytest.mark.parametrize(("name", "title"), [("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100"), ("mnist", "MNIST")])
def test_no_copy_and_no_network(tmp_path, monkeypatch, name, title):
    monkeypatch.setattr(download.urllib.request, "urlopen", fail_to_connect)
    with pytest.raises(tfds_read.DataUnavailable) as caught:
        getattr({"mnist": mnist}.get(name, cifar), name)(tmp_path / "here", tmp_path / "cache")
    message = str(caught.value)
    assert f"no {title} in {tmp_path / 'here' / name}," in message
    assert f"TFDS_DATA_DIR={tmp_path / 'here'} python -m rare_gems.data.prepare {name}, then" in message
    assert "no route" in message
    assert "\n" not in message
    assert isinstance(caught.value, ValueError)
    assert list(tmp_path.iterdir()) == []


def fail_to_connect(url, timeout):
    assert timeout <= 15
    raise download.urllib.error.URLError("no route")


def test_real_cifar10(tmp_path):
    folder = tfds_read.default_data_dir()
    if tfds_read.prepared_folder(folder) is None:
        pytest.skip(f"no CIFAR-10 in {folder}: set TFDS_DATA_DIR")
    data = cifar.cifar10(folder, tmp_path)
    assert data.train.images.shape == (50000, 32, 32, 3)
    assert data.test.images.shape == (10000, 32, 32, 3)
    assert np.bincount(data.train.labels).tolist() == [5000] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    # The published statistics of the train split (its images' own deviation is larger than the std in use).
    np.testing.assert_allclose(data.train.images.mean((0, 1, 2)) / 255, data.mean, atol=0.002)
    assert "tensorflow" not in sys.modules
    begin = time.perf_counter()
    again = cifar.cifar10(folder, tmp_path)
    assert time.perf_counter() - begin < 5  # 0.2 s on an idle machine
    assert hashlib.sha256(again.test.images).digest() == hashlib.sha256(data.test.images).digest()


def test_shrunk_images_are_means_of_blocks(tiny):
    data = cifar.cifar10(tiny[0])
    small = dataset.shrink(data, 16)
    blocks = np.asarray(data.train.images, np.float64).reshape(50, 16, 2, 16, 2, 3).mean((2, 4))
    np.testing.assert_array_equal(small.train.images, np.rint(blocks).astype(np.uint8))
    assert (small.test.images.shape, small.crop_padding, small.note) == ((12, 16, 16, 3), 2, "16x16")
    assert dataset.shrink(data, 32).note == data.note
    with pytest.raises(ValueError, match="divides 32, got 20"):
        dataset.shrink(data, 20)
