"""What a comparison shows of its finished runs: a table and figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.commands.sanity_report import report_checks
from experiments.comparison import rows as comparison_rows
from experiments.comparison.expand import Combination
from experiments.run_folder import paths
from rare_gems.reports import comparison_figures, comparison_tables, run_tables

__all__ = ["report", "report_sanity"]


def report(console: Console, folder: Path, rows: list[dict[str, Any]], chance: float) -> None:
    """Prints the table and writes plots/ in `folder`; `chance` is the accuracy of a guess. Columns with names of their
    own stand for the methods."""
    rows = [row | {"pruner": row.get("column", row["pruner"])} for row in rows]
    seeds = len({row["seed"] for row in rows})
    models = ", ".join(dict.fromkeys(str(row["model"]) for row in rows))
    title = f"{models} on {rows[0]['dataset']}, {seeds} {'seed' if seeds == 1 else 'seeds'}"
    run_tables.print_whole(console, comparison_tables.comparison_table(rows, title))
    for value in ("after", "before"):
        if all(row[value] is None for row in rows):
            continue
        dense = [row["after"] for row in rows if row["pruner"] == "dense"]  # before its training it is no reference
        file = paths.figure(folder, f"{value}_finetuning")
        level = None if value == "after" else chance
        comparison_figures.plot_comparison(
            rows, file, title, value, dense=dense if value == "after" else [], chance=level
        )
    console.print(f"files: {folder}", soft_wrap=True, markup=False, highlight=False)


def report_sanity(console: Console, combinations: Sequence[Combination]) -> None:
    """Prints the checks of each column and sparsity over its seeds, and leaves the report of each beside its seeds."""
    cells: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    places: dict[tuple[str, str], Path] = {}
    for each in combinations:
        found = comparison_rows.summaries(each)
        if each.checks and found is not None and len(found) == 1 + len(each.checks):
            cells.setdefault((each.column, each.sparsity), []).append(list(found.values()))
            places[each.column, each.sparsity] = each.folder.parent
    for (column, sparsity), summaries in cells.items():
        of = f"{column} at {100 * float(sparsity):.6g} %"
        report_checks(console, places[column, sparsity], summaries, of)
