"""The ways in which a command ends without what was asked for; each is one line on standard error."""

from typing import Any

__all__ = ["RESTART", "Busy", "HostLost", "Interrupted", "RunFailed", "UsageError", "one_line", "spell"]

RESTART = 75  # exit status: the same command goes on


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


def one_line(message: Any) -> str:
    """The message without line breaks and repeated spaces.

    Example:
      >>> one_line("a message  over\\n two lines")
      'a message over two lines'
    """
    return " ".join(str(message).split())
