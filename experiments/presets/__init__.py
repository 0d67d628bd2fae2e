"""Hyper-parameters with their sources: one file per reported family of numbers, looked up by `presets.lookup`."""

import math
from typing import Any, NamedTuple

from experiments.presets import baselines, digits, rare_gems

__all__ = ["Preset", "lookup"]


class Preset(NamedTuple):
    """`values`: field of `Config` -> value (nested as "gem_miner.period"); `sources`: field -> where it is from."""

    values: dict[str, Any]
    sources: dict[str, str]


def lookup(pruner: str, model: str, dataset: str, sparsity: float) -> Preset:
    """The preset for these four; between the sparsities of a table, the row nearest in log(1 - sparsity)."""
    tables = rare_gems.TABLES | digits.TABLES
    rows = tables.get((pruner, model, dataset)) or tables.get((pruner, "*", dataset))
    if rows is None:
        return Preset(*(rare_gems.DEFAULT | baselines.DEFAULT)[pruner])
    nearest = min(rows, key=lambda s: abs(math.log1p(-s) - math.log1p(-sparsity)))
    values, sources = rows[nearest]
    if pruner in baselines.DEFAULT:  # what belongs to the method, where the data set's own row is silent
        for field, value in baselines.DEFAULT[pruner][0].items():
            if "." in field and field not in values:
                values = values | {field: value}
                sources = sources | {field: baselines.DEFAULT[pruner][1][field]}
    if len(rows) > 1 and nearest != sparsity:
        sources = {field: f"{source}, row of sparsity {nearest}" for field, source in sources.items()}
    return Preset(values, sources)
