"""Tables of runs, as pure functions of their `summary.json`."""

import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = [
    "COLUMNS",
    "NONE",
    "Row",
    "accuracy_cell",
    "aggregate",
    "mean_of",
    "percent",
    "print_table",
    "print_whole",
    "summary_table",
]

Row = Mapping[str, Any]

NONE = "\N{EN DASH}"
_MEANS = ("accuracy", "seconds", "layer_sparsity", "sparsity", "num_kept", "effective_sparsity", "num_effective")


def percent(sparsity: float | int) -> str:
    """A sparsity in percent with the digits it needs: two, and more until the fraction kept shows two digits.

    Example:
      >>> percent(0.9856), percent(1 - 3864 / 268336), percent(0.99995), percent(0.5)
      ('98.56', '98.56', '99.9950', '50.00')
    """
    kept = 100 * (1 - sparsity)
    return f"{100 * sparsity:.{max(2, 1 - math.floor(math.log10(kept))) if 0 < kept < 1 else 2}f}"


def aggregate(summaries: Sequence[Row]) -> dict[str, Any]:
    """Mean and sample standard deviation (ddof = 1) over the seeds of one experiment.

    Args:
      summaries: the `summary.json` of runs that differ in their seeds.
    Returns:
      a summary in which accuracies, seconds, sparsities and counts of kept weights hold, for each number,
      {"mean", "std", "n"} over the runs that have it (std None where n is 1; None where no run has it);
      `seed` is the list of seeds, `num_seeds` their count. Other entries are kept if all agree, else listed.
    Raises:
      ValueError: no summaries, or other pruners, models, data sets or asked sparsities among them.
    Example:
      >>> runs = [{"pruner": "random", "accuracy": {"after_finetune": value}} for value in (0.5, 0.7)]
      >>> accuracy = aggregate(runs)["accuracy"]["after_finetune"]
      >>> accuracy["n"], round(accuracy["mean"], 3), round(accuracy["std"], 3)
      (2, 0.6, 0.141)
    """
    if not summaries:
        raise ValueError("summaries: expected at least one, got none")
    for key in ("pruner", "model", "dataset", "sparsity_target", "num_prunable"):
        values = [summary.get(key) for summary in summaries]
        if any(value != values[0] for value in values):
            raise ValueError(f"summaries: expected one {key}, got {values}")
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for summary in summaries for key in summary):
        values = [summary.get(key) for summary in summaries]
        if key in _MEANS:
            merged[key] = mean_of(values)
        else:
            same = all(value == values[0] for value in values) and key != "seed"
            merged[key] = values[0] if same else values
    return merged | {"num_seeds": len(summaries)}


def summary_table(rows: Sequence[Row], columns: Sequence[str] | None = None, title: str | None = None) -> Table:
    """The table at the end of a run: a row for each ticket, in some 100 characters.

    Args:
      rows: summaries of runs, or of `aggregate`; a row is called by its `name`, or else by its pruner.
      columns: a choice of `COLUMNS`, in order; by default all but those that are empty and optional.
      title: one line above.
    Returns:
      accuracies and sparsities in percent, mean ± standard deviation over seeds, an en dash for what is None.
    Raises:
      ValueError: an unknown column.
    """
    unknown = [column for column in columns or () if column not in COLUMNS]
    if unknown:
        raise ValueError(f"columns: expected some of {list(COLUMNS)}, got {unknown}")
    chosen = list(columns) if columns else list(COLUMNS)
    cells = {column: [COLUMNS[column][1](row) for row in rows] for column in chosen}
    if columns is None:
        for optional in ("effective", "before_rounded", "top5", "best_validation"):
            if all(cell == NONE for cell in cells[optional]):
                del cells[optional]
    sizes = {row.get("num_prunable") for row in rows} - {None}
    notes = [f"{sizes.pop():,} prunable weights"] if len(sizes) == 1 else []
    spread = any("±" in cell for column in cells.values() for cell in column)
    notes = ["; ".join(notes + ["±: over seeds"] if spread else notes)]
    notes += ["top-5: after finetuning, if there is any"] if "top5" in cells else []
    notes += ["eff.: without the weights on no path from images to logits"] if "effective" in cells else []
    notes += ["at best: test accuracy at the epoch of best validation"] if "best_validation" in cells else []
    table = Table(title=title, caption="\n".join(notes), box=None, pad_edge=False, collapse_padding=True)
    table.title_justify = "left"
    table.caption_justify = "left"
    for column in cells:
        justify: Any = "left" if column == "ticket" else "right"
        two_masks = ", q" if column == "before" and "before_rounded" in cells else ""
        table.add_column(COLUMNS[column][0] + two_masks, justify=justify, no_wrap=True)
    for values in zip(*cells.values(), strict=True):
        table.add_row(*(Text(value) for value in values))
    return table


