"""Image-folder data sets: a folder of images for each class, decoded by all cores once and cached."""

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rare_gems.data import image_form
from rare_gems.data.array_cache import cache_folder, save_arrays
from rare_gems.data.dataset import Dataset, Split
from rare_gems.data.decode import usable_cores
from rare_gems.data.folder_scan import ImageFolder, Listing, identity, scan
from rare_gems.data.image_file import without_warnings
from rare_gems.data.image_form import Form, check_classes, find_form, refusal
from rare_gems.data.image_modes import UnusableImage

__all__ = ["DecodedFolder", "ImageFolder", "Listing", "decode", "image_shape", "load", "scan"]

_BLOCK = 32  # files that one thread decodes at a time
_MAX_THREADS = 16
_PIXELS = 1 << 16  # pixels summed at a time


class DecodedFolder(NamedTuple):
    """splits: by name. mean, std: of the training images, per channel. skipped: "path: why" for each file."""

    splits: dict[str, Split]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: tuple[str, ...]


def load(
    folder: str | Path,
    *,
    image_size: int | None = None,
    skip_broken: bool = False,
    crop_padding: int | None = None,
    flip: bool = True,
    max_bytes: int = 8_000_000_000,
    cache_dir: str | Path | None = None,
    progress: bool = False,
) -> tuple[Dataset, tuple[str, ...]]:
    """A data set of the images in train/CLASS/, test/CLASS/ and val/CLASS/ (see `scan`).

    The modules `image_file` and `image_modes` have what is read, converted and refused. The decoded images are cached
    in one file for each folder and image_size, made anew when a file's path, size or time changes.

    Args:
      image_size: N: the shorter side of every image is resized to N pixels (bilinear, antialiased) and the
        central N x N are kept. None: images keep their size, of which there must be one. In both cases grey
        training images among ones in colour become colour.
      skip_broken: leave out files that cannot be read, are refused or (by the first good training image) have
        another size, instead of raising.
      crop_padding: pixels padded before a random crop; None: an eighth of the shorter side (4 at 32).
      flip: mirror images are the same class. max_bytes: of all decoded images.
      cache_dir: None: $XDG_CACHE_HOME/rare_gems, else ~/.cache/rare_gems. progress: show a bar.
    Returns:
      (data set, files left out as "path: why"): images uint8 [N, H, W, C], C = 1 where all training images
      are grey, else 3 (RGB). mean and std are those of the training images, to 6 digits.
    Raises:
      ValueError: the folder has another layout, an image cannot be used, or the images exceed max_bytes.
    """
    if crop_padding is not None and crop_padding < 0:
        raise ValueError(f"expected a crop_padding of 0 pixels or more, got {crop_padding}")
    folder = Path(folder).expanduser()
    found = scan(folder)
    listings = {"train": found.train, "test": found.test}
    if found.validation is not None:
        listings["validation"] = found.validation
    splits, mean, std, skipped = decode(
        folder,
        found.classes,
        listings,
        image_size=image_size,
        skip_broken=skip_broken,
        max_bytes=max_bytes,
        cache_dir=cache_dir,
        progress=progress,
    )
    if crop_padding is None:
        crop_padding = min(splits["train"].images.shape[1:3]) // 8
    classes, validation = len(found.classes), splits.get("validation")
    dataset = Dataset(
        name="folder",
        train=splits["train"],
        test=splits["test"],
        validation=validation,
        num_classes=classes,
        mean=mean,
        std=std,
        crop_padding=crop_padding,
        flip=flip,
        note="",
    )
    return dataset, skipped


def image_shape(
    folder: str | Path | ImageFolder, image_size: int | None = None, skip_broken: bool = False
) -> tuple[int, int, int]:
    """(height, width, channels) that `load` would give, from the first training image.

    Where that is grey, the headers of the next ones are read up to one in colour.

    Raises:
      ValueError: the folder has another layout, or the first image (with skip_broken: every one) is unusable.
    """
    found = folder if isinstance(folder, ImageFolder) else scan(folder)
    with without_warnings():
        return find_form(found.train.files, image_size, False, skip_broken).shape


