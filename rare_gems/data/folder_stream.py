"""An image folder that is read while training runs; the same files, conversions and refusals as in `folder`."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rare_gems.data.decode import usable_cores
from rare_gems.data.folder_scan import ImageFolder, Listing, scan
from rare_gems.data.image_file import check, without_warnings
from rare_gems.data.image_form import check_classes, refusal
from rare_gems.data.image_modes import UnusableImage
from rare_gems.data.imagenet import MEAN, STD
from rare_gems.data.streamed_dataset import Examples, Streamed, from_listing

__all__ = ["checked", "load_stream"]


def load_stream(
    folder: str | Path | ImageFolder, *, image_size: int = 224, skip_broken: bool = False
) -> tuple[Streamed, tuple[str, ...]]:
    """The images of a folder (see `folder_scan.scan`), to be read by `stream_batches`.

    Grey images become colour. All files are looked at first, most of them without decoding (see `image_file.check`).

    Args:
      image_size: pixels of a side after the crop.
      skip_broken: leave out files that cannot be read or are refused, rather than raise.
    Returns:
      (the data set, with the mean and deviation of ImageNet; files left out as "path: why").
    Raises:
      ValueError: the folder has another layout, or an image cannot be used (with skip_broken: no image of a class).
    """
    found = folder if isinstance(folder, ImageFolder) else scan(folder)
    listings = {"train": found.train, "test": found.test}
    if found.validation is not None:
        listings["validation"] = found.validation
    splits, skipped = {}, ()
    for name, listing in listings.items():
        splits[name], broken = checked(listing, found.classes, name, skip_broken)
        skipped += broken
    streamed = Streamed(
        name="folder",
        train=splits["train"],
        test=splits["test"],
        validation=splits.get("validation"),
        num_classes=len(found.classes),
        mean=MEAN,
        std=STD,
        image_size=image_size,
        note="",
    )
    return streamed, skipped


def checked(
    listing: Listing, classes: Sequence[str], split: str = "train", skip_broken: bool = False
) -> tuple[Examples, tuple[str, ...]]:
    """The images of a listing, once all files were looked at.

    Args:
      classes, split: names. skip_broken: leave out what cannot be used, rather than raise.
    Returns:
      (the images, "path: why" for each one left out).
    Raises:
      ValueError: for the first file that cannot be used, or if none of a class is left.
    """

    def wrong(path: Path) -> UnusableImage | None:
        try:
            check(path)
        except UnusableImage as error:
            return error
        return None

    with without_warnings(), ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(wrong, listing.files))
    broken = []
    for i, (path, error) in enumerate(zip(listing.files, found, strict=True)):
        if error is not None:
            if not skip_broken:
                raise ValueError(refusal(path, error)) from error
            broken.append((i, f"{path}: {error.args[0]}"))
    check_classes(split, classes, listing.labels, broken)
    kept = np.delete(np.arange(len(found)), [i for i, _ in broken])
    examples = from_listing([listing.files[i] for i in kept], listing.labels[kept])
    return examples, tuple(text for _, text in broken)