def print_table(
    console: Console, rows: Sequence[Row], columns: Sequence[str] | None = None, title: str | None = None
) -> None:
    """Prints `summary_table`; where the output is not a terminal, at its full width."""
    print_whole(console, summary_table(rows, columns, title))


def print_whole(console: Console, table: Table) -> None:
    """Prints a table; where the output is not a terminal, at its full width, uncut."""
    if console.is_terminal:
        console.print(table)
        return
    wide = Console(file=io.StringIO(), width=400, markup=False, emoji=False)  # [a-z] of a regular expression stays
    wide.width = max(wide.measure(table).maximum, len(str(table.title or "")))
    with wide.capture() as captured:
        wide.print(table)
    console.out(captured.get(), end="", highlight=False)


def mean_of(values: list[Any]) -> Any:
    """{"mean", "std", "n"} of the values that are neither None nor NaN, also in nested dicts; None where all are."""
    present = [value for value in values if value is not None and value == value]  # NaN is a gap as well
    if any(isinstance(value, Mapping) for value in present):
        keys = dict.fromkeys(key for value in present for key in value)
        return {key: mean_of([value.get(key) for value in present]) for key in keys}
    if not present:
        return None
    spread = statistics.stdev(present) if len(present) > 1 else None
    return {"mean": statistics.fmean(present), "std": spread, "n": len(present)}


def _get(row: Row, *keys: str) -> Any:
    value: Any = row
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _cell(value: Any, show: Callable[[float], str]) -> str:
    """A number; mean±standard deviation of an aggregate; an en dash for None."""
    if not isinstance(value, Mapping):
        return NONE if value is None else show(value)
    spread = value["std"]
    return show(value["mean"]) + (f"±{show(spread)}" if spread is not None else "")


def accuracy_cell(value: Any) -> str:
    """A fraction in percent with two digits; mean±standard deviation of an aggregate; an en dash for None."""
    return _cell(value, lambda x: f"{100 * x:.2f}")


def _sparsity(value: Any) -> str:
    return _cell(value["mean"] if isinstance(value, Mapping) else value, percent)


def _count(value: Any) -> str:
    value = value["mean"] if isinstance(value, Mapping) and not value["std"] else value
    return _cell(value, lambda x: f"{x:,.0f}")


def _seconds(value: Any) -> str:
    value = value["mean"] if isinstance(value, Mapping) else value
    return _cell(value, lambda x: f"{x:,.0f}" if x >= 10 else f"{x:.1f}")


def _before(row: Row) -> str:
    frozen = _get(row, "accuracy", "before_finetune_frozen")
    return accuracy_cell(frozen if frozen is not None else _get(row, "accuracy", "before_finetune"))


def _rounded(row: Row) -> str:
    return accuracy_cell(_get(row, "accuracy", "before_finetune_rounded"))


def _top5(row: Row) -> str:
    after = _get(row, "accuracy", "top5_after_finetune")
    return accuracy_cell(_get(row, "accuracy", "top5_before_finetune") if after is None else after)


def _best(row: Row) -> str:
    best = _get(row, "accuracy", "best_validation")
    if not isinstance(best, Mapping):
        return NONE
    epoch = best.get("epoch")  # an aggregate's mean epoch says nothing
    return accuracy_cell(best.get("test")) + ("" if isinstance(epoch, Mapping) else f" @{_count(epoch)}")


# name: (heading, row -> cell)
COLUMNS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "ticket": ("ticket", lambda row: str(row.get("name") or row.get("pruner") or NONE)),
    "sparsity_target": ("sparsity\nasked %", lambda row: _sparsity(row.get("sparsity_target"))),
    "sparsity": ("\ngot %", lambda row: _sparsity(row.get("sparsity"))),
    "effective": ("\neff. %", lambda row: _sparsity(row.get("effective_sparsity"))),
    "num_kept": ("weights\nkept", lambda row: _count(row.get("num_kept"))),
    "before": ("accuracy %\nbefore", _before),
    "before_rounded": ("\nq and r(p)", _rounded),
    "after": ("\nafter", lambda row: accuracy_cell(_get(row, "accuracy", "after_finetune"))),
    "top5": ("\ntop-5", _top5),
    "best_validation": ("\nat best", _best),
    "search": ("time s\nsearch", lambda row: _seconds(_get(row, "seconds", "search"))),
    "finetune": ("\nfinetune", lambda row: _seconds(_get(row, "seconds", "finetune"))),
}
