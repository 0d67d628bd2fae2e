"""The results of an analysis: a table on the terminal, a CSV file, figures."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.analyses.measures import ALL
from experiments.run_folder import paths
from rare_gems.reports import analysis_figures, run_tables
from rare_gems.storage.atomic import write_whole

__all__ = ["Report", "write"]

_PERCENT = ("shared", "jaccard", "eq7", "accuracy", "barrier", "sparsity")
_HIDDEN = ("connectivity", "stability_samples")  # in CSV files and figures only
_NOTES = {
    "distance": "over kept weights; angle in degrees",
    "overlap": "%; shared: |a and b| / |a|; eq7: 1 - ||a - b||_1 / k (Lottery Jackpots, Eq. 7)",
    "effective": "weights on a kept path from the images to the logits; cut: layers that nothing passes",
    "stability": "distance of kept weights at the end of training; lower is more stable",
    "barriers": "error barrier in points and loss barrier: the worst point of the line above the mean of its ends; "
    "accuracies are those under the mask of the line; ticket and rewound to: of the first",
}


class Report(NamedTuple):
    """name: of the file. rows: of one kind, with the layers of each pair where there are layers."""

    name: str
    rows: list[dict[str, Any]]


def write(console: Console, folder: Path, report: Report, title: str) -> None:
    """Prints the rows of all layers, and writes all rows and the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{report.name}.csv", _csv(report.rows).encode())
    _draw(folder, report, title)
    if report.name not in _HIDDEN:
        shown = [row for row in report.rows if row.get("layer", ALL) == ALL]
        run_tables.print_whole(console, _table(report.name, shown, title))


def _draw(folder: Path, report: Report, title: str) -> None:
    rows = report.rows
    layers = [row for row in rows if row.get("layer", ALL) != ALL]
    heading = f"{title}: {report.name.replace('_', ' ')}"
    if report.name == "distance":
        labels = {"l2": "L2 distance", "angle": "Angle (degrees)"}
        analysis_figures.plot_layers(layers, paths.figure(folder, "distance"), heading, labels)
    elif report.name == "overlap":
        chance = {"shared": "shared_by_chance", "eq7": "eq7_by_chance"}
        labels = {"shared": "|a and b| / |a| (%)", "eq7": "Eq. 7 (%)"}
        percent = {*chance, *chance.values()}
        layers = [{name: 100 * v if name in percent else v for name, v in row.items()} for row in layers]
        analysis_figures.plot_layers(layers, paths.figure(folder, "overlap"), heading, labels, chance)
    elif report.name == "effective":
        analysis_figures.plot_dead(layers, paths.figure(folder, "effective"), heading)
    elif report.name == "stability":
        analysis_figures.plot_stability(rows, paths.figure(folder, "stability"), heading)
    elif report.name == "connectivity":
        analysis_figures.plot_lines(rows, paths.figure(folder, "connectivity"), heading)
    elif report.name == "barriers" and len({row["rewound_to"] for row in rows}) > 1:
        analysis_figures.plot_barriers(rows, paths.figure(folder, "barriers"), heading)


def _table(name: str, rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    table = Table(title=f"{name}, {title}", caption=_NOTES.get(name), box=None, pad_edge=False, collapse_padding=True)
    table.title_justify = table.caption_justify = "left"
    columns = [column for column in rows[0] if column != "layer"]
    for column in columns:
        numbers = isinstance(rows[0][column], int | float)
        table.add_column(column.replace("_", " "), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(column, row[column])) for column in columns))
    return table


def _cell(column: str, value: Any) -> str:
    if isinstance(value, float):
        percent = any(part in column for part in _PERCENT) and column != "loss_barrier"
        return f"{100 * value:.2f}" if percent else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.9g}" if isinstance(value, float) else value for name, value in row.items()}
                     for row in rows)  # fmt: skip
    return text.getvalue()
