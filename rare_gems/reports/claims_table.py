"""What a paper claims without numbers, beside our differences over seeds: to print, as CSV, and as Markdown.

A row is a dict:
  claim        the text
  at_least     how many points the difference is to be
  differences  points, paired for each seed; None where a run has no value, [] if none was made
"""

import csv
import io
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from rare_gems.reports import verdicts
from rare_gems.reports.paper_table import grid
from rare_gems.reports.run_tables import NONE, Row

__all__ = ["COLUMNS", "as_csv", "as_markdown", "table", "verdict"]

COLUMNS = ("claim", "at_least", "ours", "low", "high", "seeds", "verdict")

_HEADINGS = ("\nclaim", "at least\npoints", "\nours", "95 %\ninterval", "\nseeds", "\nverdict")
_LEFT = ("\nclaim", "\nverdict")


def table(rows: Sequence[Row], title: str | None = None, note: str | None = None) -> Table:
    """A row for each claim: the mean difference over seeds, its interval, and whether the claim holds.

    Args:
      rows: as this module's page says. title: one line above. note: what was reduced.
    Raises:
      ValueError: a difference that is not finite.
    """
    result = Table(title=title, caption=note, box=None, pad_edge=False, collapse_padding=True)
    result.title_justify = result.caption_justify = "left"
    for heading in _HEADINGS:
        result.add_column(heading, justify="left" if heading in _LEFT else "right", no_wrap=True)
    for row in rows:
        result.add_row(*(Text(cell) for cell in _cells(row)))
    return result


def as_csv(rows: Sequence[Row]) -> str:
    """The rows with `COLUMNS` as header: `ours` is the mean difference, from `low` to `high` its 95 % interval.

    Example:
      >>> print(as_csv([{"claim": "GM above EP", "at_least": 0.0, "differences": [41.0]}]), end="")
      claim,at_least,ours,low,high,seeds,verdict
      GM above EP,0.0,41.0,,,1,undecided
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        mean, low, high, seeds = _found(row)
        numbers = [None if value is None else float(f"{value:.7g}") for value in (mean, low, high)]
        writer.writerow([row["claim"], row["at_least"], *numbers, seeds, verdict(row)])
    return text.getvalue()


def as_markdown(rows: Sequence[Row], title: str | None = None) -> str:
    """The table for a README of results, its title above it."""
    return grid(_HEADINGS, [_cells(row) for row in rows], _LEFT, title)


def verdict(row: Row) -> str:
    """Whether the claim of a row holds.

      holds          the interval of the mean difference lies at or above `at_least`
      does not hold  it lies below
      undecided      it holds `at_least`, or there is one seed

    Example:
      >>> verdict({"claim": "GM above EP", "at_least": 0.0, "differences": [41.0, 42.5, 41.7]})
      'holds'
    """
    _, low, high, _ = _found(row)
    if low is None or high is None:
        return "undecided"
    if low >= row["at_least"]:
        return "holds"
    return "does not hold" if high < row["at_least"] else "undecided"


def _found(row: Row) -> tuple[float | None, float | None, float | None, int]:
    """Mean, interval and number of the differences that are known."""
    known = [float(value) for value in row["differences"] if value is not None]
    return tuple(verdicts.interval(known)) if known else (None, None, None, 0)


def _cells(row: Row) -> list[str]:
    mean, low, high, seeds = _found(row)
    shown = NONE if mean is None else f"{mean:+.2f}"
    interval = NONE if low is None or high is None else f"{low:+.2f} to {high:+.2f}"
    return [str(row["claim"]), f"{row['at_least']:+g}", shown, interval, str(seeds), verdict(row)]
