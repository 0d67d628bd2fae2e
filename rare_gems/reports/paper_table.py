"""A paper's numbers beside ours: a table to print, a CSV, and Markdown for a folder of results.

A row is a dict, all of its numbers in the unit that the paper prints (accuracies in percent, not fractions):
  name     what the paper's row is called
  what     which number of it, if there are several: "after finetuning" (may be absent)
  paper    the number printed; None if the paper prints none
  error    what it prints behind the ± (None or absent: nothing)
  ours     a list over seeds, None where a run has no value
  unit     "%" (by default), or "epochs", "L2", "degrees", ...
  margin   a difference that does not matter; by default half a point, and with another unit 2.5 % of the number
  exact    True for a number without noise, such as epochs or weights kept
  remark   of this row, e.g. that the print is suspect
"""

import csv
import functools
import io
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from rare_gems.reports.agreement import Agreement, agreement
from rare_gems.reports.run_tables import NONE, Row

__all__ = ["COLUMNS", "as_csv", "as_markdown", "compare", "grid", "table", "tally"]

COLUMNS = (
    "name", "what", "unit", "paper", "paper_error", "ours", "ours_std", "seeds", "difference", "noise", "in_noise",
    "verdict", "why", "remark",
)  # fmt: skip

_WORDS = ("\nrow", "\nwhat", "\nunit", "\nverdict", "\nwhy")  # columns of words stand left, those of numbers right
_NOTES = (
    "difference: our mean - the paper's number; noise: sqrt(s² + e²), s the standard deviation of our seeds,"
    " e the paper's error",
    "reproduced: the difference is within the noise or the margin (half a point; else 2.5 %); undecided: too few seeds",
)


def compare(row: Row) -> Agreement:
    """The `agreement.agreement` of a row.

    Raises:
      ValueError: a row without its name, `paper` or `ours`, or numbers that `agreement` refuses; it names the row.
    Example:
      >>> row = {"name": "GEM-MINER", "what": "after", "paper": 66.15, "ours": [66.4, 65.9, 66.0]}
      >>> result = compare(row)
      >>> f"{result.difference:+.2f}", result.verdict
      ('-0.05', 'reproduced')
    """
    missing = [key for key in ("name", "paper", "ours") if key not in row]
    if missing:
        raise ValueError(f"row {row.get('name', dict(row))}: expected name, paper and ours, got no {missing[0]}")
    paper, margin = row["paper"], row.get("margin")
    if margin is None:
        margin = 0.5 if row.get("unit", "%") == "%" else 0.025 * abs(paper or 0.0)
    try:
        exact = bool(row.get("exact", False))
        return agreement(paper, row["ours"], error=row.get("error"), margin=margin, exact=exact)
    except ValueError as error:
        raise ValueError(f"row {_label(row)}: {error}") from None


def table(rows: Sequence[Row], title: str | None = None, note: str | None = None) -> Table:
    """A row for each number: the paper's, ours (mean±std over seeds), the difference, also in noise, and the verdict.

    Args:
      rows: dicts as this module's page says. title: one line above.
      note: what was reduced, such as "scale small: 5,000 images, 8 epochs"; stands under the table.
    """
    remarks = list(dict.fromkeys(str(row["remark"]) for row in rows if row.get("remark")))
    notes = [tally(rows), *([note] if note else []), *_numbered(remarks), *_NOTES]
    result = Table(title=title, caption="\n".join(notes), box=None, pad_edge=False, collapse_padding=True)
    result.title_justify = result.caption_justify = "left"
    headings, cells = _cells(rows, remarks)
    for heading in headings:
        result.add_column(heading, justify="left" if heading in _WORDS else "right", no_wrap=True)
    for line in cells:
        result.add_row(*(Text(cell) for cell in line))
    return result


