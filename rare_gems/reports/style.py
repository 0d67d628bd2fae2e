"""What the library's figures share: colours, markers, the scale of sparsity, and how a figure is saved."""

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from rare_gems.storage.atomic import write_whole

__all__ = ["COLOURS", "MARKERS", "PathLike", "Row", "new_figure", "plain", "save", "sparsity_axis", "sparsity_scale"]

Row = Mapping[str, Any]
PathLike = str | os.PathLike[str]

# The colours of Okabe and Ito, which colour-blind readers tell apart.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, apart from pyplot and its global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


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
        kind = Path(path).suffix.removeprefix(".") or "png"
        no_dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
        data = io.BytesIO()
        figure.savefig(data, format=kind, dpi=200, metadata=no_dates)
        write_whole(path, data.getvalue())
    return figure


def sparsity_scale(axes: Axes, values: list[float], bottom: float | None = None) -> None:
    """The y axis as -log(1 - sparsity) in percent, where 100 % has its place above the highest value below it."""
    kept = [1 - value / 100 for value in values if value < 100 - 1e-9]
    floor = min(kept, default=0.1) / 2
    full = any(value >= 100 - 1e-9 for value in values)
    low = bottom if bottom is not None else max(0.0, 100 * (1 - 1.15 * max(kept, default=1.0)))
    high = 100.0 if full else 100 * (1 - 1.4 * floor)
    axes.set_yscale("function", functions=(lambda y: _depth(y, floor), _from_depth))
    span, shown = float(_depth(high, floor) - _depth(low, floor)), []
    for tick in (0, 20, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99, 99.995, 99.999):
        clear = not shown or _depth(tick, floor) - _depth(shown[-1], floor) > 0.06 * span
        if clear and low <= tick <= 100 * (1 - 1.4 * floor):
            shown.append(tick)
    shown += [100] if full else []
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(shown))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def sparsity_axis(axes: Axes, values: Sequence[float]) -> None:
    """The x axis as -log(1 - sparsity) in percent, with a tick at each of `values` (below 100) that has the room."""
    depths = sorted({float(_depth(value, 1e-12)) for value in values})
    margin = 0.06 * (depths[-1] - depths[0]) or 0.15
    low, high = depths[0] - margin, depths[-1] + margin
    axes.set_xscale("function", functions=(lambda x: _depth(x, 1e-12), _from_depth))
    axes.set_xlim(*(float(_from_depth(depth)) for depth in (low, high)))
    shown = []
    for depth in depths:
        if not shown or depth - shown[-1] > 0.07 * (high - low):
            shown.append(depth)
    axes.xaxis.set_major_locator(FixedLocator([float(_from_depth(depth)) for depth in shown]))
    axes.xaxis.set_minor_locator(NullLocator())
    # As many digits as tell the fractions kept, and no more: 95, 98.56, 99.9.
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.{_digits(x)}f}".rstrip("0").rstrip(".")))


def _digits(x: float) -> int:
    return max(2, 1 - math.floor(math.log10(max(100 - x, 1e-9))))


def _depth(percent: Any, floor: float) -> Any:
    return -np.log10(np.maximum(1 - np.asarray(percent) / 100, floor))


def _from_depth(depth: Any) -> Any:
    return 100 * (1 - 10 ** -np.asarray(depth, float))
