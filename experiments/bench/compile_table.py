"""The figures of compiled programs as tables: on the terminal, in Markdown, in CSV."""

import csv
import io
from collections.abc import Callable
from typing import Any

from rich.table import Table

__all__ = ["COLUMNS", "as_csv", "as_markdown", "cells", "rich_table"]

Row = dict[str, Any]
_GIB, _MB = 2**30, 1e6


def _counted(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row['counts'][name]:,}" if "counts" in row else ""


def _kind(*names: str) -> Callable[[Row], str]:
    return lambda row: str(sum(row["counts"]["kernels"].get(name, 0) for name in names)) if "counts" in row else ""


def _memory(row: Row) -> str:
    if "needed_bytes" not in row:
        return ""
    return f"{row['needed_bytes'] / _GIB:.2f} of {row['usable_bytes'] / _GIB:.1f}"


def _verdict(row: Row) -> str:
    if "fits" not in row:
        return row.get("error", "not compiled")[:80]
    if row["fits"]:
        return "yes"
    return f"no, {(row['needed_bytes'] - row['usable_bytes']) / _GIB:.2f} GiB too much"


def _kernels(row: Row) -> str:
    if "counts" not in row:
        return ""
    least, most = row["counts"]["num_kernels"], row["num_kernels_at_most"]
    before = (row.get("before") or {}).get("num_kernels")
    return (f"{before} -> " if before else "") + f"{least}" + (f" ({most})" if most != least else "")


def _collectives(row: Row) -> str:
    if "counts" not in row:
        return ""
    counts, sizes = row["counts"]["collectives"], row["counts"]["collective_bytes"]
    return "; ".join(f"{counts[kind]} {kind} {sizes[kind] / _MB:.3g} MB" for kind in sorted(counts)) or "none"


def _ideal(row: Row) -> str:
    if row.get("num_devices", 1) == 1 or "gradient_bytes" not in row:
        return ""
    return f"{row['gradient_bytes'] / _MB:.3g} MB"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "for": lambda row: row["for"] + (", sharded" if row["shard_params"] else ""),
    "network": lambda row: row["model"],
    "method": lambda row: f"{row['pruner']}, {row['phase']}",
    "precision": lambda row: row["precision"],
    "runs": lambda row: str(row["runs"]),
    "batch": lambda row: str(row["batch_size"]),
    "unit": lambda row: row["unit"] if row.get("of_loop_body") or row["unit"] == "step" else "step",
    "fits": _verdict,
    "GiB of a device": _memory,
    "compile s": lambda row: f"{row['compile_seconds']:.0f}" if "compile_seconds" in row else "",
    "CPU s": lambda row: f"{row['cpu_seconds']:.0f}" if "cpu_seconds" in row else "",
    "kernels (at most)": _kernels,
    "reductions": _kind("reduction"),
    "products": _kind("product"),
    "copies": _counted("copies"),
    "transposes": _kind("transpose"),
    "conditionals": _counted("conditionals"),
    "host waits": _counted("host_syncs"),
    "collectives a step": _collectives,
    "gradients": _ideal,
}


def cells(row: Row) -> list[str]:
    """What a row of figures is in a table, a cell for each of `COLUMNS`."""
    return [spelled(row) for spelled in COLUMNS.values()]


def rich_table(rows: list[Row]) -> Table:
    """For the terminal; columns of which all cells are empty are left out."""
    made = [cells(row) for row in rows]
    shown = [i for i in range(len(COLUMNS)) if any(row[i] for row in made)]
    table = Table(*(list(COLUMNS)[i] for i in shown), title="compiled, not run")
    for row in made:
        table.add_row(*(row[i] for i in shown))
    return table


def as_csv(rows: list[Row]) -> str:
    """With the columns of the table."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([list(COLUMNS), *map(cells, rows)])
    return file.getvalue()


def as_markdown(figures: dict[str, Any]) -> str:
    """A page: what was compiled with what and when, and the table."""
    rows = [["---"] * len(COLUMNS), *map(cells, figures["rows"])]
    lines = ["| " + " | ".join(row) + " |" for row in [list(COLUMNS), *rows]]
    versions = figures["versions"] | figures["compilers"]
    with_what = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n".join([
        "# Compiled, not run", "",
        f"Programs compiled for devices that were not there: nothing below was run or timed on one. {figures['date']}, "
        f"{with_what}; {figures['host']}. The columns are explained in the guide to "
        "[speed](../../bench/README.md#compiled-programs).",
        "", *lines, "",
    ])  # fmt: skip
