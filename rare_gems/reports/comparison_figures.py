"""Figures over seeds: pruners against each other at several sparsities, and a ticket against its sanity checks."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation

from rare_gems.reports import verdicts
from rare_gems.reports.style import PathLike, Row, look, new_figure, plain, save, sparsity_axis

__all__ = ["plot_comparison", "plot_sanity"]

_GREY = "#555555"
_LIGHT, _DARK = "#A6CDE8", "#0072B2"


def plot_comparison(
    rows: Sequence[Row],
    path: PathLike | None,
    title: str,
    value: Literal["after", "before"] = "after",
    dense: Sequence[float] | None = None,
    chance: float | None = None,
) -> Figure:
    """Accuracy against sparsity, a line for each pruner: the mean over seeds, with its standard deviation.

    Args:
      rows: a dict for each run: `pruner, sparsity` (the asked one), `seed` and the accuracies `before` and `after`
        finetuning (fractions; None or absent where there is none).
      path: .png, .pdf or .svg; None to save nothing. title: one line.
      value: which accuracy. A pruner looks the same in both figures of the same rows.
      dense: accuracies of the dense network, one for each seed; by default those of the rows whose pruner is "dense".
      chance: the accuracy of guessing, if it is to be drawn.
    Returns:
      the figure, in percent; sparsity on a scale of -log(1 - sparsity), with a tick at each one asked; points of one
      sparsity stand side by side; a line is broken where a pruner has no value. The legend is on the right, in the
      order of the lines' right ends.
    Raises:
      ValueError: another `value`, no pruned rows, or two runs of one pruner, sparsity and seed.
    Source: in the manner of Figures 3 (after) and 6 (before) of Rare Gems.
    Example:
      >>> rows = [{"pruner": "random", "sparsity": s, "seed": 0, "after": 0.7} for s in (0.95, 0.99)]
      >>> [line] = plot_comparison(rows, None, "digits").axes[0].lines
      >>> line.get_label(), line.get_ydata().tolist()
      ('random', [70.0, 70.0])
    """
    if value not in ("after", "before"):
        raise ValueError(f"value: expected 'after' or 'before', got {value!r}")
    verdicts.check_runs(rows)
    pruners = [name for name in dict.fromkeys(row["pruner"] for row in rows) if name != "dense"]
    sparsities = sorted({row["sparsity"] for row in rows if row["pruner"] != "dense"})
    x = [100 * sparsity for sparsity in sparsities]
    reference: Sequence[Any] = dense if dense is not None else [r.get(value) for r in rows if r["pruner"] == "dense"]

    figure = new_figure(7.6, 4.4)
    axes = figure.subplots()
    apart = min(24.0, 240 / len(pruners)) if len(x) == 1 else min(4.0, 24 / len(pruners))  # points between pruners
    ends = {}
    for number, pruner in enumerate(pruners):
        cells = [[r.get(value) for r in rows if (r["pruner"], r["sparsity"]) == (pruner, s)] for s in sparsities]
        mean, std = np.array([_mean_std(cell) for cell in cells]).T
        shift = apart * (number - (len(pruners) - 1) / 2)
        moved = axes.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans)
        (line,) = axes.plot(x, mean, **look(number), label=pruner, transform=moved, zorder=3)
        seen = np.isfinite(std)
        if seen.any():
            bars = axes.vlines(
                np.array(x)[seen], (mean - std)[seen], (mean + std)[seen], color=line.get_color(), linewidth=1.2
            )
            bars.set(transform=moved, zorder=3.5, label=f"_std of {pruner}")
        where = np.flatnonzero(np.isfinite(mean))
        ends[line] = (int(where[-1]), float(mean[where[-1]])) if where.size else (-1, -1.0)
    handles: list[Any] = sorted(ends, key=lambda line: ends[line], reverse=True)
    handles = [line for line in handles if ends[line][0] >= 0]
    handles = [*_level(axes, reference, "dense", "--"), *handles]
    handles += _level(axes, [] if chance is None else [chance], "chance", ":")

    plain(axes)
    axes.grid(axis="x", color="#eeeeee", linewidth=0.6)
    sparsity_axis(axes, x)
    _limit(axes, rows, value, [*reference, chance])
    axes.set(xlabel="Sparsity (%)", ylabel=f"Accuracy {value} finetuning (%)")
    axes.set_title(title, fontsize=11, parse_math=False)
    if handles:
        figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9, handlelength=2.8)
    return save(figure, path)


def plot_sanity(rows: Sequence[Row], path: PathLike | None, title: str) -> Figure:
    """Bars for the ticket (above) and for each sanity check: accuracy before (light) and after finetuning (dark).

    Args:
      rows: {"check": name, "before": [...], "after": [...]} with accuracies (fractions) for each seed, the first
        called "ticket", as for `comparison_tables.sanity_table`. None, [] or an absent list: not measured, no bar.
      path: .png, .pdf or .svg; None to save nothing. title: one line.
    Returns:
      the figure, in percent: means over seeds with their standard deviations, the numbers on the right, and a line
      at what the ticket reaches after finetuning.
    Raises:
      ValueError: the first row is not the ticket.
    Example:
      >>> rows = [{"check": name, "after": [0.8, 0.7]} for name in ("ticket", "reinit")]
      >>> [round(float(bar.get_width()), 3) for bar in plot_sanity(rows, None, "digits").axes[0].patches]
      [75.0, 75.0]
    """
    if not rows or rows[0]["check"] != "ticket":
        raise ValueError(f"rows: expected 'ticket' first, got {[row['check'] for row in rows]}")
    figure = new_figure(7.2, 1.5 + 0.5 * len(rows))
    axes = figure.subplots()
    shown = [v for v in ("before", "after") if any(_is_number(a) for row in rows for a in row.get(v) or [])]
    height, tops = 0.8 / max(len(shown), 1), [0.0]
    for place, value in enumerate(shown):
        colour = _LIGHT if value == "before" else _DARK
        for y, row in enumerate(rows):
            mean, std = _mean_std(row.get(value) or [])
            middle = y + (place - (len(shown) - 1) / 2) * height
            text = "\N{EN DASH}"
            if math.isfinite(mean):
                axes.barh(middle, mean, height, color=colour)
                text = f"{mean:.1f}" + (f" ± {std:.1f}" if math.isfinite(std) else "")
                tops.append(mean + (std if math.isfinite(std) else 0))
            if math.isfinite(std):
                axes.hlines(middle, mean - std, mean + std, color="black", linewidth=1.1, zorder=3)
            note = axes.text(1.02, middle, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
            note.set_color(_GREY if value == "before" else "black")
    level, _ = _mean_std(rows[0].get("after") or [])
    if math.isfinite(level):
        axes.axvline(level, color="black", linewidth=0.9, linestyle="--", label="_ticket", zorder=2.5)
    axes.set_yticks(range(len(rows)), [str(row["check"]) for row in rows])
    axes.set(xlabel="Accuracy (%)", xlim=(0, max(1.04 * max(tops), 1.0)), ylim=(len(rows) - 0.45, -0.55))
    axes.set_title(title, fontsize=11, parse_math=False)
    plain(axes, grid=False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    colours = {"before": _LIGHT, "after": _DARK}
    handles = [Patch(color=colours[value], label=f"{value} finetuning") for value in shown]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return save(figure, path)


def _level(axes: Axes, values: Sequence[Any], label: str, linestyle: str) -> list[Any]:
    """A horizontal line at the mean with a band of the standard deviation; [the line], or [] without values."""
    mean, std = _mean_std(values)
    if not math.isfinite(mean):
        return []
    if math.isfinite(std):
        axes.axhspan(mean - std, mean + std, color="#cccccc", alpha=0.5, linewidth=0, label=f"_std of {label}")
    return [axes.axhline(mean, color=_GREY, linewidth=1.2, linestyle=linestyle, label=label)]


def _limit(axes: Axes, rows: Sequence[Row], value: str, levels: Sequence[Any]) -> None:
    """Room around every run (so around every mean and bar but for extreme spreads), within 0 to 100 %."""
    accuracies = [*(row.get(value) for row in rows if row["pruner"] != "dense"), *levels]
    drawn = [100 * float(a) for a in accuracies if a is not None and math.isfinite(a)]
    low, high = min(drawn, default=0.0), max(drawn, default=100.0)
    margin = max(0.07 * (high - low), 0.5)
    axes.set_ylim(max(low - margin, 0.0) if low >= margin else -0.02 * high, min(high + margin, 101.0))


def _mean_std(values: Sequence[Any]) -> tuple[float, float]:
    """Mean and sample standard deviation (ddof = 1) in percent; NaN where there is none."""
    present = [100 * float(value) for value in values if _is_number(value)]
    if not present:
        return math.nan, math.nan
    return float(np.mean(present)), float(np.std(present, ddof=1)) if len(present) > 1 else math.nan


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)
