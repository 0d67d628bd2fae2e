"""Caltech-101 from a small made-up folder as TFDS writes it: photographs of many sizes, some of them grey."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from rare_gems.data import decode, tfds_read
from rare_gems.data.caltech101 import caltech101

# TFDS's first six classes and its last; the fifth is dropped.
NAMES = ["accordion", "airplanes", "anchor", "ant", "background_google", "barrel", "yin_yang"]
COUNTS = {"accordion": 10, "ant": 7, "background_google": 4, "barrel": 20, "yin_yang": 3}
BROKEN = b"\xff\xd8\xff\xe0 no photograph"


def photographs():
    """[(file name, class, JPEG)]: flat pictures, red the class, green the number in the class (times 10)."""
    examples = []
    for name, count in COUNTS.items():
        for number in range(count):
            size = (20 + number, 30 - number)
            image = Image.new("RGB", size, (20 * NAMES.index(name), 10 * number, 99))
            if name == "yin_yang":
                image = Image.new("L", size, 10 * number)
            file = io.BytesIO()
            image.save(file, "JPEG", quality=95)
            examples.append((f"image_{number + 1:04d}.jpg", name, file.getvalue()))
    return examples


def write(data_dir, splits, names=NAMES):
    """Records and descriptions of the two splits, each a list of examples."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "image/file_name": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=names),
        }
    )
    serializer = ExampleSerializer(features.get_serialized_info())
    folder = data_dir / "caltech101" / "3.0.2"
    folder.mkdir(parents=True)
    infos = []
    for split, examples in splits.items():
        writer = ArrayRecordWriter(str(folder / f"caltech101-{split}.array_record-00000-of-00001"), "group_size:1")
        for file, name, content in examples:
            example = {"image": io.BytesIO(content), "image/file_name": file, "label": name}
            writer.write(serializer.serialize_example(features.encode_example(example)))
        writer.close()
        lengths = [str(len(examples))]
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        infos.append({"name": split, "filepathTemplate": template, "shardLengths": lengths, "numBytes": "9"})
    features.save_config(str(folder))
    info = {"name": "caltech101", "version": "3.0.2", "fileFormat": "array_record", "splits": infos}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def divided(examples, seed):
    """Shuffled, then cut into TFDS's train and test in some way."""
    order = np.random.default_rng(seed).permutation(len(examples))
    shuffled = [examples[i] for i in order]
    return {"train": shuffled[:15], "test": shuffled[15:]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("caltech")
    write(data_dir, divided(photographs(), seed=0))
    return data_dir


def content(split):
    """[(label, number in the class)], from the colours."""
    middle = np.asarray(split.images)[:, 112, 112].astype(int)
    return [(int(label), round(pixel[1] / 10)) for label, pixel in zip(split.labels, middle, strict=True)]


def test_reads_and_divides(folder, tmp_path):
    data, _ = caltech101(folder, tmp_path)
    assert data[4:] == (6, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0, False, "")
    assert data.name == "caltech101"
    for split in (data.train, data.validation, data.test):
        assert split.images.shape == (len(split.labels), 224, 224, 3)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
    # accordion 10 = 6 + 2 + 2, ant 7 = 4 + 2 + 1, barrel 20 = 12 + 4 + 4, yin_yang 3 = 1 + 1 + 1.
    assert np.bincount(data.train.labels, minlength=6).tolist() == [6, 0, 0, 4, 12, 1]
    assert np.bincount(data.validation.labels, minlength=6).tolist() == [2, 0, 0, 2, 4, 1]
    assert np.bincount(data.test.labels, minlength=6).tolist() == [2, 0, 0, 1, 4, 1]
    everything = content(data.train) + content(data.validation) + content(data.test)
    expected = [(0, i) for i in range(10)] + [(3, i) for i in range(7)] + [(4, i) for i in range(20)]
    assert sorted(everything) == expected + [(5, i) for i in range(3)]
    # Red tells TFDS's label, one higher from barrel on. JPEG changes flat colours by 2 at most.
    for split in (data.train, data.validation, data.test):
        number = np.array([n for _, n in content(split)])
        red = np.where(split.labels == 5, 10 * number, 20 * (split.labels + (split.labels >= 4)))
        blue = np.where(split.labels == 5, 10 * number, 99)
        for channel, value in ((0, red), (2, blue)):
            wrong = np.abs(split.images[..., channel].astype(int) - value[:, None, None])
            assert wrong.max() <= 2


def test_resizes_bilinearly(tmp_path):
    ramp = np.zeros((112, 2, 3), np.uint8)
    ramp[:, 1] = 240
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "PNG")
    write(tmp_path, {"train": [("a", "ant", file.getvalue())], "test": [("b", "background_google", file.getvalue())]})
    [image] = caltech101(tmp_path, tmp_path / "cache")[0].train.images
    # The new pixel i lies at (i + 1/2) / 112 - 1/2 between the two old ones.
    expected = 240 * np.clip((np.arange(224) + 0.5) / 112 - 0.5, 0, 1)
    np.testing.assert_allclose(image[100, :, 1], expected, atol=0.51)
    assert (image == image[:1]).all()


