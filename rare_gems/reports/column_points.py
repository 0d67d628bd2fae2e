"""A table as a picture: a line for each of its rows, our seeds as points, the paper's number as a hollow mark."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rare_gems.reports import samples
from rare_gems.reports.style import PathLike, Row, caption, new_figure, plain, save, title_of, wrapped

__all__ = ["plot"]

_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"]
_MARKERS = ["o", "s", "^", "D"]
_ACROSS = 4  # panels beside each other
_WORDS = {"before": "before finetuning", "after": "after finetuning"}


def plot(
    rows: Sequence[Row],
    path: PathLike | None,
    title: str,
    values: Sequence[str] = ("after",),
    label: str = "Accuracy (%)",
    paper: Sequence[Row] = (),
    note: str | None = None,
    percent: bool = True,
) -> Figure:
    """Values of each name from top to bottom: small points for runs, a large one for their mean, the paper's hollow.

    Args:
      rows: a dict for each run: `name` (or else `pruner`), `seed`, the values, and `panel` if there are several (a
        sparsity, a network). None, "" or NaN: not measured.
      path: .png, .pdf or .svg; None to save nothing. title: one line.
      values: keys of the rows, at most four, drawn side by side in colours. label: of the axis.
      paper: rows with the paper's numbers; `KEY_error` (or `error`) is what it prints behind the ±.
      note: what was reduced. percent: the values are fractions, to be shown in percent.
    Raises:
      ValueError: no value in any row, or more than four kinds.
    Source: none; the tables of the papers have no figures.
    Example:
      >>> rows = [{"name": n, "before": b, "after": a} for n, b, a in (("EP", 0.20, 0.24), ("GM", 0.45, 0.66))]
      >>> axes = plot(rows, None, "99.41 %", values=("before", "after")).axes[0]
      >>> [text.get_text() for text in axes.get_yticklabels()]
      ['EP', 'GM']
    """
    if not 0 < len(values) <= len(_COLOURS):
        raise ValueError(f"values: expected one to {len(_COLOURS)}, got {list(values)}")
    both = [[row if "name" in row else {**row, "name": row["pruner"]} for row in part] for part in (rows, paper)]
    axis = {value: samples.Axis(value, label, percent=percent) for value in values}
    everything = [*both[0], *both[1]]
    if not any(np.isfinite(samples.number_of(row, axis[value])) for row in everything for value in values):
        raise ValueError(f"rows: expected some with {' or '.join(values)}, got {len(rows)} rows without")
    names = list(dict.fromkeys(str(row["name"]) for row in everything))
    panels = list(dict.fromkeys(str(row.get("panel", "")) for row in everything))
    across = min(len(panels), _ACROSS)
    down, long = -(-len(panels) // across), 0.075 * max(map(len, names))
    high = (0.2 + 0.2 * len(values)) * len(names)
    figure = new_figure(long + 1.7 + max(4.4, 2.9 * across), 1.7 + high + (down - 1) * (0.9 + high))
    grid = figure.subplots(down, across, squeeze=False)
    for number, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
        mine = [[row for row in part if str(row.get("panel", "")) == panel] for part in both]
        _draw(axes, mine, names, list(axis.values()))
        axes.set_xlabel(label)
        axes.set_yticks(range(len(names)), [""] * len(names) if number % across else names, parse_math=False)
        if panel:
            axes.set_title(wrapped(panel, 36), fontsize=10, parse_math=False)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    title_of(figure, title, grid.flat[0] if panels == [""] else None)
    figure.legend(handles=_handles(values, bool(both[1])), loc="outside right center", frameon=False, fontsize=9)
    most = max(
        sum(str(r["name"]) == n and str(r.get("panel", "")) == p for r in both[0]) for n in names for p in panels
    )
    several = "small points: runs; large ones: means ± standard deviation over seeds"
    caption(figure, several if most > 1 else "one seed" if both[0] else "", note)
    return save(figure, path)


def _draw(axes: Axes, both: list[list[Row]], names: list[str], values: Sequence[samples.Axis]) -> None:
    height, drawn = 0.72 / len(values), list[float]()
    for number, value in enumerate(values):
        colour, marker = _COLOURS[number], _MARKERS[number]
        for place, name in enumerate(names):
            y = place + (number - (len(values) - 1) / 2) * height
            ours, printed = ([row for row in part if str(row["name"]) == name] for part in both)
            numbers = [v for v in (samples.number_of(row, value) for row in ours) if np.isfinite(v)]
            mean = float(np.mean(numbers)) if numbers else np.nan
            std = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else 0.0
            drawn += [mean - std, mean + std, *numbers] if numbers else []
            if len(numbers) > 1:
                axes.hlines(y, mean - std, mean + std, color=colour, linewidth=1.3, label=f"_std of {name}", zorder=2.5)
                small: dict[str, Any] = {"markersize": 3.5, "markeredgewidth": 0, "alpha": 0.45, "zorder": 2}
                axes.plot(numbers, [y] * len(numbers), marker, color=colour, label=f"_runs of {name}", **small)
            if numbers:
                axes.plot([mean], [y], marker, color=colour, markersize=7, label=f"{value.key} of {name}", zorder=3)
            for row in printed:
                at, error = samples.number_of(row, value), _error(row, value)
                if np.isfinite(at):
                    hollow: dict[str, Any] = {
                        "markersize": 8.5,
                        "markerfacecolor": "none",
                        "markeredgewidth": 1.3,
                        "zorder": 3.5,
                    }
                    axes.plot([at], [y], "D", color="#222222", label=f"_paper's {value.key} of {name}", **hollow)
                    axes.hlines(y, at - error, at + error, color="#222222", linewidth=0.9, linestyle=":")
                    drawn += [at - error, at + error]
    margin = max(0.06 * (max(drawn) - min(drawn)), 0.5 if values[0].percent else 0.0) or 0.5 if drawn else 0.0
    if drawn:
        axes.set_xlim(min(drawn) - margin, max(drawn) + margin)
    axes.set_ylim(len(names) - 0.45, -0.55)
    plain(axes, grid=False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    for place in range(1, len(names)):
        axes.axhline(place - 0.5, color="#eeeeee", linewidth=0.8, label="_between", zorder=0.5)


def _error(row: Row, value: samples.Axis) -> float:
    key = f"{value.key}_error" if f"{value.key}_error" in row else "error"
    error = samples.number_of(row, value._replace(key=key))
    return error if np.isfinite(error) else 0.0


def _word(value: str) -> str:
    return _WORDS.get(value, value.rpartition(".")[2].replace("_", " "))


def _handles(values: Sequence[str], with_paper: bool) -> list[Any]:
    handles = [
        Line2D([], [], color=_COLOURS[i], marker=_MARKERS[i], linestyle="", markersize=7, label=_word(value))
        for i, value in enumerate(values)
    ]
    hollow: dict[str, Any] = {
        "color": "#222222",
        "marker": "D",
        "markerfacecolor": "none",
        "linestyle": "",
        "markersize": 8,
    }
    return [*handles, *([Line2D([], [], label="the paper", **hollow)] if with_paper else [])]
