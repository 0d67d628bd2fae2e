"""From the runs of an item to its pictures: a function for each kind of figure."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.comparison import rows as comparison_rows
from experiments.comparison.expand import DENSE, Combination
from experiments.papers.item import Figure, Item
from experiments.problem.data import facts_of
from experiments.reproduction.spread import PartRuns, notes_of
from experiments.reproduction.values import Values, is_percent, spelled
from experiments.run_folder import paths
from rare_gems.reports import (
    accuracy_curves,
    column_points,
    cost_curves,
    layer_curves,
    overlap_curves,
    overlays,
    rewind_curves,
    scatter,
)

__all__ = ["KINDS", "draw"]

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


def _over_sparsity(shown: Sequence[Shown], file: Path, title: str, note: str | None) -> None:
    value: Any = shown[0].figure.value
    rows = [row for one in shown for row in [*(one.row(each) for each in one.chosen()), *one.dense()]]
    if value == "before":
        rows = [row for row in rows if row["name"] != DENSE.name]
        rows += [{"name": "chance", "panel": one.runs.title, value: _chance(one)} for one in shown]
    accuracy_curves.plot(rows, file, title, value, paper=_paper(shown, value), note=note)


def _sanity(shown: Sequence[Shown], file: Path, title: str, note: str | None) -> None:
    rows, several = [], len({each.column for one in shown for each in one.chosen()}) > 1
    for one in shown:
        for each in one.chosen():
            row = one.row(each, *each.checks)
            row["panel"] = f"{each.column}, {row['panel']}" if several else row["panel"]
            rows.append(row | {"check": "ticket", "name": "ticket"})
            rows += [row | {"check": n, "name": n, "after": row[n], "before": None} for n in each.checks]
    accuracy_curves.plot_sanity(rows, file, title, note=note)


def _over_epochs(value: str) -> Callable[[Sequence[Shown], Path, str, str | None], None]:
    def plot(shown: Sequence[Shown], file: Path, title: str, note: str | None) -> None:
        runs: dict[str, list[list[Row]]] = {}
        for one in shown:
            whole = [e for e in one.runs.combinations if e.column == DENSE.name and not one.figure.columns]
            for each in [*one.chosen(), *whole]:
                rows = _metrics(each)
                if rows:
                    where = f", {one.runs.title}" if len(shown) > 1 else ""
                    at = f" at {each.sparsity}" if len({e.sparsity for e in one.chosen()}) > 1 else ""
                    runs.setdefault(f"{each.column}{at}{where}", []).append(rows)
        overlays.plot(runs, file, title, (value,), note=note)

    return plot


def _metrics(each: Combination) -> list[Row]:
    file = each.folder / paths.METRICS
    if not (each.folder / paths.SUMMARY).exists() or not file.exists():
        return []
    with file.open() as lines:
        return [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(lines)]


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text or None


def _scatter(shown: Sequence[Shown], file: Path, title: str, note: str | None) -> None:
    rows = []
    for one in shown:
        for each in one.chosen():
            at = f"{100 * float(each.sparsity):.6g} %"
            rows.append(one.row(each) | {"panel": f"{one.runs.title}, {at}" if len(shown) > 1 else at})
    scatter.plot(rows, file, title, note=note)


def _layers(shown: Sequence[Shown], file: Path, title: str, note: str | None) -> None:
    rows = []
    for one in shown:
        for each in one.chosen():
            if found := comparison_rows.summaries(each):
                at = f"{100 * float(each.sparsity):.6g} %"
                panel = f"{one.runs.title}, {at}" if len(shown) > 1 else at
                rows.append(one.row(each) | {"layers": found[""]["layers"], "panel": panel})
    layer_curves.plot(rows, file, title, note=note)


def _overlap(x: Any) -> Callable[[Sequence[Shown], Path, str, str | None], None]:
    def plot(shown: Sequence[Shown], file: Path, title: str, note: str | None) -> None:
        value = shown[0].figure.value
        rows, places = [], {}
        for one in shown:
            places = {column.name: column.x for column in one.runs.part.columns}
            for each in one.chosen():
                row = one.row(each, value, f"{value}_by_chance", "search_epochs")
                row |= {"overlap": row[value], "by_chance": row[f"{value}_by_chance"]}
                if x == "epochs":
                    place = places.get(each.column)
                    row |= {"epochs": row["search_epochs"] if place is None else place, "name": one.runs.title}
                rows.append(row)
        paper = [row | {"overlap": row[value]} for row in _paper(shown, value)]
        if x == "epochs":
            paper = [row | {"epochs": places.get(row["name"]), "name": row["panel"]} for row in paper]
        overlap_curves.plot(rows, file, title, x, paper=paper, note=note)

    return plot


def _cost(shown: Sequence[Shown], file: Path, title: str, note: str | None) -> None:
    value = shown[0].figure.value
    rows = [one.row(each, "search_epochs", value) for one in shown for each in one.chosen()]
    rows += [row for one in shown for row in one.dense(value)]
    cost_curves.plot(rows, file, title, value=value, paper=_paper(shown, value, "search_epochs"), note=note)


def _columns(shown: Sequence[Shown], file: Path, title: str, note: str | None) -> None:
    """Over the columns' places on an axis, where they have some; else a line for each column."""
    value = shown[0].figure.value
    places = {column.name: column.x for one in shown for column in one.runs.part.columns}
    rows = [one.row(each, value) for one in shown for each in one.chosen()]
    paper = _paper(shown, value)
    if any(place is not None for place in places.values()):
        label = shown[0].figure.label or "x"
        on_axis = lambda row: row | {"x": places.get(row["name"]), "name": row["panel"]}  # noqa: E731
        rewind_curves.plot([on_axis(row) for row in rows], file, title, (value,), {"x": label},
                           [on_axis(row) for row in paper], note)  # fmt: skip
        return
    column_points.plot(rows, file, title, (value,), _label(value), paper, note,
                       percent=is_percent(value))  # fmt: skip


