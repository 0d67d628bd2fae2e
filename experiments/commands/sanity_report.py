"""What the checks of a run show over its seeds: a table, sanity.csv, sanity.json and a figure."""

import csv
import io
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.catalog.sanity_checks import CHECKS
from experiments.run_folder import paths
from experiments.run_folder.folder import write_json
from experiments.terminal.errors import UsageError
from rare_gems.reports import comparison_figures, comparison_tables, run_tables, verdicts
from rare_gems.storage.atomic import write_whole

__all__ = ["report_checks"]


def report_checks(console: Console, folder: Path, summaries: list[list[dict[str, Any]]], of: str | None = None) -> None:
    """Prints the table of the checks and leaves sanity.csv, sanity.json and plots/sanity.png in `folder`.

    Args:
      summaries: for each seed the ticket's summary and those of its checks, in one order.
      of: what the title names, where it is not the pruner.
    """
    if len({summary["pruner"] for seed in summaries for summary in seed}) != 1:
        raise UsageError(f"{folder}: expected the seeds of one pruner, got several")
    rows: list[dict[str, Any]] = []
    for column in zip(*summaries, strict=True):
        accuracies, name = [summary["accuracy"] for summary in column], column[0]["name"]
        before, after = ([a[f"{part}_finetune"] for a in accuracies] for part in ("before", "after"))
        rows.append({
            "check": name if rows else "ticket", "changes": CHECKS[name].what if rows else "nothing",
            "seeds": [summary["seed"] for summary in column],
            "before": before if None not in after else None, "after": after if None not in after else before,
        })  # fmt: skip
    first = summaries[0][0]
    seeds = "1 seed" if len(summaries) == 1 else f"{len(summaries)} seeds"
    title = f"{of or first['pruner']}, {first['model']} on {first['dataset_name']}, {seeds}"
    run_tables.print_whole(console, comparison_tables.sanity_table(rows, title))
    for row in rows[1:]:
        drop = verdicts.paired_drop(rows[0]["after"], row["after"])
        row |= {"drop": drop._asdict(), "verdict": verdicts.verdict(drop)}
    text, figure = _tidy(rows).encode(), paths.figure(folder, "sanity")
    known = folder / paths.SANITY_CSV
    there = all(file.exists() for file in (figure, known, folder / paths.SANITY_JSON))
    if not (there and known.read_bytes() == text):  # a finished report is left alone
        write_json(folder / paths.SANITY_JSON, rows)
        comparison_figures.plot_sanity(rows, figure, title)
        write_whole(known, text)
    console.print(f"report: {folder / paths.SANITY_CSV}", soft_wrap=True, markup=False, highlight=False)


def _tidy(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["check", "seed", "accuracy_before", "accuracy_after"])
    for row in rows:
        befores = row["before"] or [None] * len(row["after"])  # without finetuning there is one accuracy
        for seed, before, after in zip(row["seeds"], befores, row["after"], strict=True):
            writer.writerow([row["check"], seed, before, after])
    return text.getvalue()