def as_csv(rows: Sequence[Row]) -> str:
    """The rows with `COLUMNS` as header, numbers whole, empty where there is none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        found = compare(row)
        writer.writerow({
            "name": row["name"], "what": row.get("what"), "unit": row.get("unit", "%"), "paper": row["paper"],
            "paper_error": row.get("error"), "ours": _short(found.mean), "ours_std": _short(found.std),
            "seeds": found.n, "difference": _short(found.difference), "noise": _short(found.noise),
            "in_noise": _short(found.in_noise), "verdict": found.verdict, "why": found.why,
            "remark": row.get("remark"),
        })  # fmt: skip
    return text.getvalue()


def as_markdown(rows: Sequence[Row], title: str | None = None, note: str | None = None) -> str:
    """The table for a README of results: title and note above it, remarks and rules below."""
    remarks = list(dict.fromkeys(str(row["remark"]) for row in rows if row.get("remark")))
    headings, cells = _cells(rows, remarks)
    above = [_escape(note).replace("\n", "  \n")] if note else []
    below = [f"- {_escape(text)}" for text in (tally(rows), *_numbered(remarks), *_NOTES)]
    return grid(headings, cells, _WORDS, title, above) + "\n" + "\n".join(below) + "\n"


def grid(
    headings: Sequence[str], cells: Sequence[Sequence[str]], left: Sequence[str], title: str | None = None,
    above: Sequence[str] = (),
) -> str:  # fmt: skip
    """A table in Markdown, whatever its cells hold.

    Args:
      headings: of the columns, those of `left` stand left, others right. title, above: paragraphs before it; `above`
        is Markdown.
    Example:
      >>> print(grid(["claim", "seeds"], [["smart_ratio wins", "3"]], ["claim"]), end="")
      | claim | seeds |
      |---|---:|
      | smart\\_ratio wins | 3 |
    """
    lines = ["| " + " | ".join(heading.replace("\n", " ").strip() for heading in headings) + " |"]
    lines.append("|" + "".join("---|" if heading in left else "---:|" for heading in headings))
    lines += ["| " + " | ".join(_escape(cell).replace("\n", " ") for cell in line) + " |" for line in cells]
    return "\n\n".join([*([f"**{_escape(title)}**"] if title else []), *above, "\n".join(lines)]) + "\n"


def tally(rows: Sequence[Row]) -> str:
    """How many rows have which verdict.

    Example:
      >>> tally([{"name": name, "paper": 66.15, "ours": ours} for name, ours in (("a", [66, 66.1]), ("b", [66]))])
      '1 reproduced, 1 undecided'
    """
    counts = Counter(compare(row).verdict for row in rows)
    words = [f"{counts[v]} {v}" for v in ("reproduced", "below", "above", "undecided") if counts[v]]
    words += [f"{counts[None]} without a number of the paper"] if counts[None] else []
    return ", ".join(words) or "no rows"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("_", "\\_").replace("*", "\\*")


def _cells(rows: Sequence[Row], remarks: list[str]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, without the columns that are empty in every row."""
    headings = ["\nrow", "\nwhat", "\nunit", "\npaper", "\nours", "\nseeds", "difference\n", "in units\nof noise"]
    headings += ["\nverdict", "\nwhy"]
    cells = []
    for row in rows:
        found, unit = compare(row), row.get("unit", "%")
        show = _exact if row.get("exact", False) else functools.partial(_rounded, _digits(row))
        mark = f" [{remarks.index(str(row['remark'])) + 1}]" if row.get("remark") else ""
        paper = _number(row["paper"], row.get("error"), show) + mark
        ours = _number(found.mean, found.std, show)
        difference = NONE if found.difference is None else show(found.difference, "+")
        in_noise = NONE if found.in_noise is None else f"{found.in_noise:+.1f}"
        line = [str(row["name"]), str(row.get("what") or ""), str(unit), paper, ours, str(found.n), difference]
        cells.append([*line, in_noise, found.verdict or NONE, found.why])
    several = {row.get("unit", "%") for row in rows} not in ({"%"}, set())
    headings[6] = "difference\n" + ("(its unit)" if several else "points")
    shown = [i for i in range(len(headings)) if i not in (1, 2) or (several if i == 2 else any(c[1] for c in cells))]
    return [headings[i] for i in shown], [[line[i] for i in shown] for line in cells]


def _digits(row: Row) -> int:
    """Digits behind the point: two for percent; else one more than the paper's number has, at most two."""
    if row.get("unit", "%") == "%":
        return 2
    text = f"{row['paper']:.12f}".rstrip("0") if row["paper"] is not None else "0.00"
    return min(len(text.partition(".")[2]) + 1, 2)


def _rounded(digits: int, value: float, sign: str = "") -> str:
    return f"{value:{sign},.{digits}f}"


def _exact(value: float, sign: str = "") -> str:
    """A number that has no noise: whole, or with four digits that count, since it may be as small as a lambda of 1e-8.

    Example:
      >>> _exact(268336.0), _exact(1e-8), _exact(0.1), _exact(-0.25, "+")
      ('268,336', '1e-08', '0.1', '-0.25')
    """
    return f"{value:{sign},.0f}" if value == int(value) else f"{value:{sign},.4g}"


def _number(value: Any, error: Any, show: Callable[..., str]) -> str:
    if value is None:
        return NONE
    return show(value) + ("" if error is None else f"±{show(error)}")


def _numbered(remarks: list[str]) -> list[str]:
    return [f"[{number}] {remark}" for number, remark in enumerate(remarks, 1)]


def _label(row: Row) -> str:
    return ", ".join(str(row[key]) for key in ("name", "what") if row.get(key))


def _short(value: float | None) -> float | None:
    return value if value is None or value == int(value) else float(f"{value:.7g}")
