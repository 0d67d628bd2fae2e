"""Accuracy against what it costs to find the ticket."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from rare_gems.reports import curves, samples
from rare_gems.reports.style import PathLike, Row, save

__all__ = ["COSTS", "plot"]

COSTS = {
    "search_epochs": "Epochs of the search",
    "search_passes": "Forward and backward passes of the search",
    "search_seconds": "Seconds of the search",
    "epochs": "Epochs",
    "steps": "Steps",
    "flops": "Floating-point operations",
}


def plot(
    rows: Sequence[Row],
    path: PathLike | None,
    title: str,
    cost: str = "search_epochs",
    value: str = "after",
    paper: Sequence[Row] = (),
    note: str | None = None,
) -> Figure:
    """Accuracy against cost on a log axis, a point or a line for each method: means over seeds, standard deviations.

    Args:
      rows: a dict for each run: `name` (or else `pruner`), the cost, the accuracy (a fraction) and `seed`. Runs of one
        name that cost differently make a line; `setting`, where given, tells runs apart that share name and cost only
        nearly (their costs are averaged). `panel` if there are several. Rows named "dense" and "chance" are levels.
      path: .png, .pdf or .svg; None to save nothing. title: one line.
      cost: the rows' key of the cost, one of `COSTS`; what costs nothing stands at a place for 0.
      value: the rows' key of the accuracy. paper: rows with the paper's costs and accuracies. note: what was reduced.
    Raises:
      ValueError: an unknown cost, one below 0, or no rows with a cost and an accuracy.
    Source: in the manner of Figure 1 of Lottery Jackpots.
    Example:
      >>> rows = [{"name": n, "search_epochs": e, "after": 0.7} for n, e in (("random", 0), ("imp", 2850))]
      >>> plot(rows, None, "ResNet-20, 98.56 %").axes[0].get_xticks().tolist()
      [0.0, 2850.0]
    """
    if cost not in COSTS:
        raise ValueError(f"cost: expected one of {list(COSTS)}, got {cost!r}")
    x = samples.Axis(cost, COSTS[cost], scale="log", gaps=False)
    both = [
        _averaged([row if "name" in row else {**row, "name": row["pruner"]} for row in r], x) for r in (rows, paper)
    ]
    negative = [row[cost] for row in [*both[0], *both[1]] if samples.number_of(row, x) < 0]
    if negative:
        raise ValueError(f"{cost}: expected costs of 0 or more, got {negative[0]}")
    y = samples.Axis(value, "Accuracy (%)" if value not in _WHEN else f"Accuracy {_WHEN[value]} (%)", percent=True)
    figure, _ = curves.draw(both[0], title, x, [y], both[1], note=note, apart=12.0)
    return save(figure, path)


_WHEN = {"after": "after finetuning", "before": "before finetuning"}


def _averaged(rows: Sequence[Row], x: samples.Axis) -> list[Row]:
    """Rows of one name and setting at their mean cost: seconds differ from seed to seed."""
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        if "setting" in row:
            groups.setdefault((row["name"], row.get("panel"), row["setting"]), []).append(samples.number_of(row, x))
    known = {key: [cost for cost in costs if math.isfinite(cost)] for key, costs in groups.items()}
    means = {key: sum(costs) / len(costs) if costs else None for key, costs in known.items()}
    keys = [(row["name"], row.get("panel"), row.get("setting")) for row in rows]
    return [{**row, x.key: means[key]} if "setting" in row else row for row, key in zip(rows, keys, strict=True)]
