"""Does our number agree with the one that a paper prints? One rule for all kinds of numbers. Needs SciPy."""

import math
import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

from rare_gems.reports import verdicts

__all__ = ["Agreement", "Verdict", "agreement"]

Verdict = Literal["reproduced", "below", "above", "undecided"]

_WIDEST = 10  # margins: seeds that leave our mean more open than this reproduce nothing


class Agreement(NamedTuple):
    """Our seeds beside a paper's number, all in the unit that the paper prints.

    `mean`, `std` and `n` of our seeds (std None with fewer than two), `difference` = mean - paper, `noise` (None where
    std is, and for an exact number), `in_noise` = difference / noise (None where noise is None or 0), the verdict, and
    `why` in a few words.
    Mean and difference are None without seeds, verdict and difference without a number of the paper.
    """

    mean: float | None
    std: float | None
    n: int
    difference: float | None
    noise: float | None
    in_noise: float | None
    verdict: Verdict | None
    why: str


def agreement(
    paper: float | None,
    ours: Sequence[float | None],
    error: float | None = None,
    margin: float = 0.5,
    confidence: float = 0.95,
    exact: bool = False,
) -> Agreement:
    """Compares d = mean(ours) - paper with the noise sqrt(s^2 + e^2).

    s is the sample standard deviation of our n seeds, e the error that the paper prints, whatever it is there (a
    standard deviation, or the distance to the smallest or largest sample); an error that is not printed adds nothing.
    So the noise is that of one run of ours against one of the paper's; it does not shrink with more seeds. With more
    seeds we know our mean better, to within `reach` = t s / sqrt(n), half of Student's interval:

      reproduced  |d| <= max(noise, margin), and reach <= 10 margins
      below       |d| above both, and above sqrt(reach^2 + e^2) too, with our mean below the paper's number
      above       the same, with our mean above it
      undecided   all else: fewer than two seeds, or too few of them to tell

    Args:
      paper: the number printed, or None if the paper prints none (a curve): no verdict then.
      ours: a value for each seed, None where a run has none.
      error: what the paper prints behind the ±, 0 or more.
      margin: a difference that does not matter, in the unit of the numbers: half a point for accuracies in percent.
      confidence: of Student's interval, in (0, 1).
      exact: the number has no noise (epochs, weights kept): one value suffices, and only equal ones reproduce it.
    Raises:
      ValueError: a number that is not finite, an error or a margin below 0, or a confidence out of range.
    Example:
      >>> ours = agreement(77.89, [77.2, 78.1, 77.5])
      >>> f"{ours.difference:.2f} points, {ours.in_noise:.2f} times the noise: {ours.verdict}, {ours.why}"
      '-0.29 points, -0.63 times the noise: reproduced, within 0.5'
      >>> agreement(77.89, [70.2, 71.1, 70.5]).verdict, agreement(77.89, [77.9]).verdict
      ('below', 'undecided')

    Source: none; a choice made here. Student's interval is that of `verdicts.paired_drop`.
    """
    numbers = [float(value) for value in ours if value is not None]
    checked = [*numbers, *(value for value in (paper, error, margin) if value is not None)]
    if not all(math.isfinite(value) for value in checked):
        raise ValueError(f"expected finite numbers, got paper {paper}, error {error}, margin {margin}, ours {numbers}")
    if (error or 0) < 0 or margin < 0:
        raise ValueError(f"expected an error and a margin of 0 or more, got {error} and {margin}")
    n, mean = len(numbers), statistics.mean(numbers) if numbers else None  # exact: equal numbers have no noise
    interval = verdicts.interval(numbers, confidence) if n > 1 else None
    std = statistics.stdev(numbers) if n > 1 else None
    if paper is None or mean is None:
        why = "the paper prints no number" if paper is None else "no runs" if not ours else "no run has this number"
        return Agreement(mean, std, n, None, None, None, None if paper is None else "undecided", why)

    difference, printed = mean - float(paper), float(error or 0)
    noise = None if std is None or exact else math.hypot(std, printed)
    in_noise = difference / noise if noise else None
    if exact:
        same = all(math.isclose(number, paper) for number in numbers)
        apart: Verdict = "below" if difference < 0 else "above"
        verdict = "reproduced" if same else "undecided" if math.isclose(mean, paper) else apart
        why = "an exact number"
    elif noise is None or interval is None or interval.high is None:
        verdict, why = "undecided", f"1 seed, {'' if _within(difference, margin) else 'not '}within {margin:.3g}"
    else:
        reach = interval.high - interval.mean
        verdict, why = _with_noise(difference, noise, margin, reach, printed)
    return Agreement(mean, std, n, difference, noise, in_noise, verdict, why)


def _with_noise(difference: float, noise: float, margin: float, reach: float, error: float) -> tuple[Verdict, str]:
    if _within(difference, max(noise, margin)):
        if not _within(reach, _WIDEST * margin):
            return "undecided", f"our mean is known to ±{reach:.2g} only"
        return "reproduced", f"within {margin:.3g}" if _within(difference, margin) else "within noise"
    far = math.hypot(reach, error)
    verdict = _decide(difference, max(noise, margin), far)
    return verdict, "too few seeds" if verdict == "undecided" else f"beyond noise and {margin:.3g}"


def _decide(difference: float, allowed: float, far: float) -> Verdict:
    if _within(difference, allowed):
        return "reproduced"
    if _within(difference, far):
        return "undecided"
    return "below" if difference < 0 else "above"


def _within(difference: float, limit: float) -> bool:
    return abs(difference) <= limit + 1e-9  # 77.39 - 77.89 is half a point
