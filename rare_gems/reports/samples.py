"""Rows as points of a line: the number on an axis, and means over seeds with their spread."""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np

from rare_gems.reports.style import Row

__all__ = ["Axis", "Points", "Spread", "number_of", "summarize"]

Spread = Literal["std", "range"]


class Axis(NamedTuple):
    """What stands on an axis: the rows' `key`, a label, a scale, whether the rows hold fractions to be shown in
    percent, and whether a line breaks at an x without a value (`gaps`). The scale "sparsity" is -log(1 - sparsity),
    "log" has a place for 0."""

    key: str
    label: str
    scale: Literal["linear", "log", "sparsity"] = "linear"
    percent: bool = False
    gaps: bool = True


class Points(NamedTuple):
    """A line: `x`, `mean`, `low` and `high` (NaN where one value says nothing of the spread), `n` values at each x."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray


def number_of(row: Row, axis: Axis) -> float:
    """The row's number on the axis, in percent where the axis is; NaN for None, "" and what is absent.

    Example:
      >>> axis = Axis("after", "Accuracy (%)", percent=True)
      >>> number_of({"after": 0.5}, axis), number_of({"after": ""}, axis)
      (50.0, nan)
    """
    value = row.get(axis.key)
    if value is None or value == "":
        return math.nan
    return float(value) * (100 if axis.percent else 1)


def summarize(rows: Iterable[Row], x: Axis, y: Axis, spread: Spread = "std") -> Points:
    """The mean over rows of one x, with mean ± standard deviation (ddof = 1), or the smallest and largest value.

    Rows without x are left out; an x of which no row has a y is a gap (NaN), or left out too where x has no `gaps`.

    Example:
      >>> rows = [{"sparsity": 0.9, "after": value} for value in (0.5, 0.7)]
      >>> points = summarize(rows, Axis("sparsity", ""), Axis("after", "", percent=True), "range")
      >>> points.mean.tolist(), points.low.tolist(), points.n.tolist()
      ([60.0], [50.0], [2])
    """
    cells: dict[float, list[float]] = {}
    for row in rows:
        place, value = number_of(row, x), number_of(row, y)
        if math.isfinite(place):
            cells.setdefault(place, []).extend([value] if math.isfinite(value) else [])
    places = sorted(place for place, values in cells.items() if values or x.gaps)
    mean, low, high = (np.full(len(places), np.nan) for _ in range(3))
    for i, place in enumerate(places):
        values = cells[place]
        if values:
            mean[i] = np.mean(values)
        if len(values) > 1 and spread == "std":
            std = np.std(values, ddof=1)
            low[i], high[i] = mean[i] - std, mean[i] + std
        elif len(values) > 1:
            low[i], high[i] = min(values), max(values)
    return Points(np.array(places, float), mean, low, high, np.array([len(cells[place]) for place in places], int))
