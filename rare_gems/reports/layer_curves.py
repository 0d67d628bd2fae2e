"""Layerwise sparsity of several tickets in one figure, over seeds, a panel for each sparsity or network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from rare_gems.reports.style import (
    PathLike,
    Row,
    caption,
    look,
    new_figure,
    plain,
    save,
    short_names,
    short_size,
    sparsity_scale,
    title_of,
    wrapped,
)

__all__ = ["plot"]


def plot(
    rows: Sequence[Row],
    path: PathLike | None,
    title: str,
    paper: Sequence[Row] = (),
    note: str | None = None,
) -> Figure:
    """The sparsity of each layer in network order, a line for each name, before the layers' sizes (grey bars).

    Args:
      rows: a dict for each ticket: `name` (or else `pruner`), `seed`, and `layers`: dicts of `name, num_prunable,
        num_kept` in network order, as in `summary.json`. With `panel`, a panel for each, one under the other; the
        tickets of one panel have the same layers.
      path: .png, .pdf or .svg; None to save nothing. title: one line.
      paper: rows with the paper's tickets, dashed and hollow. note: what was reduced.
    Returns:
      the figure: the mean over seeds with a band of the standard deviation (of the fraction kept), on a scale of
      -log(1 - sparsity); a layer that keeps nothing stands at 100 %. Layers are named below the last panel.
    Raises:
      ValueError: no rows, or tickets of one panel over other layers; it names the panel and the ticket.
    Source: in the manner of Figure 7 of Rare Gems.
    Example:
      >>> layers = [("conv1", 432, 108), ("fc", 640, 64)]
      >>> layers = [dict(zip(("name", "num_prunable", "num_kept"), layer)) for layer in layers]
      >>> plot([{"name": "imp", "layers": layers}], None, "tickets").axes[0].lines[0].get_ydata().tolist()
      [75.0, 90.0]
    """
    both = [[row if "name" in row else {**row, "name": row["pruner"]} for row in part] for part in (rows, paper)]
    everything = [*both[0], *both[1]]
    if not everything:
        raise ValueError("rows: expected at least one ticket, got none")
    names = list(dict.fromkeys(str(row["name"]) for row in everything))
    panels = list(dict.fromkeys(str(row.get("panel", "")) for row in everything))
    most = max(len(row["layers"]) for row in everything)
    figure = new_figure(max(7.6, min(0.11 * most + 5, 12.0)), 4.2 if len(panels) == 1 else 1.3 + 2.2 * len(panels))
    grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for number, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
        mine = [[row for row in part if str(row.get("panel", "")) == panel] for part in both]
        layers = _layers([*mine[0], *mine[1]], panel)
        _draw(axes, mine, names, np.array([size for _, size in layers], float))
        if panel:
            axes.set_title(wrapped(panel, 60), fontsize=10, parse_math=False)
        labels, following = [name for name, _ in layers], panels[number + 1 : number + 2]
        after = [row for row in everything if str(row.get("panel", "")) == following[0]] if following else []
        _names(axes, [] if after and _layers(after, following[0]) == layers else labels)
    title_of(figure, title, grid[0] if panels == [""] else None)
    figure.legend(handles=_handles(names, bool(both[1])), loc="outside right center", frameon=False, fontsize=9)
    seeds = [sum(r["name"] == n and str(r.get("panel", "")) == p for r in both[0]) for n in names for p in panels]
    caption(figure, "mean ± standard deviation over seeds" if max(seeds) > 1 else "one seed", note)
    return save(figure, path)


def _layers(rows: Sequence[Row], panel: str) -> tuple[tuple[str, int], ...]:
    """(name, size) of the layers that all tickets have."""
    first = tuple((str(layer["name"]), int(layer["num_prunable"])) for layer in rows[0]["layers"])
    for row in rows:
        if tuple((str(layer["name"]), int(layer["num_prunable"])) for layer in row["layers"]) != first or not first:
            where = f"{panel}: " if panel else ""
            raise ValueError(
                f"{where}expected the {len(first)} layers of {rows[0]['name']} for every ticket,"
                f" got {len(row['layers'])} others for {row['name']}"
            )
    return first


def _draw(axes: Axes, both: list[list[Row]], names: list[str], sizes: np.ndarray) -> None:
    x, drawn = np.arange(len(sizes)), list[float]()
    bars: Any = axes.twinx()
    axes.set_zorder(bars.get_zorder() + 1)  # lines before bars
    axes.patch.set_visible(False)
    bars.bar(x, sizes, color="#c4c4c4", width=0.8)
    bars.set(ylabel="Weights in the layer", ylim=(0, sizes.max() * 1.05))
    bars.yaxis.set_major_formatter(FuncFormatter(lambda n, _: short_size(n)))
    bars.tick_params(labelsize=8)
    bars.spines[["top"]].set_visible(False)
    bars.yaxis.label.set_size(8)
    for is_paper, rows in enumerate(both):
        for number, name in enumerate(names):
            kept = [[layer["num_kept"] for layer in row["layers"]] for row in rows if str(row["name"]) == name]
            if not kept:
                continue
            ratios = np.array(kept, float) / sizes
            mean = 100 * (1 - ratios.mean(0))
            drawn += mean.tolist()
            style = look(number) | {"markersize": 4.5, "linewidth": 1.4, "clip_on": False}
            style |= {"marker": ""} if len(x) > 60 else {}
            if is_paper:
                style |= {"linestyle": (0, (2, 1.6)), "linewidth": 1.1, "markerfacecolor": "white"}
                style |= {"markeredgecolor": style["color"], "markeredgewidth": 1.0}
            axes.plot(x, mean, **style, label=f"_paper's {name}" if is_paper else name, zorder=3)
            if len(kept) > 1:
                std = 100 * ratios.std(0, ddof=1)
                low, high = np.maximum(mean - std, 0), np.minimum(mean + std, 100)
                axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0, label=f"_std of {name}")
    sparsity_scale(axes, drawn, room=0.09)
    plain(axes, grid=False)
    axes.set(ylabel="Sparsity (%)", xlim=(-0.7, len(x) - 0.3))
    axes.tick_params(axis="y", labelsize=8)


def _names(axes: Axes, names: list[str]) -> None:
    """The layers' names below the axes; none where the panel below has the same."""
    if not names:
        axes.set_xticks([])
        return
    step = -(-len(names) // 60)
    axes.set_xticks(range(0, len(names), step), short_names(names)[::step], rotation=90, parse_math=False)
    axes.tick_params(axis="x", labelsize=8 if len(names) <= 30 else 6)
    axes.set_xlabel("Layer")


def _handles(names: list[str], with_paper: bool) -> list[Any]:
    handles: list[Any] = [Line2D([], [], label=name, **look(number)) for number, name in enumerate(names)]
    if with_paper:
        style = {"color": "#555555", "marker": "o", "markerfacecolor": "white", "linestyle": (0, (2, 1.6))}
        handles.append(Line2D([], [], label="the paper", linewidth=1.1, markersize=5, **style))
    return [*handles, Patch(color="#c4c4c4", label="size of the layer")]
