"""The curves that several figures share: means over seeds, panels side by side, a paper's numbers beside ours.

A row is a dict for each run: `name` (of its line), `seed`, what stands on the two axes, and, if there are several
panels, `panel`. The names "dense" and "chance" are levels, drawn across. A value that is None, NaN or absent is a gap.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from rare_gems.reports.samples import Axis, Points, Spread, number_of, summarize
from rare_gems.reports.style import (
    Row,
    caption,
    cost_axis,
    look,
    new_figure,
    plain,
    sparsity_axis,
    sparsity_scale,
    title_of,
    wrapped,
)

__all__ = ["add_to_legend", "draw", "make_room"]

_GREY = "#555555"
_LEVELS = {"dense": "--", "chance": ":"}
_MANY = 40  # points from which on a line has no markers, and a band in place of bars


def draw(
    rows: Sequence[Row],
    title: str,
    x: Axis,
    ys: Sequence[Axis],
    paper: Sequence[Row] = (),
    spread: Spread = "std",
    note: str | None = None,
    apart: float = 24.0,
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """Draws the lines of each name: a column for each panel, a row of axes for each of `ys`.

    Args:
      rows: dicts as this module's page says. title: one line. x, ys: the axes.
      paper: rows with a paper's numbers, drawn hollow and dashed in the colour of their name; `KEY_error` (or `error`)
        holds what the paper prints behind the ± of `KEY`, in the rows' unit.
      spread: what bars and bands show. note: what was reduced; stands under the figure.
      apart: points of one x stand side by side, within that many points (1/72 inch).
    Returns:
      the figure, not yet saved, and its axes by (panel, key of y).
    Raises:
      ValueError: no rows with a value on both axes.
    """
    everything = [*rows, *paper]
    names = [n for n in dict.fromkeys(str(row["name"]) for row in everything) if n not in _LEVELS]
    panels = list(dict.fromkeys(str(row.get("panel", "")) for row in everything))
    seen = [row for row in everything if str(row["name"]) not in _LEVELS and math.isfinite(number_of(row, x))]
    if not any(math.isfinite(number_of(row, y)) for row in seen for y in ys):
        raise ValueError(f"rows: expected some with {x.key} and {' or '.join(y.key for y in ys)}, got {len(rows)} rows")
    columns = len(panels) if len(ys) > 1 or len(panels) < 4 else 2 + (len(panels) > 4)
    lines = math.ceil(len(panels) / columns) * len(ys)
    one = len(panels) == len(ys) == 1
    figure = new_figure(7.6 if columns == 1 else 1.7 + 3.1 * columns, 4.4 if one else 0.9 + 2.7 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    apart = min(apart / (1 if columns == 1 else 2), 4.0 * (len(names) - 1))
    placed, counts, room = {}, set[int](), 0.7 * columns / figure.get_figwidth()
    for number, panel in enumerate(panels):
        of_panel = [[row for row in some if str(row.get("panel", "")) == panel] for some in (rows, paper)]
        for line, y in enumerate(ys):
            axes = grid[line, number] if len(ys) > 1 else grid[number // columns, number % columns]
            placed[panel, y.key] = axes
            counts |= _draw_axes(axes, of_panel, names, (x, y), spread, apart, room)
            axes.set_ylabel(y.label if number % columns == 0 else "")
            if line == 0 and panel:
                wide = round(13 * figure.get_figwidth() / (columns + 0.5))
                axes.set_title(wrapped(panel, wide), fontsize=10, parse_math=False)
            if line == len(ys) - 1:
                axes.set_xlabel(x.label)
    for axes in grid.flat:
        if axes not in placed.values():
            axes.remove()
    title_of(figure, title, None if not one or panels[0] else next(iter(placed.values())))
    _legend(figure, names, list(placed.values()))
    caption(figure, _about(counts, spread), note)
    return figure, placed


def _draw_axes(
    axes: Axes,
    both: list[list[Row]],
    names: list[str],
    xy: tuple[Axis, Axis],
    spread: Spread,
    apart: float,
    room: float,
) -> set[int]:
    """Draws one panel; returns how many seeds its points have. `room`: a tick's, as a fraction of the x axis."""
    x, y = xy
    counts, drawn, places = set[int](), list[float](), list[float]()
    for is_paper, rows in enumerate(both):
        for number, name in enumerate(names):
            mine = [row for row in rows if str(row["name"]) == name]
            points = summarize(mine, x, y, spread)
            if is_paper:
                points = _printed(points, mine, x, y)
            if not np.isfinite(points.mean).any():
                continue
            shift = apart * (number / (len(names) - 1) - 0.5) if len(names) > 1 else 0.0
            _line(axes, points, name, number, bool(is_paper), shift)
            places += points.x.tolist()
            drawn += [v for v in (*points.mean, *points.low, *points.high) if math.isfinite(v)]
            counts |= set() if is_paper else set(points.n.tolist()) - {0}
        for level, linestyle in _LEVELS.items():
            values = [number_of(row, y) for row in rows if str(row["name"]) == level]
            drawn += _level(axes, [v for v in values if math.isfinite(v)], level, linestyle, bool(is_paper), spread)
    plain(axes)
    axes.grid(axis="x", color="#eeeeee", linewidth=0.6)
    if places and x.scale == "sparsity":
        sparsity_axis(axes, places, room)
    elif places and x.scale == "log":
        cost_axis(axes, places, room)
    if drawn and y.scale == "sparsity":
        sparsity_scale(axes, drawn, room=0.07)
    elif drawn:
        _limit(axes, drawn, y.percent)
    return counts


