"""ImageNet (ILSVRC 2012) as prepared by TensorFlow Datasets, streamed from its array_record files without TensorFlow.

It cannot be downloaded without an account, so nothing is prepared here: an error names the command to run elsewhere.
"""

from pathlib import Path
from typing import Any

from rare_gems.data import tfds_read
from rare_gems.data.decode import one_line
from rare_gems.data.streamed_dataset import Examples, Streamed
from rare_gems.data.tfds_read import DataUnavailable, default_data_dir
from rare_gems.data.tfds_shards import check_described, shards

__all__ = ["MEAN", "STD", "imagenet"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels in [0, 1], per channel


def imagenet(data_dir: str | Path | None = None, *, image_size: int = 224) -> Streamed:
    """ImageNet, 1,281,167 train and 50,000 test images in 1000 classes; the test split is TFDS's validation split.

    Classes are in the order of TFDS, which is that of the WordNet ids and of torchvision's weights. Labels are known
    only by reading, so `streamed_dataset.subset` is not balanced by class.

    Args:
      data_dir: the folder of TFDS data sets; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
      image_size: pixels of a side after the crop; 299 for Inception.
    Returns:
      splits to be read by `stream_batches.train_batches` and `stream_batches.eval_batches`.
    Raises:
      DataUnavailable: (a ValueError) there is no prepared copy in data_dir.
      ValueError: the copy is damaged, lacks a record file or a split, or is in another file format; image_size is
        below 1.
    Example:
      >>> try:
      ...     imagenet("/nowhere")
      ... except DataUnavailable as error:
      ...     print(str(error).partition(",")[0])
      no ImageNet in /nowhere/imagenet2012
    """
    if image_size < 1:
        raise ValueError(f"image_size: expected 1 or more, got {image_size}")
    data_dir = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    folder = tfds_read.prepared_folder(data_dir, "imagenet2012")
    if folder is None:
        raise DataUnavailable(
            f"no ImageNet in {data_dir / 'imagenet2012'}, and it cannot be downloaded without an account. With "
            f"ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar in TAR_FOLDER and TensorFlow installed, run: tfds "
            f"build imagenet2012 --file_format=array_record --data_dir={data_dir} --manual_dir=TAR_FOLDER, then copy "
            "that folder here if it was elsewhere"
        )
    train, test = _splits(folder)
    return Streamed(
        name="imagenet",
        train=train,
        test=test,
        validation=None,
        num_classes=1000,
        mean=MEAN,
        std=STD,
        image_size=image_size,
        note="",
    )


def _splits(folder: Path) -> tuple[Examples, Examples]:
    import tensorflow_datasets as tfds

    check_described(folder)
    decoders = {"image": tfds.decode.SkipDecoding()}
    try:
        builder: Any = tfds.builder_from_directory(folder)  # Any: its sources are declared too narrowly
        names = [name for name in ("train", "validation") if name in builder.info.splits]
        sources = {name: builder.as_data_source(name, decoders=decoders) for name in names}
    except Exception as error:  # of many kinds: JSON, protobuf, another file format
        raise ValueError(f"expected TFDS array_record files in {folder}, got: {one_line(error)}") from error
    if len(sources) < 2:
        raise ValueError(f"expected the splits train and validation in {folder}, got {sorted(builder.info.splits)}")
    for name in sources:
        shards(builder, name)  # raises where a file is missing or cut short
    train, test = (_examples(source, f"of split {name} in {folder}") for name, source in sources.items())
    return train, test


def _examples(source: Any, where: str) -> Examples:
    def read(index: int) -> tuple[bytes, int]:
        record = source[index]
        return record["image"], int(record["label"])

    def name(index: int) -> str:
        try:
            return f"{source[index]['file_name'].decode()} (record {index} {where})"
        except Exception:  # the record is what cannot be read
            return f"record {index} {where}"

    return Examples(read=read, name=name, num=len(source), upright=False)  # published networks saw them as stored