def _label(value: str) -> str:
    word = spelled(value, "0.0").removesuffix(", dense")
    return f"Accuracy {word} (%)" if value in ("before", "after") else f"{word} (%)" if is_percent(value) else word


def _paper(shown: Sequence[Shown], *values: str) -> list[Row]:
    return [row for one in shown for row in one.paper(*values)]


def _chance(one: Shown) -> float:
    return 1 / facts_of(one.runs.combinations[0].config).num_classes


KINDS: dict[str, Callable[[Sequence[Shown], Path, str, str | None], None]] = {
    "accuracy_over_sparsity": _over_sparsity,
    "sanity_over_sparsity": _sanity,
    "accuracy_over_epochs": _over_epochs("test_accuracy"),
    "sparsity_over_epochs": _over_epochs("sparsity"),
    "before_against_after": _scatter,
    "layer_sparsity": _layers,
    "overlap_over_epochs": _overlap("epochs"),
    "overlap_over_sparsity": _overlap("sparsity"),
    "accuracy_over_cost": _cost,
    "accuracy_over_columns": _columns,
}


def draw(item: Item, parts: Sequence[PartRuns], values: Sequence[Values], folder: Path) -> list[str]:
    """Draws the figures of an item, its parts as panels, and says for each where it is, or why there is none yet."""
    told = []
    notes = notes_of(parts)
    for number, figure in enumerate(item.figures, 1):
        if figure.kind not in KINDS:
            continue  # a table, which is printed
        shown = [Shown(runs, known, figure) for runs, known in zip(parts, values, strict=True)]
        file = paths.figure(folder, f"{figure.kind}_{number}" if len(item.figures) > 1 else figure.kind)
        title = f"{item.paper}, {item.number}: {item.shows}"
        try:
            KINDS[figure.kind](shown, file, title, "; ".join(notes) or None)
        except ValueError as error:  # runs that it needs are not finished
            told.append(f"figure {number}: not drawn yet ({error})")
        else:
            told.append(f"figure {number}: {file}")
    return told
