"""Accuracy against sparsity: of methods, with a paper's numbers beside ours, and of tickets against their checks."""

from collections.abc import Sequence
from typing import Literal

from matplotlib.figure import Figure

from rare_gems.reports import curves, samples
from rare_gems.reports.style import PathLike, Row, save

__all__ = ["plot", "plot_sanity"]

_SPARSITY = samples.Axis("sparsity", "Sparsity (%)", scale="sparsity", percent=True)


def plot(
    rows: Sequence[Row],
    path: PathLike | None,
    title: str,
    value: Literal["after", "before"] = "after",
    paper: Sequence[Row] = (),
    note: str | None = None,
) -> Figure:
    """Accuracy against sparsity, a line for each method: the mean over seeds, with its standard deviation.

    Args:
      rows: a dict for each run: `name` (or else `pruner`), `sparsity` (the asked one), `seed`, `before` and `after`
        (fractions; None or absent where there is none). With `panel`, a panel for each (a network, a data set).
        Rows named "dense" and "chance" are levels.
      path: .png, .pdf or .svg; None to save nothing. title: one line.
      value: which accuracy. note: what was reduced, such as "scale small: 500 images".
      paper: rows with the paper's numbers (fractions), drawn hollow and dashed; `error` if it prints one.
    Raises:
      ValueError: no rows with a sparsity and that accuracy.
    Source: in the manner of Figures 3, 4, 6 and 8 of Rare Gems. `comparison_figures.plot_comparison` is the figure of
      one comparison.
    Example:
      >>> rows = [{"name": "random", "sparsity": s, "seed": 0, "after": 0.7} for s in (0.95, 0.99)]
      >>> paper = [{"name": "random", "sparsity": 0.95, "after": 0.75, "error": 0.01}]
      >>> [line.get_label() for line in plot(rows, None, "digits", paper=paper).axes[0].lines]
      ['random', "_paper's random"]
    """
    label = f"Accuracy {value} finetuning (%)"
    y = samples.Axis(value, label, percent=True)
    figure, _ = curves.draw(_named(rows, "pruner"), title, _SPARSITY, [y], _named(paper, "pruner"), note=note)
    return save(figure, path)


def plot_sanity(
    rows: Sequence[Row],
    path: PathLike | None,
    title: str,
    values: Sequence[Literal["after", "before"]] = ("after",),
    paper: Sequence[Row] = (),
    note: str | None = None,
) -> Figure:
    """Accuracy against sparsity of a ticket and of what each sanity check made of it.

    Args:
      rows: a dict for each run: `check` ("ticket" for the ticket itself), `sparsity`, `seed`, `before`, `after`
        (fractions), and `panel` if there are several tickets or networks.
      values: the accuracies to draw, one under the other. path, title, paper, note: as for `plot`.
    Raises:
      ValueError: no rows of the ticket, or none with a sparsity and an accuracy.
    Source: in the manner of the lower rows of Figures 3, 4 and 8 of Rare Gems, and of Figure 3 of Sanity-Checking.
    Example:
      >>> rows = [{"check": c, "sparsity": s, "after": 0.7} for c in ("shuffle", "ticket") for s in (0.95, 0.99)]
      >>> [line.get_label() for line in plot_sanity(rows, None, "digits").axes[0].lines]
      ['ticket', 'shuffle']
    """
    checks = [str(row.get("check", row.get("name"))) for row in rows]
    if "ticket" not in [*checks, "dense"]:
        raise ValueError(f"rows: expected some of the check 'ticket', got {sorted(set(checks))}")
    ours = sorted(_named(rows, "check"), key=lambda row: row["name"] != "ticket")
    ys = [samples.Axis(value, f"Accuracy {value} finetuning (%)", percent=True) for value in values]
    figure, placed = curves.draw(ours, title, _SPARSITY, ys, _named(paper, "check"), note=note)
    for axes in placed.values():
        for line in axes.lines:
            if line.get_label() == "ticket":
                line.set(linewidth=2.4, zorder=3.2)
    return save(figure, path)


def _named(rows: Sequence[Row], key: str) -> list[Row]:
    return [row if "name" in row else {**row, "name": row[key]} for row in rows]
