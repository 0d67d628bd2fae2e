"""The ways in which a command ends without what was asked for; each is one line on standard error."""

import sysconfig
import traceback
from pathlib import Path
from typing import Any

__all__ = [
    "RESTART",
    "Busy",
    "HostLost",
    "Interrupted",
    "RunFailed",
    "UsageError",
    "described",
    "one_line",
    "place_of",
    "spell",
]

RESTART = 75  # exit status: the same command goes on
_ROOT = Path(__file__).resolve().parents[2]
_NOT_OWN = (_ROOT / "experiments", _ROOT / "rare_gems", Path(sysconfig.get_paths()["stdlib"]))


class UsageError(ValueError):
    """A mistake on the command line or in its files: exit status 2."""


class Busy(UsageError):  # noqa: N818
    """Another process works in the folder: exit status 2."""


class RunFailed(RuntimeError):  # noqa: N818
    """The training cannot go on: exit status 3."""


class Interrupted(RuntimeError):  # noqa: N818
    """A signal stopped the work after everything was saved; `args[1]` is its number. Exit status 75 or 130."""


class HostLost(RuntimeError):  # noqa: N818
    """Another process of the run is gone: exit status 75."""


def spell(error: OSError) -> str:
    """What the system says, and of which file."""
    return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")


def described(error: BaseException) -> str:
    """The type of an error in a user's own code, its message, and where in that code it arose, if it did there.

    Example:
      >>> described(AssertionError("3 channels"))
      'AssertionError: 3 channels'
    """
    message, place = one_line(error)[:300], place_of(error)
    return type(error).__name__ + (f": {message}" if message else "") + (f" ({place})" if place else "")


def place_of(error: BaseException) -> str | None:
    """The line, in code that is neither ours nor installed, that an error came from: "nets.py, line 30"."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}, line {frame.lineno}" for frame in frames if _is_own(frame.filename)]
    return places[-1] if places else None


def _is_own(file: str) -> bool:
    path = Path(file)
    installed = {"site-packages", "dist-packages"} & set(path.parts) or file.startswith("<")
    return not installed and not any(path.is_relative_to(place) for place in _NOT_OWN)


def one_line(message: Any) -> str:
    """The message without line breaks and repeated spaces.

    Example:
      >>> one_line("a message  over\\n two lines")
      'a message over two lines'
    """
    return " ".join(str(message).split())
