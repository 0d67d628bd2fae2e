"""Figures of analyses: layers of pairs of networks, lines between networks, stability with its range."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rare_gems.reports.style import COLOURS, MARKERS, PathLike, Row, new_figure, plain, save

__all__ = ["plot_barriers", "plot_dead", "plot_layers", "plot_lines", "plot_stability"]

_MOST = len(COLOURS)  # curves that a legend tells apart
_GREY = "#888888"


def plot_layers(
    rows: Sequence[Row],
    path: PathLike | None,
    title: str,
    values: Mapping[str, str],
    reference: Mapping[str, str] | None = None,
) -> Figure:
    """A measure of pairs of networks for each layer, from first to last; a panel for each measure.

    Args:
      rows: dicts with `first`, `second`, `layer` and the measures, the layers of a pair in their order.
      path: .png, .pdf or .svg; None to save nothing. title: one line.
      values: measure -> the label of its axis. reference: measure -> the measure that is drawn beside it, dotted, with
        hollow markers and above all else, which the legend calls "by chance".
    Returns:
      the figure; beyond seven pairs all are grey.
    Example:
      >>> rows = [{"first": "a", "second": "b", "layer": f"conv{i}", "l2": float(i)} for i in (1, 2)]
      >>> plot_layers(rows, None, "digits", {"l2": "L2 distance"}).axes[0].lines[0].get_ydata().tolist()
      [1.0, 2.0]
    """
    pairs = _grouped(rows, ("first", "second"))
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    figure = new_figure(max(6.0, 1.8 + 0.3 * len(layers)), 0.9 + 2.3 * len(values))
    axes: Any = figure.subplots(len(values), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (measure, label) in zip(axes, values.items(), strict=True):
        for i, ((first, second), some) in enumerate(pairs.items()):
            look = _look(i, len(pairs))
            x = [layers.index(row["layer"]) for row in some]
            panel.plot(x, [row[measure] for row in some], label=f"{first} and {second}", **look)
            if reference and measure in reference:
                chance = [row[reference[measure]] for row in some]
                panel.plot(x, chance, label="_by chance", **look | _by_chance(i, len(pairs)))
        panel.set_ylabel(label, fontsize=9)
        _from_zero(panel)
        plain(panel)
    axes[-1].set_xticks(range(len(layers)), layers, rotation=90, fontsize=7)
    if reference:
        axes[0].plot([], [], color="black", marker="o", markersize=5, label="by chance", **_by_chance(0, 1))
    _finish(figure, axes[0], title, len(pairs))
    return save(figure, path)


def plot_dead(rows: Sequence[Row], path: PathLike | None, title: str) -> Figure:
    """The share of each layer's kept weights that can matter, from first to last; a curve for each network.

    Args:
      rows: dicts with `network`, `layer`, `num_kept` and `num_effective`, the layers of a network in their order.
      path, title: as of `plot_layers`.
    Returns:
      the figure, in percent; a layer that keeps nothing has no point.
    """
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    figure = new_figure(max(6.0, 1.8 + 0.3 * len(layers)), 4.4)
    panel, networks = figure.subplots(), _grouped(rows, ("network",))
    for i, ((network,), some) in enumerate(networks.items()):
        kept = [row for row in some if row["num_kept"]]
        y = [100 * row["num_effective"] / row["num_kept"] for row in kept]
        panel.plot([layers.index(row["layer"]) for row in kept], y, label=network, **_look(i, len(networks)))
    panel.set_ylabel("Weights that can matter (%)", fontsize=9)
    panel.set_ylim(-2, 103)
    panel.set_xticks(range(len(layers)), layers, rotation=90, fontsize=7)
    plain(panel)
    _finish(figure, panel, title, len(networks))
    return save(figure, path)


def plot_lines(rows: Sequence[Row], path: PathLike | None, title: str) -> Figure:
    """Accuracy and loss on the lines between pairs of networks.

    Args:
      rows: dicts with `first`, `second`, `ticket`, `rewound_to`, `alpha`, `loss` and `accuracy` (a fraction).
      path, title: as of `plot_layers`.
    Returns:
      the figure; pairs of one ticket, rewound to one step, share a colour.
    Source: in the manner of Figure 2 of Frankle et al., Linear Mode Connectivity, 2020.
    """
    groups = list(dict.fromkeys((row["ticket"], row["rewound_to"]) for row in rows))
    spans = len({step for _, step in groups}) > 1
    figure = new_figure(9.0, 3.6)
    axes: Any = figure.subplots(1, 2)
    for panel, value, label in zip(axes, ("accuracy", "loss"), ("Accuracy (%)", "Loss"), strict=True):
        seen = set()
        for (*_, ticket, step), some in _grouped(rows, ("first", "second", "ticket", "rewound_to")).items():
            i, name = groups.index((ticket, step)), ticket + (f", step {step}" if spans else "")
            y = [(100 if value == "accuracy" else 1) * row[value] for row in some]
            look = _look(i, len(groups)) | {"linewidth": 1.2, "markersize": 3, "alpha": 0.8}
            panel.plot([row["alpha"] for row in some], y, label="_" if name in seen else name, **look)
            seen.add(name)
        panel.set(xlabel="alpha, from one network to the other", ylabel=label, xlim=(-0.02, 1.02))
        plain(panel)
    _from_zero(axes[1])
    _finish(figure, axes[0], title, len(groups))
    return save(figure, path)


def plot_barriers(rows: Sequence[Row], path: PathLike | None, title: str) -> Figure:
    """The error barrier of pairs of networks against the step that their tickets were rewound to.

    Args:
      rows: dicts with `ticket`, `rewound_to` and `error_barrier` (a fraction), one for each pair.
      path, title: as of `plot_layers`.
    Returns:
      the figure: the mean over pairs, and each pair as a point.
    """
    figure = new_figure(6.0, 3.6)
    panel = figure.subplots()
    tickets = _grouped(rows, ("ticket",))
    for i, ((ticket,), some) in enumerate(tickets.items()):
        look, steps = _look(i, len(tickets)), _grouped(sorted(some, key=lambda row: row["rewound_to"]), ("rewound_to",))
        means = [sum(row["error_barrier"] for row in each) / len(each) for each in steps.values()]
        panel.plot([step for (step,) in steps], [100 * mean for mean in means], label=ticket, **look)
        x, y = [row["rewound_to"] for row in some], [100 * row["error_barrier"] for row in some]
        panel.plot(x, y, linestyle="", marker=".", markersize=5, color=look["color"], alpha=0.5)
    panel.axhline(0, color="black", linewidth=0.7)
    panel.set(xlabel="step rewound to", ylabel="Error barrier (points)")
    plain(panel)
    _finish(figure, panel, title, len(tickets))
    return save(figure, path)


def plot_stability(rows: Sequence[Row], path: PathLike | None, title: str) -> Figure:
    """Stability to the order of the data and to pruning, as L2 distance and as angle: mean and range.

    Args:
      rows: dicts with `stability` ("data order", "pruning"), `ticket`, `rewound_to` and `l2`, `l2_min`, `l2_max`,
        `angle`, `angle_min`, `angle_max`.
      path, title: as of `plot_layers`.
    Returns:
      the figure: a column for each stability; against the step rewound to where there are several, else a place for
      each ticket. Lower is more stable.
    Source: in the manner of Figures 3, 4, 10 and 11 of Stabilizing the Lottery Ticket Hypothesis.
    """
    kinds = list(dict.fromkeys(row["stability"] for row in rows))
    tickets = list(dict.fromkeys(row["ticket"] for row in rows))
    by_step = len({row["rewound_to"] for row in rows}) > 1
    figure = new_figure(1.2 + 3.6 * len(kinds), 6.0)
    axes: Any = figure.subplots(2, len(kinds), squeeze=False, sharex=True)
    for column, kind in enumerate(kinds):
        for row_of, (value, label) in enumerate((("l2", "L2 distance"), ("angle", "Angle (degrees)"))):
            panel = axes[row_of, column]
            for i, ticket in enumerate(tickets):
                some = [row for row in rows if (row["stability"], row["ticket"]) == (kind, ticket)]
                some = sorted(some, key=lambda row: row["rewound_to"])
                x = [row["rewound_to"] if by_step else i for row in some]
                y, low, high = ([row[name] for row in some] for name in (value, f"{value}_min", f"{value}_max"))
                bars = [[a - b for a, b in zip(y, low, strict=True)], [b - a for a, b in zip(y, high, strict=True)]]
                panel.errorbar(x, y, bars, label=ticket, capsize=3, **_look(i, len(tickets)))
            _from_zero(panel)
            plain(panel)
            if column == 0:
                panel.set_ylabel(label, fontsize=9)
        axes[0, column].set_title(f"to {kind}", fontsize=10)
        if by_step:
            axes[1, column].set_xlabel("step rewound to")
        else:
            names = [ticket.replace(", ", "\n") for ticket in tickets]
            axes[1, column].set_xticks(range(len(tickets)), names, fontsize=7, rotation=90 * (len(tickets) > 4))
            axes[1, column].set_xlim(-0.6, len(tickets) - 0.4)
    _finish(figure, axes[0, 0], title, len(tickets))
    return save(figure, path)


def _grouped(rows: Sequence[Row], names: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def _look(i: int, number: int) -> dict[str, Any]:
    """Of several curves each is thinner than the one under it, so that equal ones are all seen."""
    if number > _MOST:
        return {"color": _GREY, "marker": "", "linewidth": 0.8}
    under = (number - 1 - i) / max(number - 1, 1)
    look = {"color": COLOURS[i], "marker": MARKERS[i], "markeredgecolor": COLOURS[i]}
    return look | {"linewidth": 1.4 + 1.4 * under, "markersize": 4 + 3 * under}


def _by_chance(i: int, number: int) -> dict[str, Any]:
    """What chance gives: hollow, dotted, the dots of several curves in turn."""
    dots = (1.6 * i, (1.6, 1.6 * max(number, 2) - 1.6))
    return {"linestyle": dots, "linewidth": 1.2, "markerfacecolor": "white", "zorder": 3}


def _from_zero(axes: Axes) -> None:
    """The y axis from 0 to a little above what is drawn."""
    axes.set_ylim(0, 1.02 * axes.get_ylim()[1])


def _finish(figure: Figure, axes: Axes, title: str, number: int) -> None:
    figure.suptitle(title, fontsize=11, parse_math=False)
    handles, labels = axes.get_legend_handles_labels()
    if number <= _MOST and handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
