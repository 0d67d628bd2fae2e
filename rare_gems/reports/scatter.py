"""Accuracy before against after finetuning."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rare_gems.reports import samples
from rare_gems.reports.style import PathLike, Row, caption, look, new_figure, plain, save, title_of, wrapped

__all__ = ["plot"]

_BEFORE = samples.Axis("before", "Accuracy before finetuning (%)", percent=True)
_AFTER = samples.Axis("after", "Accuracy after finetuning (%)", percent=True)
_GREY = "#555555"


def plot(
    rows: Sequence[Row],
    path: PathLike | None,
    title: str,
    paper: Sequence[Row] = (),
    note: str | None = None,
) -> Figure:
    """Accuracy after finetuning against accuracy before it: small points for runs, a large one for each name's mean.

    Args:
      rows: a dict for each run: `name` (or else `pruner`), `seed`, `before` and `after` (fractions), and `panel` (such
        as a sparsity) if there are several. A run without either is left out.
      path: .png, .pdf or .svg; None to save nothing. title: one line.
      paper: rows with the paper's numbers, drawn hollow. note: what was reduced.
    Returns:
      the figure: both axes of one panel have one scale. On the diagonal finetuning gains nothing. Bars are standard
      deviations over seeds.
    Raises:
      ValueError: no rows with both accuracies.
    Source: in the manner of Figure 9 of Rare Gems, version 1.
    Example:
      >>> rows = [{"name": "gem_miner", "seed": s, "before": 0.61 + 0.01 * s, "after": 0.77} for s in (0, 1)]
      >>> [round(float(z), 1) for z in plot(rows, None, "98.56 %").axes[0].lines[-1].get_xydata()[0]]
      [61.5, 77.0]
    """
    both = [[row if "name" in row else {**row, "name": row["pruner"]} for row in part] for part in (rows, paper)]
    both = [[row for row in part if all(math.isfinite(v) for v in _point(row))] for part in both]
    if not both[0] and not both[1]:
        raise ValueError(f"rows: expected some with 'before' and 'after', got {len(rows)} rows without")
    names = list(dict.fromkeys(str(row["name"]) for row in [*both[0], *both[1]]))
    panels = list(dict.fromkeys(str(row.get("panel", "")) for row in [*both[0], *both[1]]))
    columns = len(panels) if len(panels) < 4 else 2 + (len(panels) > 4)
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(1.9 + (4.1 if columns == 1 else 3.2 * columns), 0.9 + (3.9 if columns == 1 else 3.2 * lines))
    grid = figure.subplots(lines, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(panels):
            axes.remove()
            continue
        mine = [[row for row in part if str(row.get("panel", "")) == panels[number]] for part in both]
        _draw(axes, mine, names)
        axes.set_ylabel(_AFTER.label if number % columns == 0 else "")
        axes.set_xlabel(_BEFORE.label)
        axes.locator_params(nbins=6)
        if panels[number]:
            axes.set_title(wrapped(panels[number], 36), fontsize=10, parse_math=False)
    title_of(figure, title, grid[0, 0] if panels == [""] else None)
    handles = [Line2D([], [], label=name, **look(i) | {"linestyle": ""}) for i, name in enumerate(names)]
    handles += [Line2D([], [], label="no gain", color=_GREY, linewidth=0.9, linestyle="--")]
    if both[1]:
        handles += [Line2D([], [], label="the paper", color=_GREY, marker="o", linestyle="", markerfacecolor="none")]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)
    points = Counter((str(row["name"]), str(row.get("panel", ""))) for row in both[0])
    several = any(count > 1 for count in points.values())
    caption(figure, "large points: means ± standard deviation over seeds" if several else "one seed", note)
    return save(figure, path)


def _draw(axes: Axes, both: list[list[Row]], names: list[str]) -> None:
    drawn = [value for part in both for row in part for value in _point(row)]
    margin = max(0.08 * (max(drawn) - min(drawn)), 1.5)
    low, high = min(drawn) - margin, min(max(drawn) + margin, 101.5)
    axes.plot([low, high], [low, high], color=_GREY, linewidth=0.9, linestyle="--", label="_no gain", zorder=1)
    for is_paper, rows in enumerate(both):
        for number, name in enumerate(names):
            points = np.array([_point(row) for row in rows if str(row["name"]) == name])
            if points.size:
                _points(axes, points, look(number), bool(is_paper), name)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    plain(axes)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)


def _points(axes: Axes, points: np.ndarray, style: dict[str, Any], is_paper: bool, name: str) -> None:
    mean, colour = points.mean(0), style["color"]
    if len(points) > 1 and not is_paper:
        small = style | {"markersize": 3.5, "linestyle": "", "markeredgewidth": 0, "alpha": 0.45}
        axes.plot(*points.T, **small, label=f"_runs of {name}", zorder=2)
        std = points.std(0, ddof=1)
        axes.hlines(mean[1], mean[0] - std[0], mean[0] + std[0], color=colour, linewidth=1.1, label="_std", zorder=2.5)
        axes.vlines(mean[0], mean[1] - std[1], mean[1] + std[1], color=colour, linewidth=1.1, label="_std", zorder=2.5)
    hollow: dict[str, Any] = (
        {"markerfacecolor": "none", "markeredgecolor": colour, "markeredgewidth": 1.3} if is_paper else {}
    )
    large: dict[str, Any] = style | {"linestyle": "", "markersize": 7.5} | hollow
    axes.plot([mean[0]], [mean[1]], **large, label=f"_paper's {name}" if is_paper else name, zorder=3)


def _point(row: Row) -> tuple[float, float]:
    return samples.number_of(row, _BEFORE), samples.number_of(row, _AFTER)
