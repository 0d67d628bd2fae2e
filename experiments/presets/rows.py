"""How presets are written down: rows of values, each with its source, and tables of rows."""

from typing import Any

from experiments.catalog.pruners.table import PRUNERS

__all__ = ["OURS", "WITHOUT_SEARCH", "Row", "Table", "join", "relabelled", "row", "untrained"]

Row = tuple[dict[str, Any], dict[str, str]]
Table = dict[tuple[str, str, str], dict[float, Row]]  # pruner, model ("*": any), data set -> sparsity -> row

OURS = "our choice: the papers are silent"
# Pruners without a search that trains, so that a preset of theirs is one of training the weights under the mask.
WITHOUT_SEARCH = tuple(name for name, pruner in PRUNERS.items() if pruner.length is None and pruner.removes)


def row(source: str, **values: Any) -> Row:
    """One source for all values; `gem_miner__period` stands for the nested field gem_miner.period."""
    named = {name.replace("__", "."): value for name, value in values.items()}
    return named, dict.fromkeys(named, source)


def join(*rows: Row) -> Row:
    """The fields of all rows; a later one replaces an earlier.

    Example:
      >>> join(row("a paper", seed=1, imp__rate=0.2), row("its code", seed=2))
      ({'seed': 2, 'imp.rate': 0.2}, {'seed': 'its code', 'imp.rate': 'a paper'})
    """
    values, sources = {}, {}
    for row_values, row_sources in rows:
        values |= row_values
        sources |= row_sources
    return values, sources


def relabelled(source: str, values: Row) -> Row:
    """The values of a row, all from one source."""
    return row(source, **values[0])


def untrained(model: str, dataset: str, training: Row, paper: str, *, but: tuple[str, ...] = ()) -> Table:
    """Rows of the pruners without a search, all but `but`: they train as the pair's dense network of `paper` does."""
    values = relabelled(f"{OURS}; as the dense network of {paper}", training)
    return {(name, model, dataset): {0.9: values} for name in WITHOUT_SEARCH if name not in but}