def test_split_does_not_depend_on_how_tfds_divided(folder, tmp_path):
    write(tmp_path, divided(photographs(), seed=5))
    (one, _), (two, _) = caltech101(folder, tmp_path / "cache"), caltech101(tmp_path, tmp_path / "cache")
    for split in ("train", "validation", "test"):
        for a, b in zip(getattr(one, split), getattr(two, split), strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(list((tmp_path / "cache").iterdir())) == 2


TEST = [(0, 2), (0, 3), (3, 4), (4, 4), (4, 6), (4, 8), (4, 19), (5, 1)]


def test_split_never_changes(folder, tmp_path):
    data, _ = caltech101(folder, tmp_path)
    assert content(data.test) == TEST


def test_cached(folder, tmp_path, monkeypatch):
    data, _ = caltech101(folder, tmp_path)
    monkeypatch.setattr(tfds_read, "decode", None)
    again, _ = caltech101(folder, tmp_path)
    assert again[4:] == data[4:]
    for split in (1, 2, 3):
        for a, b in zip(data[split], again[split], strict=True):
            np.testing.assert_array_equal(a, b)


def test_decoded_by_two_processes_it_is_the_same(folder, tmp_path, monkeypatch):
    data, _ = caltech101(folder, tmp_path / "one")
    monkeypatch.setattr(tfds_read, "_FEW", 0)
    monkeypatch.setattr(tfds_read, "_CHUNK", 5)
    monkeypatch.setattr(decode, "usable_cores", lambda: 2)
    again, _ = caltech101(folder, tmp_path / "two")
    for split in (1, 2, 3):
        for a, b in zip(data[split], again[split], strict=True):
            np.testing.assert_array_equal(a, b)


def broken_folder(data_dir):
    """Two of the 10 accordions cannot be read, and one of the dropped class."""
    examples = [
        (file, name, BROKEN if (file, name) in BROKEN_ONES else content) for file, name, content in photographs()
    ]
    return write(data_dir, {"train": examples[:15], "test": examples[15:]})


BROKEN_ONES = [
    ("image_0003.jpg", "accordion"),
    ("image_0009.jpg", "accordion"),
    ("image_0001.jpg", "background_google"),
]


def test_broken_image_is_an_error(tmp_path):
    folder = broken_folder(tmp_path)
    expected = f"damaged record file {folder}/caltech101-train.array_record-00000-of-00001, record 2: "
    with pytest.raises(ValueError, match=expected):
        caltech101(tmp_path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_broken_images_left_out(tmp_path):
    folder = broken_folder(tmp_path)
    for _ in range(2):  # the second from the cache
        data, broken = caltech101(tmp_path, tmp_path / "cache", skip_broken=True)
        assert len(broken) == 3
        assert broken[0].startswith(f"{folder}/caltech101-train.array_record-00000-of-00001, record 2 image_0003.jpg: ")
        everything = content(data.train) + content(data.validation) + content(data.test)
        assert sorted(everything)[:9] == [(0, i) for i in (0, 1, 3, 4, 5, 6, 7, 9)] + [(3, 0)]
        assert np.bincount(data.test.labels).tolist() == [2, 0, 0, 1, 4, 1]
        assert [c for c in content(data.test) if c[0]] == TEST[2:]  # other classes are divided as before
    with pytest.raises(ValueError, match="record 2"):  # the cache of the one is not that of the other
        caltech101(tmp_path, tmp_path / "cache")


def test_nothing_broken(folder, tmp_path):
    data, broken = caltech101(folder, tmp_path, skip_broken=True)
    assert broken == ()
    assert len(data.train.labels) == 23


def test_damaged_record_file(tmp_path):
    folder = write(tmp_path, divided(photographs(), seed=0))
    file = folder / "caltech101-test.array_record-00000-of-00001"
    file.write_bytes(file.read_bytes()[:-100])
    for skip_broken in (False, True):
        with pytest.raises(ValueError, match=rf"^damaged record file {file}: cut short, or no .* \(.+\); copy it"):
            caltech101(tmp_path, tmp_path / "cache", skip_broken=skip_broken)


def test_no_copy(tmp_path):
    with pytest.raises(tfds_read.DataUnavailable) as caught:
        caltech101(tmp_path / "here", tmp_path / "cache")
    message = str(caught.value)
    assert f"no Caltech-101 in {tmp_path / 'here' / 'caltech101'}." in message
    assert f"tfds build caltech101 --file_format=array_record --data_dir={tmp_path / 'here'}," in message
    assert "TensorFlow" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_folder_from_the_environment(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    assert len(caltech101(cache_dir=tmp_path)[0].test.labels) == 8


def test_classes_without_background_are_refused(tmp_path):
    examples = [("image_0001.jpg", "ant", photographs()[0][2])]
    write(tmp_path, {"train": examples, "test": examples}, names=["accordion", "ant"])
    with pytest.raises(ValueError, match=r"expected a class background_google in .*, got 2 other classes"):
        caltech101(tmp_path, tmp_path / "cache")


def test_tfds_has_the_class_that_is_dropped():
    import tensorflow_datasets as tfds

    names = (tfds.core.tfds_path("image_classification/caltech101_labels.txt")).read_text().split()
    assert len(names) == 102
    assert [*names[:6], names[-1]] == NAMES
