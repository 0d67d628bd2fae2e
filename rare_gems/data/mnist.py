"""MNIST: read from a folder of TFDS, and prepared for it without TensorFlow, from its four idx files (a header of
big-endian integers, then bytes).

Deviation from TFDS's own builder, which needs TensorFlow: records stay in the order of the files.
"""

import gzip
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rare_gems.data.dataset import Dataset
from rare_gems.data.download import download, whole_folder
from rare_gems.data.tfds_read import default_data_dir, read_splits
from rare_gems.data.tfds_write import About, Labelled, is_prepared, write

__all__ = ["MNIST_SHA256", "MNIST_URL", "mnist", "parse_idx", "prepare_mnist"]

MNIST_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}

_ABOUT = About(
    name="mnist",
    version="3.0.1",
    module="tensorflow_datasets.image_classification.mnist",
    description="70,000 grey images of 28x28 pixels, handwritten digits: 60,000 train, 10,000 test.",
    citation="Yann LeCun, Corinna Cortes and CJ Burges. MNIST handwritten digit database. 2010.",
    homepage="http://yann.lecun.com/exdb/mnist/",
)


def prepare_mnist(
    data_dir: str | Path | None = None,
    *,
    url: str = MNIST_URL,
    sha256: Mapping[str, str] = MNIST_SHA256,
    timeout: float = 10.0,
    progress: bool = False,
) -> Path:
    """Downloads and prepares MNIST, unless data_dir has it already.

    The folder appears under its name only when complete; a failed run leaves nothing behind.

    Args:
      data_dir: the folder of TFDS data sets; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
      url: of the folder of the four files, ending in a slash. sha256: their names, as in `MNIST_SHA256`, and checksums.
      timeout: seconds of silence before giving up. progress: show bars.
    Returns:
      the prepared folder, data_dir/mnist/3.0.1.
    Raises:
      OSError: no connection, or the folder cannot be written.
      ValueError: a checksum is wrong or a file is damaged.
    """
    data_dir = default_data_dir() if data_dir is None else Path(data_dir).expanduser()

    def fill(scratch: Path, folder: Path) -> None:
        for file, digest in sha256.items():
            download(url + file, scratch / file, digest, timeout, progress)
        splits = {split: _split(scratch, prefix) for split, prefix in (("train", "train"), ("test", "t10k"))}
        write(folder, _ABOUT, splits, {"label": list("0123456789")}, with_id=False, progress=progress)

    return whole_folder(data_dir / _ABOUT.name / _ABOUT.version, is_prepared, fill)


def parse_idx(file: Path, dimensions: int) -> np.ndarray:
    """Reads an idx file of unsigned bytes, compressed by gzip or not.

    Args:
      dimensions: of the array, 3 for images [N, H, W] and 1 for labels [N].
    Returns:
      uint8, read-only.
    Raises:
      ValueError: the file is missing, empty, cut off or damaged, or is another kind of file.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}); expected an idx file") from error
    if not content:
        raise ValueError(f"empty file {file.name}; expected an idx file")
    try:
        content = content if content.startswith(b"\0\0") else gzip.decompress(content)
    except (EOFError, zlib.error, OSError) as error:
        raise ValueError(f"damaged file {file.name}: {error}") from error
    begin = 4 * (1 + dimensions)
    magic = 0x800 + dimensions  # 8: unsigned bytes
    if len(content) < begin or content[:4] != struct.pack(">I", magic):
        raise ValueError(f"expected an idx file that begins with {magic:08x} in {file.name}, got {content[:4].hex()}")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    size = int(np.prod(shape, dtype=object))
    if len(content) != begin + size:
        raise ValueError(f"expected {size} bytes for shape {shape} in {file.name}, got {len(content) - begin}")
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)


def _split(folder: Path, prefix: str) -> Labelled:
    images = parse_idx(folder / f"{prefix}-images-idx3-ubyte.gz", 3)
    labels = parse_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", 1)
    if not len(images) or images.shape[1:] != (28, 28):
        raise ValueError(f"expected images of 28x28 pixels in {prefix}-images-idx3-ubyte.gz, got shape {images.shape}")
    if len(images) != len(labels):
        raise ValueError(f"expected {len(images)} labels in {prefix}-labels-idx1-ubyte.gz, got {len(labels)}")
    if labels.max() > 9:
        raise ValueError(f"expected labels 0..9 in {prefix}-labels-idx1-ubyte.gz, got {labels.max()}")
    return Labelled(images[..., None], {"label": labels})


def mnist(data_dir: str | Path | None = None, cache_dir: str | Path | None = None, progress: bool = False) -> Dataset:
    """MNIST, 60,000 train and 10,000 test images of handwritten digits; otherwise as `cifar10`.

    Args:
      data_dir, cache_dir, progress: as for `cifar10`.
    Returns:
      images uint8 [N, 28, 28, 1]; no crop, no flip; note "JPEG" where the copy was re-encoded with loss.
    Raises:
      DataUnavailable: (a ValueError) there is no copy in data_dir and it cannot be downloaded.
      ValueError: a record file is damaged.
    """
    train, test, note = read_splits("mnist", "MNIST", (28, 28, 1), prepare_mnist, data_dir, cache_dir, progress)
    return Dataset(
        name="mnist",
        train=train,
        test=test,
        validation=None,
        num_classes=10,
        mean=(0.1307,),
        std=(0.3081,),
        crop_padding=0,
        flip=False,
        note=note,
    )
