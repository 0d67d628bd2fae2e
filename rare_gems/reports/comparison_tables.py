"""Tables over seeds: the sanity checks of a ticket, and pruners. Print with `run_tables.print_whole`."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from rare_gems.reports import verdicts
from rare_gems.reports.run_tables import NONE, Row, accuracy_cell, mean_of, percent

__all__ = ["comparison_table", "sanity_table"]

_VALUES = {
    "before": "accuracy % before finetuning", "after": "accuracy % after finetuning",
    "at_best": "accuracy % at the epoch of best validation", "top5": "top-5 accuracy %, after finetuning if any",
}  # fmt: skip


def sanity_table(
    rows: Sequence[Row], title: str | None = None, margin: float = 0.01, confidence: float = 0.95
) -> Table:
    """A row for each sanity check, the real ticket first: accuracies, what the check costs, and the verdict.

    Args:
      rows: {"check": name, "before": [...], "after": [...]} with the accuracies (fractions) before and after
        finetuning for each seed, None where there is none; `before` may be absent, `changes` says what the check
        changes. The first is called "ticket"; all have the same seeds in the same order.
      title: one line above. margin, confidence: of `verdicts.verdict` and `verdicts.paired_drop`.
    Returns:
      percent, mean±std over seeds; the drop (ticket minus check, paired by seed, after finetuning) in points with its
      confidence interval; the verdict.
    Raises:
      ValueError: the first row is not the ticket, a name comes twice, or other numbers of seeds.
    """
    names = [row["check"] for row in rows]
    if not rows or names[0] != "ticket" or len(set(names)) < len(names):
        raise ValueError(f"rows: expected 'ticket' first, then other checks once each, got {names}")
    seeds = {name: len(row["after"]) for name, row in zip(names, rows, strict=True)}
    if len(set(seeds.values())) > 1:
        raise ValueError(f"rows: expected the same seeds for every check, got {seeds} accuracies")
    smallest = f"{100 * margin:g} point{'s' * (margin != 0.01)}"
    table = _table(title, [
        f"drop: ticket - check, paired by seed, with its {100 * confidence:g} % interval; ±: over seeds",
        f"passes: the check costs accuracy; fails: a cost of {smallest} is ruled out",
    ])  # fmt: skip
    for heading in ("check", "changes"):
        table.add_column("\n" + heading, no_wrap=True)
    for heading in ("accuracy %\nbefore", "\nafter", "drop\npoints", "\ninterval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("\nverdict", no_wrap=True)
    for row in rows:
        name, drop = row["check"], ["", "", ""]
        if name != "ticket":
            drop = _drop(rows[0]["after"], row["after"], margin, confidence)
        changes = row.get("changes") or NONE
        before, after = (accuracy_cell(mean_of(list(row.get(value) or []))) for value in ("before", "after"))
        table.add_row(*(Text(cell) for cell in [str(name), str(changes), before, after, *drop]))
    return table


def comparison_table(rows: Sequence[Row], title: str | None = None) -> Table:
    """Pruners (rows) at several sparsities (columns): accuracy before finetuning, then after it; where any run has it,
    at the epoch of best validation, and the top-5 accuracy.

    Args:
      rows: a dict for each run: `pruner, sparsity, seed, before, after, at_best, top5` (fractions; None or absent where
        there is none) and `num_kept` (may be absent). `sparsity` is the asked one, equal for the pruners that are
        compared; a pruner "dense" is the reference, its accuracy repeated under every sparsity.
      title: one line above.
    Returns:
      percent, mean±std over seeds, an en dash where no run has a value; under each sparsity the weights kept.
    Raises:
      ValueError: no pruned rows, or two runs of one pruner, sparsity and seed.
    """
    dense = [row for row in rows if row["pruner"] == "dense"]
    pruned = [row for row in rows if row["pruner"] != "dense"]
    verdicts.check_runs(rows)
    sparsities = sorted({row["sparsity"] for row in pruned})
    table = _table(title, ["±: over seeds"])
    table.add_column("sparsity %\nweights kept", no_wrap=True)
    for sparsity in sparsities:
        kept = {int(row["num_kept"]) for row in pruned if row["sparsity"] == sparsity and row.get("num_kept")}
        count = "-".join(f"{n:,}" for n in sorted({min(kept), max(kept)})) if kept else ""
        table.add_column(f"{percent(sparsity)}\n{count}", justify="right", no_wrap=True)
    for value, heading in _VALUES.items():
        if value in ("at_best", "top5") and all(row.get(value) is None for row in rows):
            continue
        cells = {
            pruner: [
                accuracy_cell(
                    mean_of([r.get(value) for r in pruned if (r["pruner"], r["sparsity"]) == (pruner, sparsity)])
                )
                for sparsity in sparsities
            ]
            for pruner in dict.fromkeys(row["pruner"] for row in pruned)
        }
        if dense and value != "before":
            cells["dense"] = [accuracy_cell(mean_of([row.get(value) for row in dense]))] * len(sparsities)
        table.add_row(heading)
        for pruner, values in cells.items():
            table.add_row(*(Text(cell) for cell in [f"  {pruner}", *values]))
    return table


def _table(title: str | None, notes: list[str]) -> Table:
    table = Table(title=title, caption="\n".join(notes), box=None, pad_edge=False, collapse_padding=True)
    table.title_justify = "left"
    table.caption_justify = "left"
    return table


def _drop(ticket: Sequence[Any], checked: Sequence[Any], margin: float, confidence: float) -> list[str]:
    """Drop, interval and verdict, over the seeds that both have."""
    pairs = [(a, b) for a, b in zip(ticket, checked, strict=True) if a is not None and b is not None]
    if not pairs:
        return [NONE, NONE, "undecided (no seeds)"]
    drop = verdicts.paired_drop([a for a, _ in pairs], [b for _, b in pairs], confidence)
    verdict = verdicts.verdict(drop, margin)
    if drop.low is None or drop.high is None:
        return [f"{100 * drop.mean:+.2f}", NONE, f"{verdict} (too few seeds)"]
    interval = f"{100 * drop.low:+.2f} to {100 * drop.high:+.2f}"
    return [f"{100 * drop.mean:+.2f}", interval, verdict]
