"""From the runs of an item to its pictures: a function for each kind of figure."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.comparison import rows as comparison_rows
from experiments.comparison.expand import DENSE, Combination
from experiments.papers.item import Item
from experiments.problem.data import facts_of
from experiments.reproduction.shown import Row, Shown, paper_of
from experiments.reproduction.spread import PartRuns, notes_of
from experiments.reproduction.values import Values, is_percent, spelled, unit_of
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


def _over_sparsity(shown: Sequence[Shown], file: Path, title: str, note: str | None) -> None:
    value: Any = shown[0].figure.value
    rows = [row for one in shown for row in [*(one.row(each) for each in one.chosen()), *one.dense()]]
    if value == "before":
        rows = [row for row in rows if row["name"] != DENSE.name]
        rows += [{"name": "chance", "panel": one.runs.title, value: _chance(one)} for one in shown]
    accuracy_curves.plot(rows, file, title, value, paper=paper_of(shown, value), note=note)


def _sanity(shown: Sequence[Shown], file: Path, title: str, note: str | None) -> None:
    rows, paper, several = [], [], len({each.column for one in shown for each in one.chosen()}) > 1

    def of(row: Row, value: str, name: str) -> Row:
        """The row of a ticket (value "after"), or of what a check made of it."""
        panel = f"{row['name']}, {row['panel']}" if several else row["panel"]
        return row | {"panel": panel, "check": name, "name": name, "after": row[value]}

    for one in shown:
        for each in one.chosen():
            row = one.row(each, *each.checks)
            rows += [of(row, "after", "ticket"), *(of(row | {"before": None}, name, name) for name in each.checks)]
        checks = dict.fromkeys(name for each in one.chosen() for name in each.checks)
        for value, name in {"after": "ticket", **{name: name for name in checks}}.items():
            paper += [of(row, value, name) for row in one.paper(value) if row["name"] != DENSE.name]
    accuracy_curves.plot_sanity(rows, file, title, paper=paper, note=note)


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
        rows = list(csv.DictReader(lines))
    if any(name is None or text is None for row in rows for name, text in row.items()):
        raise ValueError(f"{file}: expected the epochs of a run, got a damaged file")
    return [{name: _number(text) for name, text in row.items()} for row in rows]


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
        paper = [row | {"overlap": row[value]} for row in paper_of(shown, value)]
        if x == "epochs":
            paper = [row | {"epochs": places.get(row["name"]), "name": row["panel"]} for row in paper]
        overlap_curves.plot(rows, file, title, x, paper=paper, note=note)

    return plot


def _cost(shown: Sequence[Shown], file: Path, title: str, note: str | None) -> None:
    """Over the cost that the paper prints: epochs in all, or of the search."""
    value = shown[0].figure.value
    cost = "epochs" if any("epochs" in row for row in paper_of(shown, "epochs")) else "search_epochs"
    rows = [one.row(each, cost, value) for one in shown for each in one.chosen()]
    rows += [row for one in shown for row in one.dense(value)]
    cost_curves.plot(rows, file, title, cost, value, paper_of(shown, value, cost), note)


def _columns(shown: Sequence[Shown], file: Path, title: str, note: str | None) -> None:
    """Over the columns' places on an axis, where they have some; else a line for each column."""
    value = shown[0].figure.value
    places = {column.name: column.x for one in shown for column in one.runs.part.columns}
    if any(place is not None for place in places.values()):
        _over_places(shown, places, file, title, note)
        return
    rows = [one.row(each, value) for one in shown for each in one.chosen()]
    paper = paper_of(shown, value)
    named = {DENSE.name} & {*shown[0].figure.columns, *(row["name"] for row in paper)}
    whole = [row for one in shown if not rows or named for row in one.dense(value)]
    rows, paper = _by_sparsity([*whole, *rows], paper)
    column_points.plot(rows, file, title, (value,), _label(value), paper, note,
                       percent=is_percent(value))  # fmt: skip


def _by_sparsity(*tables: Sequence[Row]) -> list[list[Row]]:
    """The rows of runs and of the paper; where a part has several sparsities, with a panel for each of them, and the
    dense network in all."""
    at: dict[str, dict[float, None]] = {}
    for row in (row for rows in tables for row in rows if row["name"] != DENSE.name):
        at.setdefault(row["panel"], {})[row["sparsity"]] = None

    def panels(row: Row) -> list[str]:
        several = list(at.get(row["panel"], ()))
        mine = several if row["name"] == DENSE.name else [row["sparsity"]]
        return [f"{row['panel']}, {100 * s:.6g} %" for s in mine] if len(several) > 1 else [row["panel"]]

    return [[row | {"panel": panel} for row in rows for panel in panels(row)] for rows in tables]


def _over_places(
    shown: Sequence[Shown], places: Mapping[str, float | None], file: Path, title: str, note: str | None
) -> None:
    figure = shown[0].figure
    value = figure.lines[0][1] if figure.lines else figure.value
    rows, paper = [], []
    for name, own in figure.lines or (("", value),):
        for found, some in ((rows, [one.row(each, own) for one in shown for each in one.chosen()]),
                            (paper, paper_of(shown, own))):  # fmt: skip
            found += [
                {"x": places.get(row["name"]), "name": name or row["panel"], value: row.get(own)}
                | {key: row[key] for key in ("panel", "seed", "error") if key in row}
                for row in some
            ]
    if figure.lines:
        rows += [row for one in shown for row in one.dense(value)]
    rewind_curves.plot(rows, file, title, (value,), {"x": figure.label or "x"}, paper, note)


def _label(value: str) -> str:
    word = spelled(value, "0.0").removesuffix(", dense").replace(".", ", ")
    word = f"Accuracy {word}" if value in ("before", "after") else word
    return f"{word} ({unit_of(value)})" if unit_of(value) else word


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
