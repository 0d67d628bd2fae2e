"""metrics.csv: a row for each epoch."""

import csv
import io
from pathlib import Path
from typing import Any

from rare_gems.storage.atomic import write_whole

__all__ = ["COLUMNS", "append_row", "write_rows"]

COLUMNS = (
    "phase", "epoch", "step", "loss", "train_accuracy", "validation_accuracy", "test_accuracy", "sparsity_frozen",
    "sparsity", "bound", "flips", "seconds",
)  # fmt: skip


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes metrics.csv anew; empty cells where a row has None."""
    write_whole(path, _csv([dict(zip(COLUMNS, COLUMNS, strict=True)), *rows]).encode())


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Adds a row to metrics.csv."""
    with path.open("a", newline="") as file:
        file.write(_csv([row]))


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(
        {name: _short(row.get(name)) for name in COLUMNS} for row in rows
    )
    return text.getvalue()


def _short(value: Any) -> Any:
    return f"{value:.7g}" if isinstance(value, float) else value
