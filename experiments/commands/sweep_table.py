"""The combined table of a sweep: on the terminal, and as sweep.csv."""

import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.config import sweep
from experiments.config.saved import digest, fields_of
from experiments.config.sweep import Combination
from experiments.run_folder import paths
from rare_gems.reports import run_tables
from rare_gems.storage.atomic import write_whole

__all__ = ["report"]


def report(console: Console, combinations: Sequence[Combination], rows: Sequence[dict[str, Any]]) -> None:
    """Prints a row for each combination, mean and standard deviation over its seeds, and writes sweep.csv."""
    first = combinations[0].config
    named = [row | {"name": sweep.spelled(each.swept)} for row, each in zip(rows, combinations, strict=True)]
    seeds = f"{first.num_seeds} {'seed' if first.num_seeds == 1 else 'seeds'} each"
    title = f"{rows[0]['dataset_name']}, {first.pruner}, {first.model}, {len(combinations)} combinations, {seeds}"
    run_tables.print_table(console, named, title=title)
    file = _table_file(combinations)
    _write_table(file, [each.swept for each in combinations], rows)
    console.print(f"table: {file}", soft_wrap=True, markup=False, highlight=False)


def _table_file(combinations: Sequence[Combination]) -> Path:
    """Where the combined table goes: into --run-dir, or runs/ under a name made from the combinations."""
    first = combinations[0].config
    if first.run_dir is not None:
        return first.run_dir.parent / paths.SWEEP_CSV
    hashes = "".join(digest(fields_of(each.config)) for each in combinations)
    name = hashlib.sha256(f"{hashes}{first.num_seeds}".encode()).hexdigest()[:12]
    return paths.RUNS / f"sweep-{first.dataset}-{first.pruner}-{name}" / paths.SWEEP_CSV


def _write_table(file: Path, swept: Sequence[dict[str, str]], means: Sequence[dict[str, Any]]) -> None:
    """Writes sweep.csv: for each combination its values, then mean and standard deviation over its seeds.

    Args:
      means: of `run_tables.aggregate`, in the order of `swept`.
    """
    rows = []
    for values, row in zip(swept, means, strict=True):
        numbers = {"sparsity_got": row["sparsity"], "num_kept": row["num_kept"]}
        numbers |= {name: row["accuracy"][name] for name in ("before_finetune", "after_finetune")}
        best = row["accuracy"]["best_validation"]
        numbers |= {"at_best": best["test"]} if best else {}
        numbers |= {name: value for name, value in row["accuracy"].items() if name.startswith("top5")}
        numbers |= {f"{part}_seconds": row["seconds"][part] for part in ("search", "finetune")}
        cells = values | {"num_seeds": row["num_seeds"]}
        for name, value in numbers.items():
            cells |= {name: None if value is None else f"{value['mean']:.7g}"}
            cells |= {f"{name}_std": None if value is None or value["std"] is None else f"{value['std']:.4g}"}
        rows.append(cells)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text.getvalue().encode())