def decode(
    folder: Path,
    classes: Sequence[str],
    listings: Mapping[str, Listing],
    *,
    image_size: int | None = None,
    rgb: bool = False,
    skip_broken: bool = False,
    max_bytes: int = 8_000_000_000,
    cache_dir: str | Path | None = None,
    progress: bool = False,
) -> DecodedFolder:
    """Decodes listed images (see `load`) on all cores, or reads the cached result of an earlier call.

    The cache is written under another name and renamed; it is passed over where it is damaged or cannot be
    read or written.

    Args:
      folder: names the cache. listings: "train" and others. rgb: grey images become colour, even if all are.
    """
    from tqdm import tqdm

    total = sum(len(listing.files) for listing in listings.values())
    key = identity(listings, image_size, rgb)
    place = hashlib.sha256(os.fsencode(folder.resolve()) + f"\0{image_size}\0{rgb}".encode()).hexdigest()[:16]
    cache = cache_folder(cache_dir) / f"folder-{place}.npz"
    stored = _read(cache, key, list(listings))
    if stored is not None and (skip_broken or not stored.skipped):
        _check_bytes(total, stored.splits["train"].images.shape[1:], max_bytes)
        return stored
    splits, skipped = {}, []
    look = {"desc": f"decoding {folder.name}", "unit": "image", "disable": None if progress else True}
    with without_warnings(), tqdm(total=total, **look) as bar:
        form = find_form(listings["train"].files, image_size, rgb, skip_broken)
        _check_bytes(total, form.shape, max_bytes)
        for name, listing in listings.items():
            splits[name], broken = _decode(listing, form, skip_broken, bar)
            check_classes(name, classes, listing.labels, broken)
            skipped += [text for _, text in broken]
    decoded = DecodedFolder(splits, *_moments(np.asarray(splits["train"].images)), tuple(skipped))
    # Rights and disks are mended without a change of size or time: such files are tried again each time.
    if not any(": cannot be read (" in text for text in skipped):
        with contextlib.suppress(OSError):  # a read-only or full disk: decode again next time
            _save(cache, key, decoded)
    return decoded


def _decode(listing: Listing, form: Form, skip_broken: bool, bar: Any) -> tuple[Split, list[tuple[int, str]]]:
    """Threads do: Pillow decodes and resizes without the GIL. At 64 x 64 pixels they gain nothing, nor lose much."""
    files = listing.files
    images = np.empty((len(files), *form.shape), np.uint8)

    def some(begin: int) -> list[tuple[int, str]]:
        broken = []
        for i in range(begin, min(begin + _BLOCK, len(files))):
            try:
                images[i] = image_form.read_image(files[i], form)  # a grey image into every channel
            except UnusableImage as error:
                if not skip_broken:
                    raise ValueError(refusal(files[i], error)) from error
                broken.append((i, f"{files[i]}: {error.args[0]}"))
        return broken

    broken = []
    with ThreadPoolExecutor(min(usable_cores(), _MAX_THREADS)) as pool:
        try:
            begins = range(0, len(files), _BLOCK)
            for begin, part in zip(begins, [pool.submit(some, begin) for begin in begins], strict=True):
                broken += part.result()  # in order: the first broken file is the one that is named
                bar.update(min(_BLOCK, len(files) - begin))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    kept = np.delete(np.arange(len(files)), [i for i, _ in broken])
    if broken:
        for to, i in enumerate(kept):  # in place: a copy might not fit
            images[to] = images[i]
    return Split(images[: len(kept)], listing.labels[kept]), broken


def _moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel of values in [0, 1], to 6 digits, equal on all machines: the sums are exact."""
    channels = images.shape[-1]
    flat = images.reshape(-1, channels)
    sums, squares = [0] * channels, [0] * channels
    for begin in range(0, len(flat), _PIXELS):
        for channel in range(channels):
            values = flat[begin : begin + _PIXELS, channel].astype(np.float64)
            sums[channel] += int(values.sum())
            squares[channel] += int(np.square(values, out=values).sum())  # a dot product would start BLAS threads
    count = len(flat)
    mean = tuple(round(total / count / 255, 6) for total in sums)
    deviations = (
        (count * square - total * total) ** 0.5 / count / 255 for total, square in zip(sums, squares, strict=True)
    )
    return mean, tuple(round(value, 6) or 1.0 for value in deviations)  # a constant channel becomes 0, not NaN


def _check_bytes(count: int, shape: tuple[int, ...], max_bytes: int) -> None:
    total = count * int(np.prod(shape))
    if total > max_bytes:
        size = f"{count} images of {shape[1]}x{shape[0]} pixels take {total / 1e9:.3g} GB of memory"
        ways = "make them smaller with --image-size N, or stream them from disk with --stream"
        raise ValueError(f"{size}; expected at most {max_bytes / 1e9:.3g} GB: {ways}")


def _read(file: Path, key: str, names: Sequence[str]) -> DecodedFolder | None:
    try:
        # np.load, given a name, leaves the file open when it is damaged. A damaged array fails its CRC.
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            mean, std, skipped = (tuple(stored[name].tolist()) for name in ("mean", "std", "skipped"))
            splits = {name: Split(stored[f"{name}_images"], stored[f"{name}_labels"]) for name in names}
            return DecodedFolder(splits, mean, std, skipped)
    except Exception:  # absent, or damaged in one of many ways
        return None


def _save(file: Path, key: str, decoded: DecodedFolder) -> None:
    arrays = {"key": np.array(key), "mean": np.array(decoded.mean), "std": np.array(decoded.std)}
    arrays["skipped"] = np.array(decoded.skipped, dtype=np.str_)
    for name, split in decoded.splits.items():
        arrays |= {f"{name}_images": np.asarray(split.images), f"{name}_labels": np.asarray(split.labels)}
    save_arrays(file, arrays)