def _line(axes: Axes, points: Points, name: str, number: int, is_paper: bool, shift: float) -> None:
    style = look(number)
    colour, many = style["color"], len(points.x) > _MANY
    moved = axes.transData + ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)  # pyrefly: ignore
    (line,) = axes.plot(points.x, points.mean, **style, zorder=3, transform=moved)
    line.set(label=f"_paper's {name}" if is_paper else name)
    if is_paper:
        line.set(linestyle=(0, (2, 1.6)), linewidth=1.1, markerfacecolor="white", markeredgecolor=colour)
        line.set(markeredgewidth=1.2, zorder=2.8)
    if many:  # long lines lie behind short ones
        line.set(marker="", linewidth=1.4 if len(points.x) < 1000 else 0.8, zorder=3 - len(points.x) / 1e6)
    seen = np.isfinite(points.low)
    if seen.any() and many:
        band = axes.fill_between(points.x, points.low, points.high, color=colour, alpha=0.18, linewidth=0)
        band.set(label=f"_spread of {name}", zorder=2)
    elif seen.any():
        bars = axes.vlines(points.x[seen], points.low[seen], points.high[seen], color=colour, linewidth=1.2)
        bars.set(transform=moved, zorder=3.5, label=f"_spread of {name}")
        if is_paper:
            bars.set(linewidth=0.9, linestyle=":", label=f"_error of {name}")


def _printed(points: Points, rows: Sequence[Row], x: Axis, y: Axis) -> Points:
    """A paper's points, with the error that it prints as their spread."""
    one = [row if f"{y.key}_error" in row else {**row, f"{y.key}_error": row.get("error")} for row in rows]
    errors = {number_of(row, x): number_of(row, y._replace(key=f"{y.key}_error")) for row in one}
    reach = np.array([errors.get(place, math.nan) for place in points.x.tolist()], float)
    return points._replace(low=points.mean - reach, high=points.mean + reach)


