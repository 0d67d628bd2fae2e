"""What the library's figures share: colours, markers, the scale of sparsity, and how a figure is saved."""

import io
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from rare_gems.storage.atomic import write_whole

__all__ = [
    "COLOURS",
    "MARKERS",
    "PathLike",
    "Row",
    "caption",
    "cost_axis",
    "look",
    "new_figure",
    "plain",
    "save",
    "short_count",
    "short_names",
    "short_size",
    "sparsity_axis",
    "sparsity_scale",
    "title_of",
    "wrapped",
]

Row = Mapping[str, Any]
PathLike = str | os.PathLike[str]

# The colours of Okabe and Ito, which colour-blind readers tell apart; then five of Tol, for figures of many lines.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
COLOURS += ["#882255", "#999933", "#332288", "#44AA99", "#8C564B"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", "p", ">", "h", "*"]
_LINES = ["-", (0, (5, 1.5)), (0, (1.5, 1))]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, apart from pyplot and its global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def look(number: int) -> dict[str, Any]:
    """How the line of that number looks. After twelve the colours come again with another line; a paper's numbers are
    hollow, ours never."""
    style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
    style |= {"linestyle": _LINES[number // len(COLOURS) % len(_LINES)], "linewidth": 1.6}
    return style | {"markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.6}


def wrapped(text: str, wide: int) -> str:
    """The text in lines of at most that many characters, broken between words: flags stay whole.

    Example:
      >>> wrapped("changed: --train-examples=400", 24)
      'changed:\\n--train-examples=400'
    """
    return "\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, wide, break_on_hyphens=False))


def title_of(figure: Figure, title: str, axes: Axes | None = None) -> None:
    """The title, wrapped to the figure's width: above the only axes, or else above all."""
    title = wrapped(title, round(11 * figure.get_figwidth()))
    if axes is not None:
        axes.set_title(title, fontsize=11, parse_math=False)
    elif title:
        figure.suptitle(title, fontsize=11, parse_math=False)


def caption(figure: Figure, *texts: str | None) -> None:
    """Small text under the figure, wrapped to its width: what bars show, what was reduced. The figure grows by it."""
    wide = round(15 * figure.get_figwidth())  # characters of 8 points
    if text := wrapped("\n".join(filter(None, texts)), wide):
        figure.supxlabel(text, fontsize=8, color="#444444", parse_math=False)
        figure.set_figheight(figure.get_figheight() + 0.15 * text.count("\n"))


def plain(axes: Axes, grid: bool = True) -> None:
    """No frame above and on the right, small ticks, pale lines across."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)


def save(figure: Figure, path: PathLike | None) -> Figure:
    """Writes the figure, whole or not at all and without a date; None writes nothing. Returns it."""
    if path is not None:
        kind = Path(path).suffix.removeprefix(".").lower() or "png"
        no_dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
        data = io.BytesIO()
        figure.savefig(data, format=kind, dpi=200, metadata=no_dates)
        write_whole(path, data.getvalue())
    return figure


def sparsity_scale(axes: Axes, values: list[float], bottom: float | None = None, room: float = 0.06) -> None:
    """The y axis as -log(1 - sparsity) in percent, where 100 % has its place above the highest value below it. Ticks
    are `room` apart, a fraction of the axis."""
    kept = [1 - value / 100 for value in values if value < 100 - 1e-9]
    floor = min(kept, default=0.1) / 2
    full = any(value >= 100 - 1e-9 for value in values)
    low = bottom if bottom is not None else max(0.0, 100 * (1 - 1.15 * max(kept, default=1.0)))
    high = 100.0 if full else 100 * (1 - 1.4 * floor)
    axes.set_yscale("function", functions=(lambda y: _depth(y, floor), _from_depth))
    span, shown = float(_depth(high, floor) - _depth(low, floor)), []
    for tick in (0, 20, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99, 99.995, 99.999):
        clear = not shown or _depth(tick, floor) - _depth(shown[-1], floor) > room * span
        clear = clear and not (full and _depth(100, floor) - _depth(tick, floor) < room * span)
        if clear and low <= tick <= 100 * (1 - 1.4 * floor):
            shown.append(tick)
    shown += [100] if full else []
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(shown))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def sparsity_axis(axes: Axes, values: Sequence[float], room: float = 0.07) -> None:
    """The x axis as -log(1 - sparsity) in percent, with a tick at each of `values` (below 100) that has the `room`, a
    fraction of the axis."""
    depths = sorted({float(_depth(value, 1e-12)) for value in values})
    margin = 0.06 * (depths[-1] - depths[0]) or 0.15
    low, high = depths[0] - margin, depths[-1] + margin
    axes.set_xscale("function", functions=(lambda x: _depth(x, 1e-12), _from_depth))
    axes.set_xlim(*(float(_from_depth(depth)) for depth in (low, high)))
    shown = []
    for depth in depths:
        if not shown or depth - shown[-1] > room * (high - low):
            shown.append(depth)
    axes.xaxis.set_major_locator(FixedLocator([float(_from_depth(depth)) for depth in shown]))
    axes.xaxis.set_minor_locator(NullLocator())
    # As many digits as tell the fractions kept, and no more: 95, 98.56, 99.9.
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.{_digits(x)}f}".rstrip("0").rstrip(".")))


def cost_axis(axes: Axes, values: Sequence[float], room: float = 0.07) -> None:
    """The x axis as log(x) with a place for 0 on the left; a tick at each of few values, else at 1, 2, 5, 10, ...,
    where there is the `room`, a fraction of the axis."""
    positive = sorted({value for value in values if value > 0}) or [1.0]
    least, most = positive[0], positive[-1]
    gap = max(0.12 * math.log10(most / least), 0.3)
    zero = math.log10(least) - gap

    def forward(x: Any) -> Any:
        x = np.asarray(x, float)
        low = zero + gap * x / least
        return np.where(x < least, low, np.log10(np.maximum(x, least)))

    def backward(depth: Any) -> Any:
        depth = np.asarray(depth, float)
        return np.where(depth < math.log10(least), (depth - zero) * least / gap, 10.0**depth)

    has_zero = any(value <= 0 for value in values)
    start, end = zero if has_zero else math.log10(least), math.log10(most)
    margin = 0.06 * (end - start) or 0.3
    axes.set_xscale("function", functions=(forward, backward))
    axes.set_xlim(float(backward(start - margin)), float(backward(end + margin)))
    ticks = positive if len(positive) <= 10 else [m * 10.0**e for e in range(-3, 19) for m in (1, 2, 5)]
    ticks = [tick for tick in ticks if least <= tick <= most]
    shown = [0.0] if has_zero else []
    for tick in ticks:
        if not shown or float(forward(tick)) - float(forward(shown[-1])) > room * (end - start):
            shown.append(tick)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_count(x)))


def short_count(n: float) -> str:
    """A count or a cost in few characters.

    Example:
      >>> [short_count(n) for n in (0, 0.25, 150, 2850, 58650, 1_500_000, 3e15)]
      ['0', '0.25', '150', '2,850', '58.6 k', '1.5 M', '3 P']
    """
    shown = float(f"{n:.3g}") if n >= 1e4 else n  # 999,960 is a million
    for size, unit in ((1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if shown >= size:
            return f"{n / (1e3 if unit == ' k' else size):.3g}{unit}"
    return f"{n:,.0f}" if n >= 100 else f"{n:.3g}"


def short_size(n: float | int) -> str:
    """A number of weights in few characters.

    Example:
      >>> [short_size(n) for n in (0, 640, 5_000, 36_864, 2_500_000)]
      ['0', '640', '5 k', '36.864 k', '2.5 M']
    """
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if n >= size:
            return f"{n / size:g}{unit}"
    return f"{n:g}"


def short_names(names: Sequence[str]) -> list[str]:
    """Names without the parts that all of them end with, such as /kernel or /kernel/value."""
    parts = [name.split("/") for name in names]
    while all(len(part) > 1 for part in parts) and len({part[-1] for part in parts}) == 1:
        parts = [part[:-1] for part in parts]
    return ["/".join(part) for part in parts]


def _digits(x: float) -> int:
    return max(2, 1 - math.floor(math.log10(max(100 - x, 1e-9))))


def _depth(percent: Any, floor: float) -> Any:
    return -np.log10(np.maximum(1 - np.asarray(percent) / 100, floor))


def _from_depth(depth: Any) -> Any:
    return 100 * (1 - 10 ** -np.asarray(depth, float))
