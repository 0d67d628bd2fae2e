"""ImageNet from a tiny folder written as TFDS lays it out: order, labels, colour modes, and what may be wrong."""

import io
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from rare_gems.data import stream_batches, tfds_read
from rare_gems.data.imagenet import imagenet

MODES = ("RGB", "L", "CMYK", "RGB")
COUNTS = {"train": [4, 2], "validation": [3]}  # records of each file


def picture(split, index):
    """A JPEG of one colour that tells the record."""
    file = io.BytesIO()
    grey = 40 * index + (0 if split == "train" else 20)
    Image.new("RGB", (30 + index, 24), (grey, grey, grey)).convert(MODES[index % 4]).save(file, "JPEG", quality=95)
    file.seek(0)
    return file


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder of TFDS data sets, written with TFDS's own features and serializer."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    root = tmp_path_factory.mktemp("tfds")
    folder = root / "imagenet2012" / "5.1.0"
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict({
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=1000),
        "file_name": tfds.features.Text(),
    })  # fmt: skip
    serializer = ExampleSerializer(features.get_serialized_info())
    for split, lengths in COUNTS.items():
        index = 0
        for shard, length in enumerate(lengths):
            name = f"imagenet2012-{split}.array_record-{shard:05d}-of-{len(lengths):05d}"
            writer = ArrayRecordWriter(str(folder / name), "group_size:1")
            for _ in range(length):
                example = {"image": picture(split, index), "label": 990 + index, "file_name": f"{split}_{index}.JPEG"}
                writer.write(serializer.serialize_example(features.encode_example(example)))
                index += 1
            writer.close()
    features.save_config(str(folder))
    splits = [{"name": name, "shardLengths": [str(n) for n in lengths], "numBytes": "1",
               "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}
              for name, lengths in COUNTS.items()]  # fmt: skip
    info = {"name": "imagenet2012", "version": "5.1.0", "fileFormat": "array_record", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return root


@pytest.fixture
def copy(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "tfds")
    return tmp_path / "tfds"


def test_reads_what_tfds_prepared(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    data = imagenet()
    assert (data.name, data.num_classes, data.image_size, data.validation, data.note) == (
        "imagenet",
        1000,
        224,
        None,
        "",
    )
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (data.train.num, data.test.num, data.train.labels) == (6, 3, None)
    assert (data.train.upright, data.test.upright) == (False, False)  # as stored, as published networks saw them
    for split, examples in (("train", data.train), ("validation", data.test)):
        batches = list(stream_batches.eval_batches(examples, batch_size=4, image_size=8, num_threads=3))
        labels = np.concatenate([b.labels for b in batches])[: examples.num]
        assert labels.tolist() == [990 + i for i in range(examples.num)]
        images = np.concatenate([b.images for b in batches])
        for index in range(examples.num):
            grey = 40 * index + (0 if split == "train" else 20)
            np.testing.assert_allclose(images[index].astype(int), grey, atol=3)
            assert examples.read(index) == (picture(split, index).getvalue(), 990 + index)
    (batch,) = stream_batches.train_batches(data.train, batch_size=6, image_size=8, seed=0)
    assert sorted(batch.labels.tolist()) == [990 + i for i in range(6)]
    assert "tensorflow" not in sys.modules


def test_image_size(prepared):
    assert imagenet(prepared, image_size=299).image_size == 299
    with pytest.raises(ValueError, match="image_size: expected 1 or more, got 0"):
        imagenet(prepared, image_size=0)


def test_newest_version(copy):
    folder = copy / "imagenet2012"
    shutil.copytree(folder / "5.1.0", folder / "5.0.0")
    (folder / "5.0.0" / "dataset_info.json").write_text("{}")  # would fail
    (folder / "5.2.0.incomplete").mkdir()
    (folder / "5.2.0.incomplete" / "dataset_info.json").write_text("{}")
    assert imagenet(copy).train.num == 6


def test_absent(tmp_path):
    with pytest.raises(tfds_read.DataUnavailable) as caught:
        imagenet(tmp_path)
    text = str(caught.value)
    assert text.startswith(f"no ImageNet in {tmp_path / 'imagenet2012'}, ")
    assert f"tfds build imagenet2012 --file_format=array_record --data_dir={tmp_path} --manual_dir=" in text
    assert "\n" not in text


def test_broken_records_are_named(copy):
    data = imagenet(copy)
    broken = data.train._replace(read=lambda i: (b"", 0) if i == 4 else data.train.read(i))
    with pytest.raises(
        ValueError, match=r"^cannot read image train_4\.JPEG \(record 4 of split train in .*5\.1\.0\): "
    ):
        list(stream_batches.eval_batches(broken, batch_size=4, image_size=8))
    file = next((copy / "imagenet2012" / "5.1.0").glob("*validation*"))
    file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(ValueError, match=r"^cannot read image record \d of split validation in"):
        list(stream_batches.eval_batches(data.test, batch_size=4, image_size=8))
    with pytest.raises(ValueError, match=rf"^damaged record file {file}: cut short, or no array_record file"):
        imagenet(copy)


def test_a_missing_record_file_is_named_before_anything_is_read(copy):
    file = next((copy / "imagenet2012" / "5.1.0").glob("*train*-00001-of-00002"))
    content = file.read_bytes()
    file.unlink()
    expected = rf"^missing record file {file} \(1 of the 2 files of split train are not there\); copy"
    with pytest.raises(ValueError, match=expected):
        imagenet(copy)
    file.write_bytes(content[:-1000])
    with pytest.raises(ValueError, match=rf"^damaged record file {file}: cut short"):
        imagenet(copy)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"^empty record file {file};"):
        imagenet(copy)
    file.unlink()
    file.mkdir()
    with pytest.raises(ValueError, match=rf"^record file {file} cannot be read \(Is a directory\)"):
        imagenet(copy)
    file.rmdir()
    shutil.copy(next(file.parent.glob("*train*-00000-of-00002")), file)
    message = rf"^another number of records in {file}: expected 2, as dataset_info.json says, got 4;"
    with pytest.raises(ValueError, match=message):
        imagenet(copy)
    file.write_bytes(content)
    assert imagenet(copy).train.num == 6


@pytest.mark.parametrize(("change", "message"), [
    ({"splits": []}, r"expected the splits train and validation in .*5\.1\.0, got \[\]"),
    ({"fileFormat": "tfrecord"}, r"expected TFDS array_record files in .*5\.1\.0, got: .*TFRECORD"),
    ({"version": "x"}, r"expected TFDS array_record files in .*5\.1\.0, got: "),
])  # fmt: skip
def test_another_form(copy, change, message):
    file = copy / "imagenet2012" / "5.1.0" / "dataset_info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message) as caught:
        imagenet(copy)
    assert "\n" not in str(caught.value)
