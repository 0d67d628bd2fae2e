"""The joint table of cost and verdicts: what finding a ticket costs, and what the ticket is worth."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from rare_gems.reports.run_tables import NONE, Row, accuracy_cell, mean_of
from rare_gems.reports.ticket_verdicts import accurate_at_init, finetunable, passes_sanity

__all__ = ["judge", "table"]

_ASKED = ("at_init", "accurate", "finetunable", "sanity")


def judge(rows: Sequence[Row], chance: float) -> list[dict[str, Any]]:
    """The verdicts of each row: `accurate`, `finetunable` and `sanity`, "yes", "no", "undecided" or None.

    The reference of `finetunable` is the row with the highest mean accuracy after finetuning among those that prune at
    initialization or whose `at_init` is not said ("dense" never).

    Args:
      rows: as for `table`. chance: the accuracy of a guess.
    Raises:
      ValueError: what the rules refuse; it names the row.
    Example:
      >>> rows = [{"name": "GM", "before": [0.6, 0.61], "after": [0.77, 0.78]}]
      >>> judge(rows, 0.1)[0]["accurate"], judge(rows, 0.1)[0]["sanity"]
      ('yes', None)
    """
    means = {number: mean_of(list(row.get("after") or [])) for number, row in enumerate(rows) if row["name"] != "dense"}
    scores = {
        number: mean["mean"] for number, mean in means.items() if mean and rows[number].get("at_init") is not False
    }
    scores = scores or {number: mean["mean"] for number, mean in means.items() if mean}
    best = list(rows[max(scores, key=lambda number: scores[number])]["after"]) if scores else []
    judged = []
    for row in rows:
        before, after = (list(row.get(key) or []) for key in ("before", "after"))
        try:
            judged.append({
                "accurate": accurate_at_init(before, chance) if before else None,
                "finetunable": finetunable(after, best, chance) if after else None,
                "sanity": passes_sanity(after, row.get("checks") or {}),
            })  # fmt: skip
        except ValueError as error:
            raise ValueError(f"row {row['name']}: {error}") from None
    return judged


def table(rows: Sequence[Row], chance: float, title: str | None = None, note: str | None = None) -> Table:
    """A row for each method: epochs of its search, accuracies, and the verdicts, each with the paper's beside it.

    Args:
      rows: a dict for each method: `name`; `at_init` (whether it prunes at initialization, a fact of the method; None
        or absent: not said); `epochs` of its search (a number, or one for each seed); `before` and `after`: accuracies
        (fractions) for each seed; `checks`: {check: accuracies after finetuning, in the same order of seeds}; `paper`:
        {"epochs", "at_init", "accurate", "finetunable", "sanity"} as the paper prints them (numbers or text; True,
        False; None for its dash; absent for what it does not say).
      chance: the accuracy of a guess. title: one line above. note: what was reduced.
    Returns:
      the table; a verdict reads "yes (yes)" where the paper's is in brackets. The rules stand below.
    Raises:
      ValueError: what the rules of `ticket_verdicts` refuse; it names the row.
    Source: Table 1 of Rare Gems.
    """
    judged = judge(rows, chance)
    notes = [*([note] if note else []), *_RULES]
    notes += ["in brackets: the paper"] if any(row.get("paper") for row in rows) else []
    result = Table(title=title, caption="\n".join(notes), box=None, pad_edge=False, collapse_padding=True)
    result.title_justify = result.caption_justify = "left"
    result.add_column("\nmethod", no_wrap=True)
    for heading in ("epochs of\nthe search", "accuracy %\nbefore", "\nafter"):
        result.add_column(heading, justify="right", no_wrap=True)
    for heading in ("prunes at\ninit?", "accurate at\ninit?", "\nfinetunable?", "passes\nsanity?"):
        result.add_column(heading, no_wrap=True)
    for row, found in zip(rows, judged, strict=True):
        paper = row.get("paper") or {}
        epochs = mean_of(list(row["epochs"])) if isinstance(row.get("epochs"), Sequence) else row.get("epochs")
        epochs = epochs["mean"] if isinstance(epochs, dict) else epochs
        cost = (NONE if epochs is None else f"{epochs:,.0f}") + _beside(paper, "epochs")
        accuracies = [accuracy_cell(mean_of(list(row.get(key) or []))) for key in ("before", "after")]
        at_init = row.get("at_init")
        answers = {"at_init": None if at_init is None else "yes" if at_init else "no", **found}
        cells = [(answers[key] or NONE) + _beside(paper, key) for key in _ASKED]
        result.add_row(*(Text(cell) for cell in [str(row["name"]), cost, *accuracies, *cells]))
    return result


_RULES = (
    "accurate at init: before finetuning more than 5 points above chance",
    "finetunable: after it three quarters of the way from chance to the best ticket, or more",
    "passes sanity: every check costs accuracy; no: for one a cost of 1 point is ruled out",
    "undecided: the 95 % interval over seeds holds both, or there is one seed",
)


def _beside(paper: Row, key: str) -> str:
    if key not in paper:
        return ""
    value = paper[key]
    if value is None:
        return f" ({NONE})"
    if isinstance(value, bool):
        return " (yes)" if value else " (no)"
    return f" ({value:,})" if isinstance(value, int) else f" ({value})"
