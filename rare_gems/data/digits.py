"""The digits of scikit-learn, which come inside its package."""

import importlib.util
from pathlib import Path

import numpy as np

from rare_gems.data.dataset import Dataset, Split, divide

__all__ = ["digits"]


def digits() -> Dataset:
    """The 1,797 handwritten digits of 8x8 pixels inside scikit-learn: 1,437 train and 360 test images.

    Grey values 0..16 become 0..255. The test split has 36 images of each digit, the same on every machine.
    Deviation: scikit-learn defines no split; this one ignores who wrote a digit.

    Returns:
      images uint8 [N, 8, 8, 1]; no flip (a mirrored digit is none), crops after padding by 1 pixel.

    Example:
      >>> digits().train.images.shape
      (1437, 8, 8, 1)
    """
    grey, labels = _grey_and_labels()
    images = np.rint(grey * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    test, train = divide(Split(images, labels.astype(np.int32)), 360, 10, seed=0)
    pixels = np.asarray(train.images) / 255
    mean, std = (round(float(pixels.mean()), 6),), (round(float(pixels.std()), 6),)  # equal on all machines
    return Dataset(
        name="digits",
        train=train,
        test=test,
        validation=None,
        num_classes=10,
        mean=mean,
        std=std,
        crop_padding=1,
        flip=False,
        note="",
    )


def _grey_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Values 0..16 [N, 64] and labels [N], from the file itself: scikit-learn takes a second to import."""
    found = importlib.util.find_spec("sklearn")
    file = Path((found and found.origin) or "").parent / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():  # not installed, or moved
        import sklearn.datasets

        grey, labels = sklearn.datasets.load_digits(return_X_y=True)
        return np.asarray(grey), np.asarray(labels)
    rows = np.loadtxt(file, delimiter=",")
    return rows[:, :-1], rows[:, -1]
