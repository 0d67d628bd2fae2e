"""Collects the signals that ask a program to stop."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["collected"]


@contextmanager
def collected(then: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them; a second one takes its usual effect.

    Args:
      then: called after each.
    Yields:
      the numbers of the signals that came, a list that grows.
    """
    caught: list[int] = []
    before = {}

    def remember(signum: int, frame: Any) -> None:
        del frame
        caught.append(signum)
        signal.signal(signum, before[signum])
        then()

    for signum in (signal.SIGTERM, signal.SIGINT):
        before[signum] = signal.signal(signum, remember)
    try:
        yield caught
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
