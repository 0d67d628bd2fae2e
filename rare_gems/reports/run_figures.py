"""Figures of a run, as pure functions of the rows of `metrics.csv` and of the layers in `summary.json`.

Sparsity is drawn on a scale of -log(1 - sparsity), on which 90 %, 99 % and 99.9 % are equally far apart and
the bound 1 - exp(-c j) is a straight line.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from rare_gems.reports.run_tables import percent
from rare_gems.reports.style import (
    COLOURS,
    MARKERS,
    PathLike,
    Row,
    new_figure,
    plain,
    save,
    short_names,
    short_size,
    sparsity_scale,
)

__all__ = ["plot_layers", "plot_search"]

_ACCURACIES = {
    "train_accuracy": ("train", "#56B4E9", 1.0),
    "validation_accuracy": ("validation", "#E69F00", 1.4),
    "test_accuracy": ("test", "#0072B2", 1.8),
}


def plot_search(rows: Sequence[Row], path: PathLike | None, title: str) -> Figure:
    """Accuracy (above) and sparsity (below) against the epoch, over the search and the finetuning.

    Args:
      rows: of `metrics.csv`, with `phase` ("search" or "finetune"), `epoch` (from 1 in each phase) and any of
        `train_accuracy, validation_accuracy, test_accuracy, sparsity_frozen` (of q), `sparsity` (of q and
        r(p)), `bound`: fractions; None, "" or NaN where not measured.
      path: .png, .pdf or .svg; None to save nothing. title: one line.
    Returns:
      the figure: values in percent, epochs running on, a vertical line where finetuning begins.
    Raises:
      ValueError: no rows, or an unknown phase.
    Source: in the manner of Figure 2 of Rare Gems, which draws both on one axis.
    Example:
      >>> row = {"phase": "search", "test_accuracy": 0.4, "sparsity": 0.3}
      >>> rows = [row | {"epoch": 1}, row | {"epoch": 2, "sparsity": 0.5}]
      >>> [axes.get_ylabel() for axes in plot_search(rows, None, "a run").axes]
      ['Accuracy (%)', 'Sparsity (%)']
    """
    phases = [row["phase"] for row in rows]
    if not rows or set(phases) - {"search", "finetune"}:
        raise ValueError(f"rows: expected some, of phase 'search' or 'finetune', got {sorted(set(phases))}")
    begin = max((float(row["epoch"]) for row in rows if row["phase"] == "search"), default=0.0)
    epochs = [float(row["epoch"]) + (begin if row["phase"] == "finetune" else 0) for row in rows]

    figure = new_figure(6.4, 4.8)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    measured = {}
    for column, (label, colour, width) in _ACCURACIES.items():
        measured[column] = _line(top, epochs, rows, column, label=label, color=colour, linewidth=width)
    top.set(ylabel="Accuracy (%)", ylim=(0, 100))
    top.set_title(title, fontsize=11, parse_math=False, pad=18 if len(set(phases)) == 2 else 8)
    shown = next((column for column in reversed(_ACCURACIES) if measured[column]), None)
    if shown:
        colour = _ACCURACIES[shown][1]
        for x, y in _ends(measured[shown], phases):
            _value(top, x, y, f"{y:.1f} %", colour, below=y > 12)

    series = {
        "sparsity": ("of $q$ and $r(p)$", {"color": "#D55E00", "linewidth": 1.4}),
        "sparsity_frozen": ("of $q$", {"color": "#000000", "linewidth": 1.6}),
        "bound": ("bound $1 - e^{-cj}$", {"color": "#0072B2", "linewidth": 1.6, "linestyle": ":"}),
    }
    values = {column: [_percent(row, column) for row in rows] for column in series}
    if values["sparsity"] == values["sparsity_frozen"] or set(values["sparsity_frozen"]) == {None}:
        values["sparsity_frozen"] = []
        series["sparsity"] = ("of the mask", series["sparsity_frozen"][1])
    drawn = [y for column in values for y in values[column] if y is not None]
    sparsity_scale(bottom, drawn, bottom=0.0)
    last = None
    for column, (label, style) in series.items():
        if values[column]:
            points = _line(bottom, epochs, rows, column, label=label, **style)
            last = points[-1] if points and column != "bound" else last
    if last is not None:
        _value(bottom, last[1], last[2], f"{percent(last[2] / 100)} %", "#000000")
    bottom.set(xlabel="Epoch", ylabel="Sparsity (%)", xlim=(0, max(epochs) * 1.02))

    for axes in (top, bottom):
        plain(axes)
        if len(set(phases)) == 2:
            axes.axvline(begin, color="#555555", linewidth=0.8, linestyle="--", label="_finetuning begins")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=8)
    if len(set(phases)) == 2:
        for text, x in (("search", begin / 2), ("finetune", (begin + max(epochs)) / 2)):
            top.text(x, 102, text, ha="center", va="bottom", fontsize=9, color="#555555")
    return save(figure, path)


def plot_layers(layers: Sequence[Row] | Mapping[str, Sequence[Row]], path: PathLike | None, title: str) -> Figure:
    """The sparsity of each layer in network order (lines), before the layer's number of weights (dark bars).

    Args:
      layers: dicts of `name, num_prunable, num_kept` in network order; or a dict of such lists, one line for
        each ticket, over the same layers. A layer that keeps nothing is drawn at 100 %.
      path: .png, .pdf or .svg; None to save nothing. title: one line.
    Returns:
      the figure; its first axes hold the sparsities in percent, its second the bars.
    Raises:
      ValueError: no layers, or tickets over different layers.
    Source: in the manner of Figure 7 of Rare Gems.
    Example:
      >>> layers = [("conv1", 432, 108), ("fc", 640, 64)]
      >>> layers = [dict(zip(("name", "num_prunable", "num_kept"), layer)) for layer in layers]
      >>> plot_layers(layers, None, "a ticket").axes[0].lines[0].get_ydata().tolist()
      [75.0, 90.0]
    """
    tickets = dict(layers) if isinstance(layers, Mapping) else {"": layers}
    shapes = {tuple((row["name"], int(row["num_prunable"])) for row in ticket) for ticket in tickets.values()}
    if len(shapes) != 1 or not next(iter(shapes)):
        raise ValueError(f"layers: expected at least one, the same for every ticket, got {sorted(shapes)}")
    names, sizes = zip(*shapes.pop(), strict=True)
    x = np.arange(len(names))

    figure = new_figure(max(6.4, min(0.11 * len(names) + 4, 12.0)), 4.0)
    axes = figure.subplots()
    bars = axes.twinx()
    axes.set_zorder(bars.get_zorder() + 1)  # lines before bars
    axes.patch.set_visible(False)
    bars.bar(x, sizes, color="#b0b0b0", width=0.75)
    bars.set(ylabel="Weights in the layer (bars)", ylim=(0, max(sizes) * 1.05))
    bars.yaxis.set_major_formatter(FuncFormatter(lambda n, _: short_size(n)))
    kept = {name: np.array([row["num_kept"] for row in ticket]) for name, ticket in tickets.items()}
    sparsities = {name: 100 * (1 - count / np.array(sizes)) for name, count in kept.items()}
    sparsity_scale(axes, [value for values in sparsities.values() for value in values.tolist()])
    for number, (label, values) in enumerate(sparsities.items()):
        colour, marker = (options[number % len(options)] for options in (COLOURS, MARKERS))
        (line,) = axes.plot(x, values, color=colour, marker=marker, markersize=2, clip_on=False)
        line.set(label=label or "_ticket", linewidth=1.6)
        if len(names) <= 60:
            line.set(markersize=5.5, markeredgecolor="white", markeredgewidth=0.6)
    totals = {int(count.sum()) for count in kept.values()}
    if len(totals) == 1:
        total = 100 * (1 - totals.pop() / sum(sizes))
        axes.axhline(total, color="#444444", linewidth=0.9, linestyle="--", label="_whole network")
        label = f"all layers {percent(total / 100)} %"
        axes.text(-0.6, total, label, va="bottom", fontsize=8, color="#444444")
    axes.set(xlabel="Layer", ylabel="Sparsity (%)", xlim=(-0.7, len(names) - 0.3))
    step = math.ceil(len(names) / 60)
    axes.set_xticks(x[::step], short_names(names)[::step], rotation=90, parse_math=False)
    size = 8 if len(names) <= 30 else 6
    axes.set_title(title, fontsize=11, parse_math=False, pad=10 if len(tickets) == 1 else 26)
    plain(axes, grid=False)
    axes.tick_params(axis="x", labelsize=size)
    bars.tick_params(labelsize=9)
    bars.spines[["top"]].set_visible(False)
    axes.spines[["right"]].set_visible(True)
    if len(tickets) > 1:
        columns = min(len(tickets), 5)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False, fontsize=8)
    return save(figure, path)


def _percent(row: Row, column: str) -> float | None:
    value = row.get(column)
    if value is None or value == "" or math.isnan(float(value)):
        return None
    return 100 * float(value)


def _line(axes: Axes, epochs: list[float], rows: Sequence[Row], column: str, **style: Any) -> list[tuple]:
    """Draws the measured values of a column; returns (index of the row, epoch, percent) of each."""
    values = [_percent(row, column) for row in rows]
    points = [(i, x, y) for i, (x, y) in enumerate(zip(epochs, values, strict=True)) if y is not None]
    if points:
        marker = "o" if len(points) <= 30 and column.endswith("accuracy") else None
        axes.plot([x for _, x, _ in points], [y for _, _, y in points], marker=marker, markersize=3, **style)
    return points


def _ends(points: list[tuple], phases: list[str]) -> list[tuple[float, float]]:
    """The last measured point of each phase."""
    last = {phases[i]: (x, y) for i, x, y in points}
    return list(last.values())


def _value(axes: Axes, x: float, y: float, text: str, colour: str, below: bool = False) -> None:
    place, align = (-3, -6 if below else 4), "top" if below else "bottom"
    note = axes.annotate(text, (x, y), place, textcoords="offset points", ha="right", va=align, color=colour)
    note.set_fontsize(8.5)