def _level(axes: Axes, values: list[float], name: str, linestyle: str, is_paper: bool, spread: Spread) -> list[float]:
    """A horizontal line at the mean, with a band of the spread; returns what is drawn."""
    if not values:
        return []
    mean = float(np.mean(values))
    low = high = mean
    if len(values) > 1:
        std = float(np.std(values, ddof=1))
        low, high = (mean - std, mean + std) if spread == "std" else (min(values), max(values))
    if is_paper:
        axes.axhline(mean, color=_GREY, linewidth=0.9, linestyle=(0, (1, 2.5)), label=f"_paper's {name}")
        return [mean]
    if high > low:
        axes.axhspan(low, high, color="#cccccc", alpha=0.5, linewidth=0, label=f"_spread of {name}")
    axes.axhline(mean, color=_GREY, linewidth=1.2, linestyle=linestyle, label=name)
    return [mean, low, high]


def _limit(axes: Axes, drawn: list[float], percent: bool) -> None:
    """Room around all that is drawn; percent ends at 0 and 100."""
    low, high = min(drawn), max(drawn)
    margin = max(0.07 * (high - low), 1.5 if percent else 0.05 * abs(high) or 1.0)
    bottom, top = low - margin, high + margin
    if low >= 0:
        bottom = bottom if bottom > 0 else -0.03 * top
    axes.set_ylim(bottom, min(top, 101.5) if percent and high <= 100 else top)


def _legend(figure: Figure, names: list[str], placed: list[Axes]) -> None:
    """One legend on the right: of one panel in the order of the lines' right ends, of several in that of the rows."""
    lines = {str(line.get_label()): line for axes in reversed(placed) for line in axes.lines}
    handles: dict[str, Any] = {name: lines[name] for name in [*names, *_LEVELS] if name in lines}
    for number, name in enumerate(names):
        if name not in handles and f"_paper's {name}" in lines:  # only the paper has it
            style = look(number) | {"linestyle": (0, (2, 1.6)), "linewidth": 1.1, "markeredgewidth": 1.2}
            style |= {"markerfacecolor": "white", "markeredgecolor": style["color"]}
            handles[name] = Line2D([], [], label=name, **style)
    order = list(handles)
    if len(placed) == 1:
        order.sort(key=lambda name: _end(lines.get(name, lines.get(f"_paper's {name}"))), reverse=True)
    shown = [handles[name] for name in order]
    if any(label.startswith("_paper's ") for label in lines):
        style = {"color": _GREY, "marker": "o", "markerfacecolor": "white", "linestyle": (0, (2, 1.6))}
        shown.append(Line2D([], [], label="the paper", linewidth=1.1, markersize=5, **style))
    size = 9 if len(shown) <= 16 else 7.5
    figure.legend(handles=shown, loc="outside right center", frameon=False, fontsize=size, handlelength=2.8)


def add_to_legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Adds entries at the end of the figure's legend."""
    old = figure.legends[0]
    size = old.get_texts()[0].get_fontsize()
    handles = [*old.legend_handles, *handles]
    old.remove()
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=size, handlelength=2.8)


def make_room(axes: Axes, percent: bool) -> None:
    """Sets the limits of y anew, around all lines of the axes."""
    values = [float(y) for line in axes.lines for y in np.asarray(line.get_ydata(), float) if math.isfinite(y)]
    bars = [
        y for item in axes.collections if hasattr(item, "get_segments") for s in item.get_segments() for y in s[:, 1]
    ]
    _limit(axes, values + [float(y) for y in bars if math.isfinite(y)], percent)


def _end(line: Any) -> tuple[float, float]:
    """Where a line ends: its last x, and y there; dense comes before all lines, chance after them."""
    values = np.asarray(line.get_ydata(), float)
    if str(line.get_label()) in _LEVELS:
        return (math.inf if line.get_label() == "dense" else -math.inf, float(values[-1]))
    where = np.flatnonzero(np.isfinite(values))
    return (float(np.asarray(line.get_xdata(), float)[where[-1]]), float(values[where[-1]]))


def _about(counts: set[int], spread: Spread) -> str:
    if not counts or max(counts) == 1:
        return "one seed" if counts else ""
    seeds = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{max(counts)}"
    what = {"std": "mean ± standard deviation", "range": "mean, smallest to largest"}[spread]
    return f"{what} over {seeds} {'samples' if spread == 'range' else 'seeds'}"
