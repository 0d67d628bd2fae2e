"""How a table, a figure or a claim of a paper is written down as data: items of parts, columns and printed numbers."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

__all__ = ["Analysis", "Cells", "Claim", "Column", "Figure", "Item", "Number", "Part", "Small", "cells", "merged"]

Number = float | tuple[float, float]  # as printed, accuracies in percent; with the error that is printed beside it
Cells = Mapping[tuple[str, str], Mapping[str, Number]]  # (column, sparsity) -> {value: number}


class Column(NamedTuple):
    """One method of a table, with its options.

    name: as the table has it. flags: the method and its flags, as in `compare --columns`; `--sparsities=A,B` in them is
    the column's own list. small: further flags at small scale, after those of `Small`. x: its place on the axis of a
    figure over columns, such as an iteration.
    """

    name: str
    flags: str
    small: str = ""
    x: float | None = None


class Claim(NamedTuple):
    """What a text says of two columns, where no numbers are printed: `value` of `column` minus that of `over` is
    `at_least` points or more. over: empty for `value` itself. sparsity: where; empty, at each that both have.
    over_value: of `over`, if another."""

    says: str
    column: str
    over: str
    value: str = "after"
    at_least: float = 0.0
    sparsity: str = ""
    over_value: str = ""


class Figure(NamedTuple):
    """A picture of each part. kind: one of `experiments.reproduction.figures`. value: what it draws, as in the
    printed numbers. columns, sparsities: of which; empty, all. label: of the x axis, where the kind leaves it open.
    lines: (name, value) of several lines beside each other, over the places of columns, with the dense network as a
    level."""

    kind: str
    value: str = "after"
    columns: tuple[str, ...] = ()
    sparsities: tuple[str, ...] = ()
    label: str = ""
    lines: tuple[tuple[str, str], ...] = ()


class Analysis(NamedTuple):
    """What is computed of finished runs; its numbers are values of cells, named `WHAT.FIELD`.

    what: a kind of `experiments.reproduction.analyses`. columns: of which; empty, all. against: the column that each
    is compared with, at the same sparsity and seed. check: of which sanity check of the columns, in place of their
    tickets; its numbers are named `WHAT.CHECK_FIELD`.
    """

    what: str
    columns: tuple[str, ...] = ()
    against: str = ""
    check: str = ""


class Small(NamedTuple):
    """A stated reduction, which two CPU cores finish within an hour.

    says: what is smaller, in one sentence, for table and figure. flags: after those of the columns, each for those that
    take it. dataset, model: others than the paper's. sparsities, columns: fewer than the paper's. num_seeds: runs.
    """

    says: str
    flags: str
    dataset: str = ""
    model: str = ""
    sparsities: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    num_seeds: int = 1


class Part(NamedTuple):
    """One comparison: columns at sparsities, on one data set and network.

    printed: the paper's numbers. flags: of all columns that take them. sanity: checks of every ticket. dense: whether
    the dense network is trained too; it is the column "dense" at sparsity "0.0". name: in tables and figures, where
    data set and network do not tell it from the other parts.
    """

    dataset: str
    model: str
    columns: tuple[Column, ...]
    sparsities: tuple[str, ...]
    small: Small
    printed: Cells = MappingProxyType({})
    flags: str = ""
    sanity: tuple[str, ...] = ()
    dense: bool = True
    claims: tuple[Claim, ...] = ()
    analyses: tuple[Analysis, ...] = ()
    name: str = ""


class Item(NamedTuple):
    """A table, figure or claim of a paper.

    id: as typed. paper, number: as cited. shows: in one line. num_seeds: the paper's trials. notes: misprints, what the
    paper leaves out, and how a claim or concept is shown.
    """

    id: str
    paper: str
    number: str
    shows: str
    parts: tuple[Part, ...]
    figures: tuple[Figure, ...] = ()
    num_seeds: int = 3
    notes: tuple[str, ...] = ()


def cells(value: str, sparsities: Sequence[str], rows: Mapping[str, Sequence[Number | None]]) -> Cells:
    """The printed numbers of one value, {column: number at each sparsity}; None where nothing is printed.

    Example:
      >>> cells("after", ("0.9", "0.95"), {"SNIP": (93.65, None)})
      {('SNIP', '0.9'): {'after': 93.65}}
    """
    return {
        (name, sparsity): {value: number}
        for name, numbers in rows.items()
        for sparsity, number in zip(sparsities, numbers, strict=True)
        if number is not None
    }


def merged(*parts: Cells) -> Cells:
    """The cells of several values together.

    Example:
      >>> merged({("EP", "0.9"): {"before": 19.6}}, {("EP", "0.9"): {"after": 24.5}})
      {('EP', '0.9'): {'before': 19.6, 'after': 24.5}}
    """
    joined: dict[tuple[str, str], dict[str, Any]] = {}
    for part in parts:
        for cell, values in part.items():
            joined.setdefault(cell, {}).update(values)
    return joined
