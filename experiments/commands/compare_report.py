"""What a comparison shows of its finished runs: compare.csv, a table and two figures."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.run_folder import paths
from rare_gems.reports import comparison_figures, comparison_tables, run_tables

__all__ = ["as_csv", "report", "rows_of"]


def rows_of(places: Sequence[Path], folder: Path) -> list[dict[str, Any]]:
    """The rows of those runs that are done, whichever process did them; `folder` is the comparison's."""
    files = [place / paths.SUMMARY for place in places]
    return [_row(json.loads(f.read_text()), f.parent.relative_to(folder)) for f in files if f.exists()]


def _row(summary: dict[str, Any], place: Path) -> dict[str, Any]:
    accuracy = summary["accuracy"]
    return {
        "dataset": summary["dataset_name"], "model": summary["model"], "pruner": summary["pruner"],
        "sparsity": summary["sparsity_target"], "sparsity_got": summary["sparsity"], "num_kept": summary["num_kept"],
        "num_prunable": summary["num_prunable"], "seed": summary["seed"], "before": _short(accuracy["before_finetune"]),
        "after": _short(accuracy["after_finetune"]), "search_epochs": summary["epochs"]["search"],
        "search_passes": summary["forward_backward_passes"]["search"],
        "search_seconds": round(summary["seconds"]["search"], 1),
        "finetune_seconds": round(summary["seconds"]["finetune"], 1), "folder": str(place),
    }  # fmt: skip


def _short(accuracy: float | None) -> float | None:
    return None if accuracy is None else round(accuracy, 6)


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def report(console: Console, folder: Path, rows: list[dict[str, Any]], chance: float) -> None:
    """Prints the table and writes plots/ in `folder`; `chance` is the accuracy of a guess."""
    seeds = len({row["seed"] for row in rows})
    title = f"{rows[0]['model']} on {rows[0]['dataset']}, {seeds} {'seed' if seeds == 1 else 'seeds'}"
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
