"""Files that are whole or not there: written under another name in the same folder, then renamed."""

import contextlib
import os
import secrets
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Replaces a file by `data`, or leaves it as it was.

    Raises:
      OSError: naming `path`, where it can't be written (no folder, read-only, disk full); nothing is left behind.
    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write_whole(Path(folder) / "a", b"xyz")
      ...     (Path(folder) / "a").read_bytes()
      b'xyz'
    """
    path = Path(path)
    # Threads have one process number, and so may processes of several machines or containers.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
