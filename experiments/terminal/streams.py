"""Output whose reader has left, as `head` does: the command goes on, and what is still to be printed goes nowhere."""

import io
import os
import sys
from typing import Any

__all__ = ["outlast_readers"]


class _Lasting(io.FileIO):
    """A descriptor to write to; once nobody reads it any more, the same number leads to nowhere."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)


def outlast_readers() -> None:
    """Replaces standard output and standard error by such that never end a command, whoever stops reading them.

    Without it the next line of a training ends it, in the middle, and libraries that print have statuses of their own.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not stream.closed:
            stream.flush()
            raw = _Lasting(stream.fileno(), "w", closefd=False)
            lasting = io.TextIOWrapper(
                io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors,
                line_buffering=stream.line_buffering, write_through=stream.write_through,
            )  # fmt: skip
            setattr(sys, name, lasting)
