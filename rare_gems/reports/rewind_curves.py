"""Stability and accuracy against the iteration (or epoch) that a ticket is rewound to."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from rare_gems.reports import curves, samples
from rare_gems.reports.style import PathLike, Row, save

__all__ = ["LABELS", "plot"]

LABELS = {
    "order": "Distance between\ndata orders (L2)",
    "pruning": "Distance between\npruned and dense (L2)",
    "order_angle": "Angle between\ndata orders (°)",
    "pruning_angle": "Angle between\npruned and dense (°)",
    "barrier": "Error barrier between\ndata orders (points)",
    "after": "Accuracy (%)",
}
_PLAIN = ("order", "pruning", "order_angle", "pruning_angle")


def plot(
    rows: Sequence[Row],
    path: PathLike | None,
    title: str,
    values: Sequence[str] = ("order", "pruning", "after"),
    x: Mapping[str, str] | None = None,
    paper: Sequence[Row] = (),
    note: str | None = None,
) -> Figure:
    """Values against the rewinding iteration: the mean over samples, with bars from the smallest to the largest.

    Args:
      rows: a dict for each sample (a run for its accuracy, a pair of runs for a distance): `name` (such as "IMP" and
        "random"), `rewind_step`, any of the values (distances as they are, all else as fractions), and `panel` (a
        network) if there are several. Rows named "dense" are a level. A row need not have all values.
      path: .png, .pdf or .svg; None to save nothing. title: one line.
      values: keys of the rows, a line of panels each, from top to bottom: those of `LABELS`, also as
        "stability.order_l2" or "stability.order_angle", or other accuracies, such as that of a sanity check.
      x: {key: label} of what stands across instead of {"rewind_step": "Rewinding iteration"}.
      paper: rows with the paper's numbers. note: what was reduced.
    Raises:
      ValueError: no values, or no rows with an iteration and a value.
    Source: in the manner of Figures 4, 7, 11 and 12 of Stabilizing.
    Example:
      >>> rows = [{"name": "IMP", "rewind_step": k, "order": 20 - k / 100, "after": 0.9} for k in (0, 100, 500)]
      >>> figure = plot(rows, None, "LeNet", values=("order", "after"))
      >>> [axes.get_xticks().tolist() for axes in figure.axes]
      [[0.0, 100.0, 500.0], [0.0, 100.0, 500.0]]
    """
    if not values:
        raise ValueError(f"values: expected some, such as {list(LABELS)}, got none")
    key, label = next(iter((x or {"rewind_step": "Rewinding iteration"}).items()))
    across = samples.Axis(key, label, scale="log", gaps=False)
    known = {value: value.removeprefix("stability.").removesuffix("_l2") for value in values}
    labels = {value: LABELS.get(name, f"Accuracy, {value} (%)") for value, name in known.items()}
    ys = [samples.Axis(value, labels[value], percent=known[value] not in _PLAIN) for value in values]
    figure, _ = curves.draw(rows, title, across, ys, paper, spread="range", note=note, apart=6.0)
    return save(figure, path)
