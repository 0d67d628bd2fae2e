"""What finished runs of a comparison come to: a row for each, as in compare.csv."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.comparison.expand import Combination
from experiments.run_folder import paths

__all__ = ["as_csv", "rows_of", "summaries"]

_SOME = ("effective_sparsity", "at_best", "top5")  # of validation data, of many classes, ...


def summaries(each: Combination) -> dict[str, dict[str, Any]] | None:
    """The summary of the ticket ("") and of those of its checks that are done, {name: summary}; None without ticket."""
    places = {"": each.folder} | {name: paths.check_folder(each.folder, name) for name in each.checks}
    found = {name: place / paths.SUMMARY for name, place in places.items()}
    if not found[""].exists():
        return None
    return {name: json.loads(file.read_text()) for name, file in found.items() if file.exists()}


def rows_of(combinations: Sequence[Combination], folder: Path, *, named: bool = False) -> list[dict[str, Any]]:
    """The rows of those runs that are done, whichever process did them.

    Args:
      folder: of the comparison. named: whether columns have names of their own, which are another cell.
    """
    checks = list(dict.fromkeys(name for each in combinations for name in each.checks))
    rows = []
    for each in combinations:
        if (found := summaries(each)) is None:
            continue
        row = _row(found[""], os.path.relpath(each.folder, folder))
        if named:
            row = {"column": each.column} | row
        for name in checks:
            accuracy = found.get(name, {}).get("accuracy", {})
            row |= {f"{name}_before": _short(accuracy.get("before_finetune"))}
            row |= {name: _short(accuracy.get("after_finetune"))}
        rows.append(row)
    return rows


def _row(summary: dict[str, Any], place: str) -> dict[str, Any]:
    accuracy = summary["accuracy"]
    top5 = [accuracy.get(f"top5_{part}_finetune") for part in ("after", "before")]
    optional = {
        "at_best": _short((accuracy.get("best_validation") or {}).get("test")),
        "top5": _short(top5[1] if top5[0] is None else top5[0]),
    }
    return {
        "dataset": summary["dataset_name"], "model": summary["model"], "pruner": summary["pruner"],
        "sparsity": summary["sparsity_target"], "sparsity_got": summary["sparsity"],
        "effective_sparsity": summary.get("effective_sparsity"), "num_kept": summary["num_kept"],
        "num_prunable": summary["num_prunable"], "seed": summary["seed"], "before": _short(accuracy["before_finetune"]),
        "after": _short(accuracy["after_finetune"]), "search_epochs": summary["epochs"]["search"],
        "search_passes": summary["forward_backward_passes"]["search"],
        "search_seconds": round(summary["seconds"]["search"], 1),
        "finetune_seconds": round(summary["seconds"]["finetune"], 1), "folder": place,
    } | optional  # fmt: skip


def _short(accuracy: float | None) -> float | None:
    return None if accuracy is None else round(accuracy, 6)


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text, with a header; without the columns that only some runs have, where no row has any."""
    text = io.StringIO()
    empty = [name for name in _SOME if all(row.get(name) is None for row in rows)]
    names = [name for name in rows[0] if name not in empty]
    writer = csv.DictWriter(text, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
