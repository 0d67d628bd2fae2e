"""Writes a data set as TFDS lays it out, without TensorFlow: PNG images in array_record files, and what they are."""

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["About", "Labelled", "is_prepared", "write"]


class About(NamedTuple):
    """name, version, module: as in TFDS. The others describe the data set in dataset_info.json."""

    name: str
    version: str
    module: str
    description: str
    citation: str
    homepage: str


class Labelled(NamedTuple):
    """One split. images: uint8 [N, H, W, C], C = 1 or 3. labels: feature name -> integers [N], "label" among them."""

    images: np.ndarray
    labels: dict[str, np.ndarray]


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds a prepared version of a data set: dataset_info.json is written last."""
    return (folder / "dataset_info.json").exists()


def write(
    folder: Path,
    about: About,
    splits: dict[str, Labelled],
    names: dict[str, list[str]],
    with_id: bool,
    progress: bool = False,
) -> None:
    """Writes one array_record file per split, features.json, the label names and dataset_info.json.

    Args:
      folder: empty. splits: name -> images and labels, all of one image shape. names: of the classes of each label
        feature, in the order of features. with_id: store "train_00000" and so on as the feature "id".
      progress: show bars.
    Raises:
      OSError: a file cannot be written.
    """
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image
    from tensorflow_datasets.core.example_serializer import ExampleSerializer
    from tqdm import tqdm

    shape = next(iter(splits.values())).images.shape[1:]
    features = tfds.features.FeaturesDict(
        ({"id": tfds.features.Text()} if with_id else {})
        | {"image": tfds.features.Image(shape=shape, encoding_format="png")}
        | {feature: tfds.features.ClassLabel(names=classes) for feature, classes in names.items()}
    )
    serializer = ExampleSerializer(features.get_serialized_info())
    infos = []
    for split, (images, labels) in splits.items():
        num_bytes = 0
        file = folder / f"{about.name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(file), "group_size:1")  # fast to read in any order
        for i in tqdm(range(len(images)), f"writing {split}", disable=None if progress else True):
            png = io.BytesIO()
            Image.fromarray(images[i, :, :, 0] if shape[2] == 1 else images[i]).save(png, "PNG")
            png.seek(0)
            content = {feature: int(values[i]) for feature, values in labels.items()}
            identity = {"id": f"{split}_{i:05d}"} if with_id else {}
            record = serializer.serialize_example(features.encode_example(identity | {"image": png} | content))
            num_bytes += len(record)
            writer.write(record)
        writer.close()
        infos.append(
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": [str(len(images))],
                "numBytes": str(num_bytes),
            }
        )
    features.save_config(str(folder))
    info = {
        "name": about.name,
        "version": about.version,
        "description": about.description,
        "citation": about.citation,
        "location": {"urls": [about.homepage]},
        "fileFormat": "array_record",
        "moduleName": about.module,
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}},
        "splits": infos,
    }
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
