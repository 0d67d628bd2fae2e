"""Prepares CIFAR-10 for TFDS without TensorFlow: `python -m rare_gems.data.prepare cifar10`.

Takes the official archive in its binary form (fixed records of 1 label byte and 3 x 32 x 32 pixel bytes, so
nothing is unpickled), checks its SHA-256, and writes PNG images into array_record files in the layout that
`tfds.data_source("cifar10")` reads.

Deviation from TFDS's own builder, which needs TensorFlow: records stay in the order of the archive.
"""

import argparse
import hashlib
import http.client
import io
import json
import sys
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rare_gems.data.sources import default_data_dir

__all__ = ["CIFAR10_SHA256", "CIFAR10_URL", "cifar10", "main", "parse_cifar10"]

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"

_FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
_VERSION = "3.0.2"
_ATTEMPTS = 3


def cifar10(
    data_dir: str | Path | None = None,
    *,
    url: str = CIFAR10_URL,
    sha256: str = CIFAR10_SHA256,
    timeout: float = 10.0,
    progress: bool = False,
) -> Path:
    """Downloads and prepares CIFAR-10, unless data_dir has it already.

    The folder appears under its name only when complete; what a failed run downloaded is removed.

    Args:
      data_dir: the folder of TFDS data sets; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
      url, sha256: the archive and its checksum. timeout: seconds of silence before giving up.
      progress: show bars.
    Returns:
      the prepared folder, data_dir/cifar10/3.0.2.
    Raises:
      OSError: no connection, or the folder cannot be written.
      ValueError: the checksum is wrong or the archive is damaged.
    """
    data_dir = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    target = data_dir / "cifar10" / _VERSION
    if (target / "dataset_info.json").exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".preparing-", dir=target.parent) as scratch:
        archive = Path(scratch) / "cifar-10-binary.tar.gz"
        _download(url, archive, sha256, timeout, progress)
        folder = Path(scratch) / _VERSION
        folder.mkdir()
        _write(folder, *parse_cifar10(archive), progress)
        try:
            folder.rename(target)
        except OSError:
            if not (target / "dataset_info.json").exists():  # else another process was faster
                raise
    return target


def parse_cifar10(archive: Path) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[str]]:
    """Reads the binary archive of CIFAR-10 in memory; nothing is extracted to disk.

    Returns:
      ({"train" and "test": (images uint8 [N, 32, 32, 3], labels uint8 [N])}, the ten class names).
    Raises:
      ValueError: the archive is cut off or damaged, or a file in it is missing or has a wrong size.
    """
    wanted = [*_FILES["train"], *_FILES["test"], "batches.meta.txt"]
    content = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.rpartition("/")[2]
                if name in wanted and (stream := tar.extractfile(member)) is not None:
                    content[name] = stream.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"damaged archive {archive.name}: {error}") from error
    if missing := [name for name in wanted if name not in content]:
        raise ValueError(f"expected {', '.join(missing)} in the CIFAR-10 archive, got {sorted(content)}")
    names = content["batches.meta.txt"].decode().split()
    if len(names) != 10:
        raise ValueError(f"expected 10 class names in batches.meta.txt, got {len(names)}")
    splits = {}
    for split, files in _FILES.items():
        data = np.concatenate([_records(file, content[file]) for file in files])
        images = data[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        splits[split] = (np.ascontiguousarray(images), data[:, 0])
    return splits, names


def _records(file: str, content: bytes) -> np.ndarray:
    if not content or len(content) % 3073:
        raise ValueError(f"expected records of 3073 bytes in {file}, got {len(content)} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    if records[:, 0].max() > 9:
        raise ValueError(f"expected labels 0..9 in {file}, got {records[:, 0].max()}")
    return records


def _download(url: str, file: Path, sha256: str, timeout: float, progress: bool) -> None:
    """Fetches url into file and checks it. A transfer that breaks off is removed and started again."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            got = _transfer(url, file, timeout, progress)
        except (ConnectionError, http.client.HTTPException) as error:
            file.unlink(missing_ok=True)
            if attempt == _ATTEMPTS:
                raise ConnectionError(f"the download of {url} broke off {attempt} times: {error}") from error
            continue
        if got != sha256:
            size = file.stat().st_size
            raise ValueError(f"wrong checksum of {url} ({size} bytes): expected SHA-256 {sha256}, got {got}")
        return


def _transfer(url: str, file: Path, timeout: float, progress: bool) -> str:
    """Copies url to file; returns the SHA-256. Raises ConnectionError where it ends early."""
    from tqdm import tqdm

    digest = hashlib.sha256()
    received = 0
    with urllib.request.urlopen(url, timeout=timeout) as response, file.open("wb") as out:
        size = int(response.headers.get("Content-Length") or 0)
        look = {"desc": "downloading CIFAR-10", "unit": "B", "unit_scale": True}
        with tqdm(total=size or None, disable=None if progress else True, **look) as bar:
            while block := response.read(1 << 18):
                out.write(block)
                digest.update(block)
                received += len(block)
                bar.update(len(block))
    if size and received != size:
        raise ConnectionError(f"expected {size} bytes, got {received}")
    return digest.hexdigest()


def _write(folder: Path, splits: dict[str, tuple[np.ndarray, np.ndarray]], names: list[str], progress: bool) -> None:
    """Writes one array_record file per split, features.json, the label names and dataset_info.json."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image
    from tensorflow_datasets.core.example_serializer import ExampleSerializer
    from tqdm import tqdm

    image_feature = tfds.features.Image(shape=(32, 32, 3), encoding_format="png")
    features = tfds.features.FeaturesDict(
        {"id": tfds.features.Text(), "image": image_feature, "label": tfds.features.ClassLabel(names=names)}
    )
    serializer = ExampleSerializer(features.get_serialized_info())
    infos = []
    for split, (images, labels) in splits.items():
        num_bytes = 0
        file = folder / f"cifar10-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(file), "group_size:1")  # fast to read in any order
        bar = tqdm(
            zip(images, labels, strict=True), f"writing {split}", len(labels), disable=None if progress else True
        )
        for i, (image, label) in enumerate(bar):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG")
            png.seek(0)
            example = features.encode_example({"id": f"{split}_{i:05d}", "image": png, "label": int(label)})
            record = serializer.serialize_example(example)
            num_bytes += len(record)
            writer.write(record)
        writer.close()
        infos.append(
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": [str(len(labels))],
                "numBytes": str(num_bytes),
            }
        )
    features.save_config(str(folder))
    info = {
        "name": "cifar10",
        "version": _VERSION,
        "description": "60,000 colour images of 32x32 pixels in 10 classes: 50,000 train, 10,000 test.",
        "citation": "Alex Krizhevsky. Learning multiple layers of features from tiny images. 2009.",
        "location": {"urls": ["https://www.cs.toronto.edu/~kriz/cifar.html"]},
        "fileFormat": "array_record",
        "moduleName": "tensorflow_datasets.image_classification.cifar",
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}},
        "splits": infos,
    }
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 2 with one line on standard error where it fails."""
    parser = argparse.ArgumentParser("python -m rare_gems.data.prepare", description="Prepares data sets.")
    parser.add_argument("dataset", choices=["cifar10"])
    parser.add_argument("--data-dir", type=Path, help="default: $TFDS_DATA_DIR, else ~/tensorflow_datasets")
    options = parser.parse_args(arguments)
    try:
        print(cifar10(options.data_dir, progress=True))
    except (OSError, ValueError) as error:
        print(f"cannot prepare {options.dataset}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
