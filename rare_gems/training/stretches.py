"""Stretches of steps from round to round: what happens between them, and in which pieces they are scanned."""

import bisect
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rare_gems import rounds
from rare_gems.phase import Phase

__all__ = ["Stretches", "lengths_of", "stretches_of"]


class Stretches(NamedTuple):
    """A phase's steps in stretches: once each of `stops` steps are done, `take(carry, done) -> carry` is called.

    `lengths` are those of scanned pieces, the longest first: few, since each is compiled.
    """

    stops: tuple[int, ...]
    take: Callable[[Any, int], Any]
    lengths: tuple[int, ...]

    def piece(self, done: int, target: int) -> int:
        """How many steps to scan next, of those to the next stop, or to `target`."""
        at = bisect.bisect_right(self.stops, done)
        left = min([target, *self.stops[at : at + 1]]) - done
        return next((length for length in self.lengths if length <= left), left)


def stretches_of(phases: Sequence[Phase], num_batches: int, take_round: Callable, *, many: bool = False) -> Stretches:
    """The stretches of a phase, or of the phases that many runs train at once, one for each.

    Args:
      num_batches: steps in an epoch, at whose end a stretch ends too. many: whether the carry is one of many runs.
      take_round: (carry, given, due) -> carry, of the first of the phases. Of several phases whose rounds are not at
        the same steps, `due` is bool [runs]: which of the runs have one; and what another is given is of no effect.
    Raises:
      ValueError: as `rounds.check`; and if some of several phases have rounds, others none.
    """
    for phase in phases:
        rounds.check(phase)
    plans = [phase.rounds for phase in phases if phase.rounds is not None]
    if plans and len(plans) != len(phases):
        raise ValueError(f"variants: expected rounds in all of the phases {phases[0].name!r} or in none of them")
    tables = [{done: r for r, done in enumerate(plan.steps)} for plan in plans]
    stops = tuple(sorted(set().union(*tables)))
    alike = all(table == tables[0] for table in tables)

    def take(carry: Any, done: int) -> Any:
        rows = [rounds.given(plan, table[done]) if done in table else None
                for plan, table in zip(plans, tables, strict=True)]  # fmt: skip
        if not many:
            return take_round(carry, rows[0], None)
        due = np.array([done in table for table in tables])
        some = rows[int(np.argmax(due))]
        rows = [row if has else some for row, has in zip(rows, due, strict=True)]
        given = jax.tree.map(lambda *numbers: np.stack(numbers), *rows)
        return take_round(carry, given, None if alike else due)

    return Stretches(stops, take, lengths_of(stops, phases[0].num_steps, num_batches))


def lengths_of(stops: Sequence[int], num_steps: int, num_batches: int, most: int = 4) -> tuple[int, ...]:
    """The lengths of pieces into which stretches are cut where they are scanned, the longest first.

    Args:
      stops: rising, in steps done. num_steps: of the phase. num_batches: of an epoch, whose end is a stop too.
      most: how many lengths there may be.
    Returns:
      those of the stretches; if these are more than `most`, the longest, the most frequent, its square root, and 1.
    Example:
      >>> lengths_of((), 12, 5), lengths_of(range(2, 13, 2), 12, 6), lengths_of(range(100, 3001, 100), 4000, 391)
      ((5, 2), (2,), (391, 100, 10, 1))
    """
    ends = sorted({*stops, *range(num_batches, num_steps, num_batches), num_steps})
    counts = Counter(end - start for start, end in zip([0, *ends], ends, strict=False) if end > start)
    lengths = set(counts)
    if len(lengths) > most:
        usual = max(lengths, key=lambda length: (counts[length], length))
        lengths = {max(lengths), usual, math.isqrt(usual), 1}
    return tuple(sorted(lengths, reverse=True))
