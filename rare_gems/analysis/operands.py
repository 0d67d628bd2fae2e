"""What an operation of a program is given, and what its rule returns: signals forwards, needs backwards."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Bools", "Operand", "Pull", "Ruling", "either", "numbers", "only_signals"]

Bools = Any  # arrays of NumPy, or scalars, which its functions make of arrays without axes
Pull = Callable[[list[Bools]], list[Bools | None]]
Ruling = tuple[list[Bools], Pull]


class Operand(NamedTuple):
    """value: an array; where `live` is True it means nothing. live: bool, whether an element depends on the images."""

    value: Any
    live: Bools

    def nonzero(self) -> Bools:
        """Where it is not the constant 0."""
        if not isinstance(self.value, np.ndarray | np.generic):  # keys
            return np.ones_like(self.live)
        return self.live | (self.value != 0)


def only_signals(lives: list[Bools], lives_out: list[Bools], pull: Pull) -> Pull:
    """The same pull, but a result that depends on the images needs only operands that do."""

    def only(needs: list[Bools]) -> list[Bools | None]:
        signals = [need & live for need, live in zip(needs, lives_out, strict=True)]
        others = [need & ~live for need, live in zip(needs, lives_out, strict=True)]
        found: list[Bools | None] = [None] * len(lives)
        if any(need.any() for need in signals):
            found = [one if one is None else one & live for one, live in zip(pull(signals), lives, strict=True)]
        if any(need.any() for need in others):
            found = [either(pair) for pair in zip(found, pull(others), strict=True)]
        return found

    return only


def either(bools: Sequence[Bools | None]) -> Bools | None:
    """Where any of several is True; None stands for nowhere."""
    given = [one for one in bools if one is not None]
    return None if not given else np.logical_or.reduce(given) if len(given) > 1 else given[0]


def numbers(bools: Bools) -> np.ndarray:
    """float32: 1 where True."""
    return np.asarray(bools, np.float32)
