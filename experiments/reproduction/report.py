"""What an item leaves: the paper's numbers beside ours, its claims, the runs as CSV, and the figures."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.comparison import rows as comparison_rows
from experiments.papers.item import Claim, Item
from experiments.problem.data import facts_of
from experiments.reproduction import analyses, figures
from experiments.reproduction.provenance import data_notes, provenance
from experiments.reproduction.spread import PartRuns, notes_of
from experiments.reproduction.values import Values, spelled, unit_of
from experiments.terminal.errors import UsageError
from rare_gems.reports import claims_table, cost_table, paper_table, run_tables
from rare_gems.storage.atomic import write_whole

__all__ = ["RUNS_CSV", "TABLE_CSV", "check_tables", "paper_rows", "report", "write_runs"]

TABLE_CSV, TABLE_MD, CLAIMS_CSV, RUNS_CSV = "table.csv", "table.md", "claims.csv", "runs.csv"
_VERDICT = "verdict."  # values of the joint table of cost and verdicts: 1 or 0


def paper_rows(parts: Sequence[PartRuns], values: Sequence[Values]) -> list[dict[str, Any]]:
    """A row for each printed number, with ours over the seeds, as `paper_table.table` takes them."""
    found = []
    for runs, known in zip(parts, values, strict=True):
        columns = {each.column for each in runs.combinations}
        for (column, sparsity), cell in runs.part.printed.items():
            asked = [each for each in runs.combinations if (each.column, each.sparsity) == (column, sparsity)]
            if column not in columns or not asked:
                continue  # the reduction leaves it out
            for value, number in cell.items():
                if value.startswith(_VERDICT):
                    continue
                paper, error = number if isinstance(number, tuple) else (number, None)
                row = {
                    "name": f"{column}, {runs.title}" if len(parts) > 1 else column,
                    "what": spelled(value, sparsity), "paper": paper, "error": error,
                    "ours": [known[column, sparsity, each.config.seed].get(value) for each in asked],
                    "unit": unit_of(value),
                }  # fmt: skip
                if value == "kept":  # as many digits as are printed
                    row["ours"] = [None if kept is None else round(kept, 2) for kept in row["ours"]]
                found.append(row | ({"exact": True} if _is_exact(value) and error is None else {}))
    return found


def _own_rows(parts: Sequence[PartRuns], values: Sequence[Values]) -> list[dict[str, Any]]:
    """The accuracies of finished runs and what was computed of them, for items of which the paper prints no number."""
    found = []
    for runs, known in zip(parts, values, strict=True):
        for column, sparsity in dict.fromkeys((each.column, each.sparsity) for each in runs.combinations):
            cells = [cell for (name, at, _), cell in known.items() if (name, at) == (column, sparsity)]
            name = f"{column}, {runs.title}" if len(parts) > 1 else column
            kinds = tuple(f"{asked.what}." for asked in runs.part.analyses)
            computed = dict.fromkeys(value for cell in cells for value in cell if value.startswith(kinds))
            checks = dict.fromkeys(name for each in runs.combinations if each.column == column for name in each.checks)
            for value in ("before", "after", *checks, *(computed if kinds else ())):
                ours = [cell.get(value) for cell in cells]
                if any(one is not None for one in ours):
                    row = {"name": name, "what": spelled(value, sparsity), "paper": None, "ours": ours}
                    found.append(row | {"unit": unit_of(value)})
    return found


def _is_exact(value: str) -> bool:
    return value.startswith(("config.", "plan.")) or value in ("epochs", "search_epochs", "kept")


def _claims(parts: Sequence[PartRuns], values: Sequence[Values]) -> list[dict[str, Any]]:
    rows = []
    for runs, known in zip(parts, values, strict=True):
        for claim in runs.part.claims:
            for sparsity in [claim.sparsity] if claim.sparsity else runs.part.sparsities:
                where = f" ({100 * float(sparsity):.6g} %{f', {runs.title}' if len(parts) > 1 else ''})"
                differences = _differences(claim, sparsity, known)
                if differences is not None:
                    rows.append({"claim": claim.says + where, "at_least": claim.at_least, "differences": differences})
    return rows


def _differences(claim: Claim, sparsity: str, known: Values) -> list[float | None] | None:
    """Over the seeds that have both columns at the sparsity; None where the comparison has not."""

    def of(column: str, seed: int) -> dict[str, float] | None:
        return known.get((column, sparsity, seed), known.get((column, "0.0", seed)))

    seeds = sorted({cell[2] for cell in known})
    pairs = [(of(claim.column, seed), of(claim.over, seed) if claim.over else {claim.value: 0.0}) for seed in seeds]
    found: list[float | None] = []
    for one, other in pairs:
        if one is None or other is None:
            return None
        a, b = one.get(claim.value), other.get(claim.over_value or claim.value)
        found.append(None if a is None or b is None else a - b)
    return found


def report(
    console: Console, item: Item, parts: Sequence[PartRuns], values: Sequence[Values], folder: Path, command: str
) -> None:
    """Prints the tables of an item, and leaves them, its claims, its runs and the figures in its folder.

    Args:
      command: what made it, as typed.
    """
    parts = [runs._replace(notes=(*runs.notes, *data_notes(runs))) for runs in parts]
    notes, made = notes_of(parts), provenance(parts, command)
    title, note = f"{item.paper}, {item.number}: {item.shows}", "\n".join([*notes, *item.notes, *made]) or None
    pages = []
    if rows := paper_rows(parts, values) or _own_rows(parts, values):
        run_tables.print_whole(console, paper_table.table(rows, title, note))
        console.print(paper_table.tally(rows), soft_wrap=True)
        write_whole(folder / TABLE_CSV, paper_table.as_csv(rows).encode())
        pages.append(paper_table.as_markdown(rows, title, note))
    else:
        console.print("\n".join([title, *notes, *item.notes, *made]), soft_wrap=True)
    if claims := _claims(parts, values):
        run_tables.print_whole(console, claims_table.table(claims, "what the text claims"))
        write_whole(folder / CLAIMS_CSV, claims_table.as_csv(claims).encode())
        pages.append(claims_table.as_markdown(claims, "what the text claims"))
    if pages:
        write_whole(folder / TABLE_MD, "\n".join(pages).encode())
    for table in _cost_tables(item, parts, values):
        run_tables.print_whole(console, table)
    write_runs(parts, folder, values)
    for line in figures.draw(item, parts, values, folder):
        console.print(line, soft_wrap=True, highlight=False)
    console.print(f"files: {folder}", soft_wrap=True, highlight=False)


def _cost_tables(item: Item, parts: Sequence[PartRuns], values: Sequence[Values]) -> list[Table]:
    """The joint tables of cost and verdicts, if the item asks for them."""
    if not any(figure.kind == "cost_table" for figure in item.figures):
        return []
    return [
        cost_table.table(_verdict_rows(runs, known), 1 / facts_of(runs.combinations[0].config).num_classes,
                         note="\n".join(runs.notes) or None)
        for runs, known in zip(parts, values, strict=True)
    ]  # fmt: skip


def _verdict_rows(runs: PartRuns, known: Values) -> list[dict[str, Any]]:
    rows = []
    for column, sparsity in dict.fromkeys((each.column, each.sparsity) for each in runs.combinations):
        own = [cell for (name, at, _), cell in known.items() if (name, at) == (column, sparsity)]
        done = [cell for cell in own if "before" in cell]
        checks = next(each.checks for each in runs.combinations if each.column == column)
        printed = runs.part.printed.get((column, sparsity), {})
        paper: dict[str, Any] = {
            value.removeprefix(_VERDICT): bool(number)
            for value, number in printed.items()
            if value.startswith(_VERDICT)
        }
        if "search_epochs" in printed:
            paper["epochs"] = printed["search_epochs"]
        whole = bool(done) and all(name in cell for cell in done for name in checks)
        rows.append({
            "name": column, "at_init": paper.get("at_init"), "epochs": [cell["search_epochs"] for cell in own],
            **{value: [cell[value] / 100 for cell in done if value in cell] for value in ("before", "after")},
            "checks": {name: [cell[name] / 100 for cell in done] for name in checks} if whole else {}, "paper": paper,
        })  # fmt: skip
    return rows


def write_runs(parts: Sequence[PartRuns], folder: Path, values: Sequence[Values] | None = None) -> None:
    """Writes runs.csv: a row for each finished run, as in a comparison.

    Args:
      values: of each part; what was computed of a run stands in its row.
    """
    found: list[dict[str, Any]] = []
    for runs, known in zip(parts, values or [{}] * len(parts), strict=True):
        for each in runs.combinations:
            cell = known.get((each.column, each.sparsity, each.config.seed), {})
            computed = {name: value for name, value in cell.items() if name.partition(".")[0] in analyses.KINDS}
            rows = comparison_rows.rows_of([each], folder, named=True)
            found += [{"part": runs.title} | row | computed for row in rows]
    if found:
        names = list(dict.fromkeys(name for row in found for name in row))
        whole = [{name: row.get(name) for name in names} for row in found]
        write_whole(folder / RUNS_CSV, comparison_rows.as_csv(whole).encode())


def check_tables(folder: Path) -> None:
    """Refuses tables in the folder of an item that are damaged or something else, before they are written again.

    Raises:
      UsageError: naming the file.
    """
    headers = {TABLE_CSV: tuple(paper_table.COLUMNS), CLAIMS_CSV: claims_table.COLUMNS, RUNS_CSV: ("part", "column")}
    for name, header in (headers | {TABLE_MD: ()}).items():
        file = folder / name
        if file.is_dir():
            raise UsageError(f"{file}: expected the table of this item, got a folder; move it away")
        if not file.exists() or not header:
            continue
        try:
            first, *others = list(csv.reader(file.read_text().splitlines(), strict=True))
            whole = tuple(first[: len(header)]) == header and all(len(row) == len(first) for row in others)
        except (ValueError, csv.Error):
            whole = False
        if not whole:
            raise UsageError(f"{file}: expected the table of this item, got something else or a damaged one; move it "
                             "away, it is made again from the runs, which are whole")  # fmt: skip
