"""Comparing runs over seeds: is a ticket better than what a sanity check made of it? Needs SciPy."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

__all__ = ["Drop", "check_runs", "interval", "paired_drop", "verdict"]


class Drop(NamedTuple):
    """A mean over `n` seeds, and the interval from `low` to `high` (None where one seed says nothing about the spread);
    of `paired_drop`: how much accuracy a check costs, in fractions."""

    mean: float
    low: float | None
    high: float | None
    n: int


def paired_drop(real: Sequence[float], checked: Sequence[float], confidence: float = 0.95) -> Drop:
    """mean(d) +- t * std(d) / sqrt(n) with d = real - checked for each seed, t Student's with n - 1 degrees.

    Args:
      real, checked: accuracies (fractions) of the ticket and of the checked one, n each, in the same order of seeds.
      confidence: of the two-sided interval, in (0, 1).
    Returns:
      mean, low and high; positive where the check costs accuracy. Equal drops give an interval of length 0.
    Raises:
      ValueError: no seeds, other counts, a number that is not finite, or a confidence out of range.
    Example:
      >>> drop = paired_drop([0.80, 0.82, 0.81], [0.70, 0.74, 0.71])
      >>> [round(x, 4) for x in drop[:3]]
      [0.0933, 0.0646, 0.122]

    Source: Student's paired interval, as `scipy.stats.ttest_rel(...).confidence_interval`.
    """
    if len(real) != len(checked) or not len(real):
        raise ValueError(f"expected as many seeds in both, and at least one, got {len(real)} and {len(checked)}")
    if not all(math.isfinite(x) for x in (*real, *checked)):
        raise ValueError(f"expected finite accuracies, got {list(real)} and {list(checked)}")
    return interval([float(a) - float(b) for a, b in zip(real, checked, strict=True)], confidence)


def interval(values: Sequence[float], confidence: float = 0.95) -> Drop:
    """mean(v) +- t * std(v) / sqrt(n), t Student's with n - 1 degrees.

    Args:
      values: n of them, one for each seed. confidence: of the two-sided interval, in (0, 1).
    Returns:
      mean, low and high (None where n is 1), n.
    Raises:
      ValueError: no values, one that is not finite, or a confidence out of range.
    Example:
      >>> [round(x, 4) for x in interval([0.80, 0.82, 0.81])[:3]]
      [0.81, 0.7852, 0.8348]

    Source: Student's interval, as `scipy.stats.ttest_1samp(...).confidence_interval`.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a fraction in (0, 1), got {confidence}")
    if not len(values) or not all(math.isfinite(value) for value in values):
        raise ValueError(f"expected at least one value, all finite, got {list(values)}")
    n, values = len(values), [float(value) for value in values]
    mean = statistics.mean(values)  # exact, so that equal values have no spread
    if n == 1:
        return Drop(mean, None, None, 1)

    from scipy import stats  # slow to import

    spread = statistics.stdev(values) / math.sqrt(n)
    reach = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * spread
    return Drop(mean, mean - reach, mean + reach, n)


def verdict(drop: Drop, margin: float = 0.01) -> Literal["passes", "fails", "undecided"]:
    """Whether a ticket passes a check: it must lose by it.

      passes     low > 0: the check costs accuracy, so what it destroyed mattered
      fails      not that, and high < margin: a cost of `margin` or more is ruled out
      undecided  the interval holds both, or there is one seed

    Args:
      drop: of `paired_drop`. margin: the smallest cost that matters, a fraction (0.01 is one point), 0 or more.
    Raises:
      ValueError: a margin below 0 or not finite.
    Example:
      >>> verdict(Drop(0.05, 0.03, 0.07, 3)), verdict(Drop(0.0, -0.004, 0.004, 3)), verdict(Drop(0.05, None, None, 1))
      ('passes', 'fails', 'undecided')

    Source: Rare Gems, section 4, which calls a drop significant by eye; interval and margin are choices made here.
    """
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin: expected a fraction of 0 or more, got {margin}")
    if drop.low is None or drop.high is None:
        return "undecided"
    if drop.low > 0:
        return "passes"
    return "fails" if drop.high < margin else "undecided"


def check_runs(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError unless there are pruned runs, one of each pruner, sparsity in [0, 1) and seed.

    Args:
      rows: {"pruner", "sparsity", "seed", ...} for each run; the sparsity of a pruner "dense" does not matter.
    """
    if all(row["pruner"] == "dense" for row in rows):
        raise ValueError(f"rows: expected runs of at least one pruner beside 'dense', got {len(rows)} rows")
    runs = [(row["pruner"], row["sparsity"], row["seed"]) for row in rows]
    twice = [run for run in dict.fromkeys(runs) if runs.count(run) > 1]
    if twice:
        raise ValueError(f"rows: expected one run of each (pruner, sparsity, seed), got more of {twice}")
    bad = [run for run in runs if run[0] != "dense" and not 0 <= run[1] < 1]
    if bad:
        raise ValueError(f"rows: expected sparsities in [0, 1), got {bad}")
