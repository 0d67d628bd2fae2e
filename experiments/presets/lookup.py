"""Hyper-parameters with their sources: one file per paper (or family of its numbers), looked up by `lookup`.

A pair of network and data set that several papers report has one owner for each pruner: no key is in two tables. Who
owns what is said in the files: Rare Gems, ResNet-20 on CIFAR-10 and all of GEM-MINER; Sanity-Checking Pruning, VGG-19
and ResNet-32; Lottery Jackpots, jackpots; Stabilizing, IMP elsewhere, and ImageNet's dense networks; Hidden Networks,
edge-popup elsewhere; Sparse Training, Deep R, SNFS, DSR and OBD.
"""

import math
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.catalog.training import GROUPS
from experiments.presets import (
    defaults,
    digits,
    hidden_networks,
    lottery_jackpots,
    rare_gems,
    rare_gems_baselines,
    rare_gems_networks,
    sanity_checking,
    sparse_training,
    stabilizing,
)
from experiments.presets.rows import WITHOUT_SEARCH, Row, Table, join

__all__ = ["TABLES", "VARIANTS", "Preset", "lookup", "usual_pruner"]


_GROUPS = ("network", *GROUPS)


class Preset(NamedTuple):
    """`values`: field of `Config` -> value (nested as "gem_miner.period"); `sources`: field -> where it is from."""

    values: dict[str, Any]
    sources: dict[str, str]


def _merged(*tables: Table) -> Table:
    merged: Table = {}
    for table in tables:
        twice = sorted(merged.keys() & table.keys())
        if twice:
            raise ValueError(f"presets: expected one table for each pruner, model and data set, got two for {twice}")
        merged |= table
    return merged


TABLES = _merged(
    rare_gems.TABLES, rare_gems_networks.TABLES, rare_gems_baselines.TABLES, sanity_checking.TABLES,
    lottery_jackpots.TABLES, stabilizing.TABLES, hidden_networks.TABLES, sparse_training.TABLES, digits.TABLES,
)  # fmt: skip


VARIANTS = stabilizing.VARIANTS
_VARIED = ("dense", "imp")  # which the variants train


def usual_pruner(model: str, dataset: str, meant: str | None = None) -> tuple[str, str]:
    """The method that finds a ticket where none is named, and why: GEM-MINER where its paper has settings for it.

    Args:
      meant: the method of which options are typed.
    Example:
      >>> usual_pruner("resnet20", "cifar10")[0], usual_pruner("resnet20", "folder")[0]
      ('gem_miner', 'gem_miner_auto')
    """
    if meant is not None:
        return meant, "default: the method whose options are typed"
    if ("gem_miner", model, dataset) in TABLES:
        return "gem_miner", f"default: Rare Gems has its settings for {model} on {dataset}"
    return "gem_miner_auto", f"default: Rare Gems has no settings of gem_miner for {model} on {dataset}"


def lookup(
    pruner: str,
    model: str,
    dataset: str,
    sparsity: float,
    options: Mapping[str, str] = types.MappingProxyType({}),
    *,
    variant: str | None = None,
) -> Preset:
    """The preset for these four; between the sparsities of a table, the row nearest in log(1 - sparsity).

    Where no table has the pruner, its default, with the network that the pair's dense row has.

    Args:
      options: of the pruner, as typed; some of them (`defaults.BY_OPTION`) come with fields of their own.
      variant: a name in `VARIANTS`, whose values take the place of the preset's.
    Raises:
      ValueError: for a variant that the network has not on that data set, and of a method with a search of its own,
        whose length is that of another paper.
    """
    base = _of_tables(pruner, model, dataset, sparsity)
    chosen = [row for (name, option, value), row in defaults.BY_OPTION.items()
              if name == pruner and options.get(option) == value]  # fmt: skip
    preset = Preset(*join(base, *chosen))
    if variant is None:
        return preset
    known = VARIANTS.get((model, dataset), {})
    if variant not in known:
        told = f"one of {', '.join(known)}" if known else "none"
        raise ValueError(f"expected {told} for {model} on {dataset}, got {variant!r}")
    if pruner not in (*_VARIED, *WITHOUT_SEARCH):
        told = f"none for {pruner}, whose search is another paper's; it is for {', '.join(_VARIED)} and methods"
        raise ValueError(f"expected {told} without a search, got {variant!r}")
    values, sources = known[variant]
    mine = [field for field in values if "." not in field or field.split(".")[0] in (*_GROUPS, pruner)]
    return Preset(*join(preset, ({f: values[f] for f in mine}, {f: sources[f] for f in mine})))


def _of_tables(pruner: str, model: str, dataset: str, sparsity: float) -> Preset:
    rows = TABLES.get((pruner, model, dataset)) or TABLES.get((pruner, "*", dataset))
    if rows is None:
        return Preset(*join(defaults.default_of(pruner), _network(model, dataset)))
    nearest = min(rows, key=lambda s: abs(math.log1p(-s) - math.log1p(-sparsity)))
    values, sources = rows[nearest]
    if nearest != sparsity:
        sources = {
            field: f"{source}, row of sparsity {nearest}" if _differs(rows, field) else source
            for field, source in sources.items()
        }
    own = {}  # what belongs to the method, where the pair's own row is silent
    if pruner in defaults.DEFAULT:
        own = {field: value for field, value in defaults.DEFAULT[pruner][0].items() if field.startswith(f"{pruner}.")}
    own_sources = {field: defaults.DEFAULT[pruner][1][field] for field in own}
    return Preset(own | values, own_sources | sources)


def _differs(rows: dict[float, Row], field: str) -> bool:
    """Whether the rows of a table disagree about a field."""
    return len({values.get(field) for values, _ in rows.values()}) > 1


def _network(model: str, dataset: str) -> Row:
    """How the dense network of a pair differs from the usual one."""
    rows = TABLES.get(("dense", model, dataset), {})
    values, sources = next(iter(rows.values()), ({}, {}))
    chosen = [field for field in values if field.startswith("network.") or field == "image_size"]
    return {field: values[field] for field in chosen}, {field: sources[field] for field in chosen}
