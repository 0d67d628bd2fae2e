"""Accuracy and sparsity per epoch of several runs in one figure, search and finetuning joined."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rare_gems.reports import curves, samples
from rare_gems.reports.style import PathLike, Row, look, save

__all__ = ["joined", "plot"]

_GREY = "#555555"
_LABELS = {
    "test_accuracy": "Accuracy (%)", "validation_accuracy": "Accuracy, validation (%)",
    "train_accuracy": "Accuracy, training (%)", "sparsity": "Sparsity (%)", "sparsity_frozen": "Sparsity of q (%)",
}  # fmt: skip


def plot(
    runs: Mapping[str, Sequence[Sequence[Row]]],
    path: PathLike | None,
    title: str,
    values: Sequence[str] = ("test_accuracy",),
    paper: Sequence[Row] = (),
    scale: Literal["linear", "log"] = "linear",
    note: str | None = None,
) -> Figure:
    """Values against the epoch: a line for each name, the mean over its seeds with a band of the standard deviation.

    Args:
      runs: for each name the runs of its seeds, each the rows of `metrics.csv`: `phase` ("search" or "finetune"),
        `epoch` (from 1 in each phase), and any of the values as fractions; None, "" or NaN where not measured.
      path: .png, .pdf or .svg; None to save nothing. title: one line.
      values: one panel each, one under the other: "test_accuracy", "validation_accuracy", "train_accuracy",
        "sparsity" (of q and r(p)), "sparsity_frozen" (of q). A panel of sparsities has the `bound` of the rows, dotted.
      paper: rows {"name", "epoch", value} with the paper's numbers (fractions), epochs counted through both phases.
      scale: of the epochs; "log" where one search is far longer than the others.
      note: what was reduced.
    Returns:
      the figure. Epochs run on from the search to the finetuning; a tick across the line shows where finetuning
      begins, or one grey line where it begins at once for all.
    Raises:
      ValueError: no runs, an unknown phase or value, or none of the values in any row.
    Source: in the manner of Figures 2 and 5 of Rare Gems, and of Figure 5 of Lottery Jackpots.
    Example:
      >>> rows = [{"phase": p, "epoch": e, "test_accuracy": 0.1 * e} for p in ("search", "finetune") for e in (1, 2)]
      >>> line = plot({"gem_miner": [rows]}, None, "a run").axes[0].lines[0]
      >>> line.get_xdata().tolist()
      [1.0, 2.0, 3.0, 4.0]
    """
    unknown = [value for value in values if value not in _LABELS]
    if unknown or not values:
        raise ValueError(f"values: expected some of {list(_LABELS)}, got {list(values)}")
    rows, begins = joined(runs)
    x = samples.Axis("epoch", "Epoch", scale, gaps=False)
    sparse = {value: "sparsity" if value.startswith("sparsity") else "linear" for value in values}
    ys = [samples.Axis(value, _LABELS[value], sparse[value], percent=True) for value in values]  # pyrefly: ignore
    figure, placed = curves.draw(rows, title, x, ys, paper, note=note, apart=0.0)
    names = list(dict.fromkeys(str(row["name"]) for row in [*rows, *paper]))
    extra = dict[str, Line2D]()
    for value, axes in zip(values, placed.values(), strict=True):
        if sparse[value] == "sparsity":
            extra |= _bounds(axes, rows, names, x)
        extra |= _begin_finetuning(axes, begins)
        if scale == "linear":
            axes.set_xlim(0, 1.02 * max(float(row["epoch"]) for row in [*rows, *paper]))
    if extra:
        curves.add_to_legend(figure, list(extra.values()))
    return save(figure, path)


def joined(runs: Mapping[str, Sequence[Sequence[Row]]]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The rows of all runs with `name`, `seed` (a number) and epochs that run on, and each name's last search epoch.

    An epoch of one name counts where all of its seeds have measured it, so that a seed that lags behind bends no mean.

    Raises:
      ValueError: no runs, or an unknown phase.
    """
    if not any(rows for seeds in runs.values() for rows in seeds):
        raise ValueError(f"runs: expected rows of at least one run, got none for {list(runs)}")
    found, begins = list[dict[str, Any]](), dict[str, float]()
    for name, seeds in runs.items():
        phases = {row["phase"] for rows in seeds for row in rows}
        if phases - {"search", "finetune"}:
            raise ValueError(f"{name}: expected phases 'search' and 'finetune', got {sorted(phases)}")
        searched = [float(row["epoch"]) for rows in seeds for row in rows if row["phase"] == "search"]
        begin = max(searched, default=0.0)
        if "finetune" in phases:
            begins[name] = begin
        seeds = [rows for rows in seeds if rows]
        mine = [
            {**row, "name": name, "seed": seed, "epoch": float(row["epoch"]) + begin * (row["phase"] == "finetune")}
            for seed, rows in enumerate(seeds)
            for row in rows
        ]
        seen = [{row["epoch"] for row in mine if row["seed"] == seed} for seed in range(len(seeds))]
        common = set.intersection(*seen) if seen else set()
        found += [row for row in mine if row["epoch"] in common]
    return found, begins


def _bounds(axes: Axes, rows: Sequence[Row], names: Sequence[str], x: samples.Axis) -> dict[str, Line2D]:
    """The bound of each name as a dotted line in its colour, grey where all have the same; its entry of the legend."""
    bound = samples.Axis("bound", "", percent=True)
    drawn = {}
    for number, name in enumerate(names):
        points = samples.summarize([row for row in rows if row["name"] == name], x, bound)
        if points.x.size:
            drawn[number] = (tuple(points.x.round(6)), tuple(points.mean.round(6)))
    style = {"linewidth": 1.3, "linestyle": (0, (1, 1.4)), "zorder": 2.5}
    same = len(set(drawn.values())) == 1 and len(drawn) > 1
    for number, (epochs, values) in drawn.items():
        axes.plot(epochs, values, color=_GREY if same else look(number)["color"], label="_bound", **style)
        if same:
            break
    return {"bound": Line2D([], [], color=_GREY, label="bound", **style)} if drawn else {}


def _begin_finetuning(axes: Axes, begins: Mapping[str, float]) -> dict[str, Line2D]:
    """Shows where finetuning begins: a line across where it begins at once for all, else a tick on each line."""
    across: dict[str, Any] = {"color": _GREY, "linewidth": 0.8, "linestyle": "--"}
    tick: dict[str, Any] = {"color": "#222222", "marker": "|", "markersize": 15, "markeredgewidth": 1.4}
    starts, label = {begin for begin in begins.values() if begin > 0}, "finetuning begins"
    if not starts:
        return {}
    if len(set(begins.values())) == 1:
        axes.axvline(starts.pop(), **across, label="_" + label, zorder=2)
        return {label: Line2D([], [], label=label, **across)}
    for line in list(axes.lines):
        begin = begins.get(str(line.get_label()), 0.0)
        epochs, values = (np.asarray(data, float) for data in line.get_data())
        if begin > 0 and epochs.size and epochs[0] <= begin <= epochs[-1]:
            axes.plot([begin], [np.interp(begin, epochs, values)], **tick, label="_" + label, zorder=4)
    return {label: Line2D([], [], label=label, linestyle="", **tick)}
