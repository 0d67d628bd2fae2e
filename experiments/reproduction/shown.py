"""A part of an item with what its runs came to, as rows for plots."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.comparison.expand import DENSE, Combination
from experiments.papers.item import Figure
from experiments.reproduction.spread import PartRuns
from experiments.reproduction.values import Values, is_percent

__all__ = ["Row", "Shown", "paper_of"]

Row = dict[str, Any]


class Shown(NamedTuple):
    """A part with what its runs came to, and what is drawn of it."""

    runs: PartRuns
    values: Values
    figure: Figure

    def chosen(self) -> list[Combination]:
        """The runs that the figure is of, the dense network apart."""
        names, sparsities = self.figure.columns, self.figure.sparsities
        return [
            each for each in self.runs.combinations
            if each.column != DENSE.name
            and (not names or each.column in names) and (not sparsities or each.sparsity in sparsities)
        ]  # fmt: skip

    def row(self, each: Combination, *values: str) -> Row:
        """What plots take of a run: fractions where a paper has percent."""
        known = self.values[each.column, each.sparsity, each.config.seed]
        row: Row = {
            "name": each.column, "pruner": each.column, "sparsity": float(each.sparsity), "seed": each.config.seed,
            "panel": self.runs.title,
        }  # fmt: skip
        for value in ("before", "after", *values):
            number = known.get(value)
            row[value] = number / 100 if number is not None and is_percent(value) else number
        return row

    def paper(self, *values: str) -> list[Row]:
        """The paper's numbers as rows: fractions where it has percent."""
        found = []
        for (column, sparsity), cell in self.runs.part.printed.items():
            numbers = {value: cell[value] for value in values if value in cell}
            names, sparsities = self.figure.columns, self.figure.sparsities
            fits = (not names or column in names) and (not sparsities or sparsity in sparsities)
            if numbers and (fits or column == DENSE.name):
                row: Row = {"name": column, "sparsity": float(sparsity), "panel": self.runs.title}
                for value, number in numbers.items():
                    scale = 100 if is_percent(value) else 1
                    middle, error = number if isinstance(number, tuple) else (number, None)
                    row[value] = middle / scale
                    if error is not None:
                        row["error"] = error / scale
                found.append(row)
        return found

    def dense(self, *values: str) -> list[Row]:
        """The rows of the dense network."""
        return [self.row(each, *values) for each in self.runs.combinations if each.column == DENSE.name]


def paper_of(shown: Sequence[Shown], *values: str) -> list[Row]:
    """The paper's numbers of all parts."""
    return [row for one in shown for row in one.paper(*values)]
