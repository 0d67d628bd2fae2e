"""Downloads with a checksum, and folders that are whole or not there."""

import contextlib
import hashlib
import http.client
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["download", "whole_folder"]

_ATTEMPTS = 3


def download(url: str, file: Path, sha256: str, timeout: float = 10.0, progress: bool = False) -> None:
    """Fetches url into file and checks it. A transfer that breaks off is removed and started again, twice.

    Args:
      sha256: of the content, in hexadecimal digits. timeout: seconds of silence before giving up. progress: show a bar.
    Raises:
      OSError: no connection (ConnectionError where it broke off three times), or the file cannot be written.
      ValueError: the checksum is wrong.
    """
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


def whole_folder(target: Path, is_whole: Callable[[Path], bool], fill: Callable[[Path, Path], None]) -> Path:
    """Makes the folder target unless it is whole; it appears under its name when complete.

    Where fill raises, nothing is left: neither files nor folders that were made here for them.

    Args:
      is_whole: whether a folder is complete. fill: (scratch, folder) -> None writes into folder, which is empty, and
        may use scratch, another folder, which is removed.
    Returns:
      target.
    Raises:
      ValueError: target is there, and neither whole nor empty; nothing was filled.
    """
    if is_whole(target):
        return target
    if target.is_dir() and any(target.iterdir()):
        raise ValueError(f"{target}: expected a whole data set or none, got a part; remove it, or copy it whole")
    with _made(target.parent), tempfile.TemporaryDirectory(prefix=".preparing-", dir=target.parent) as scratch:
        folder = Path(scratch) / target.name
        folder.mkdir()
        fill(Path(scratch), folder)
        try:
            folder.rename(target)
        except OSError:
            if not is_whole(target):  # else another process was faster
                raise
    return target


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes a folder and its parents; those that were not there before and are empty in the end are removed."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]  # the deepest first
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()


def _transfer(url: str, file: Path, timeout: float, progress: bool) -> str:
    """Copies url to file; returns the SHA-256. Raises ConnectionError where it ends early."""
    from tqdm import tqdm

    digest = hashlib.sha256()
    received = 0
    with urllib.request.urlopen(url, timeout=timeout) as response, file.open("wb") as out:
        size = int(response.headers.get("Content-Length") or 0)
        look = {"desc": f"downloading {file.name}", "unit": "B", "unit_scale": True}
        with tqdm(total=size or None, disable=None if progress else True, **look) as bar:
            while block := response.read(1 << 18):
                out.write(block)
                digest.update(block)
                received += len(block)
                bar.update(len(block))
    if size and received != size:
        raise ConnectionError(f"expected {size} bytes, got {received}")
    return digest.hexdigest()
