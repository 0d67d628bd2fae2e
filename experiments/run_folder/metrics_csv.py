"""metrics.csv: a row for each epoch; where there are many classes with a column for the top-5 accuracy."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rare_gems.storage.atomic import write_whole

__all__ = ["COLUMNS", "append_row", "columns", "write_rows"]

COLUMNS = (
    "phase", "epoch", "step", "loss", "train_accuracy", "validation_accuracy", "test_accuracy", "sparsity_frozen",
    "sparsity", "bound", "flips", "seconds", "compile_seconds",
)  # fmt: skip


def columns(top5: str | None = None) -> tuple[str, ...]:
    """The columns of a run; `top5` is that of the top-5 accuracy, if it is measured.

    Example:
      >>> columns("test_top5_accuracy")[6:8]
      ('test_accuracy', 'test_top5_accuracy')
    """
    at = COLUMNS.index("test_accuracy") + 1
    return (*COLUMNS[:at], *([top5] if top5 else []), *COLUMNS[at:])


def write_rows(path: Path, rows: list[dict[str, Any]], columns: Sequence[str] = COLUMNS) -> None:
    """Writes metrics.csv anew; empty cells where a row has None."""
    write_whole(path, _csv([dict(zip(columns, columns, strict=True)), *rows], columns).encode())


def append_row(path: Path, row: dict[str, Any], columns: Sequence[str] = COLUMNS) -> None:
    """Adds a row to metrics.csv."""
    with path.open("a", newline="") as file:
        file.write(_csv([row], columns))


def _csv(rows: list[dict[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(
        {name: _short(row.get(name)) for name in columns} for row in rows
    )
    return text.getvalue()


def _short(value: Any) -> Any:
    return f"{value:.7g}" if isinstance(value, float) else value
