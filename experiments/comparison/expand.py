"""From what a comparison is asked to the runs that it makes: every column at its sparsities, with every seed."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.catalog.pruners.table import PRUNERS
from experiments.catalog.sanity_checks import CHECKS
from experiments.comparison import network
from experiments.comparison.columns import Column, Flags
from experiments.config.config import Config
from experiments.config.flag_names import flag_of
from experiments.config.flags import field_of
from experiments.config.parse import parse
from experiments.config.saved import digest, fields_of
from experiments.config.validate import check_used, chosen_checks, why_unused
from experiments.terminal.errors import UsageError

__all__ = ["DENSE", "Asked", "Combination", "Expanded", "expand", "forget"]

DENSE = Column("dense", "dense", {})
Place = Callable[[Config, Column, str | None], Path]  # sparsity as typed, None where nothing is removed


class Asked(NamedTuple):
    """A comparison. flags: of all columns that take them. strict: a flag that no column takes is an error. sanity: as
    typed. columns: the dense network too, where it is wanted."""

    dataset: str
    columns: Sequence[Column]
    sparsities: Sequence[str]
    seeds: range
    flags: Flags
    sanity: str = ""
    strict: bool = True


class Combination(NamedTuple):
    """One run to be made. sparsity: as typed, "0.0" where nothing is removed. needs: runs that come first, since this
    one reads what they leave. checks: the sanity checks that it undergoes."""

    config: Config
    folder: Path
    column: str
    sparsity: str
    needs: tuple[Any, ...] = ()
    checks: tuple[str, ...] = ()

    def name(self) -> str:
        """What is said of it."""
        return f"{self.column} at sparsity {self.config.sparsity}, seed {self.config.seed}"


class Expanded(NamedTuple):
    """The runs, the seeds outermost, so that a comparison that is stopped has whole rows of seeds; lines to be told;
    the common flags that some column takes."""

    combinations: list[Combination]
    notes: tuple[str, ...]
    taken: frozenset[str]


def expand(asked: Asked, place: Place) -> Expanded:
    """The runs of a comparison, of one network.

    Args:
      place: the run folder of each.
    Raises:
      UsageError: for whatever a run refuses, a flag that no column takes, and columns that are one run.
    """
    if asked.seeds[0] < 0:
        raise UsageError(f"--seed: expected 0 or more, got {asked.seeds[0]}")
    taken: set[str] = set()
    args: dict[str, list[str]] = {}
    first: list[tuple[Column, Config]] = []
    for column in asked.columns:
        args[column.name], used = _arguments(asked, column)
        first.append((column, _parsed(asked, column, _sparsities(asked, column)[0], args[column.name])))
        taken |= used
    for name in asked.flags if asked.strict else ():
        if name not in taken:
            raise UsageError(f"{flag_of(name)}: none of {_named(asked.columns)} takes it")
    agreed, notes = network.agreed(first)
    configs = {
        (column.name, sparsity): _parsed(asked, column, sparsity, args[column.name] + agreed.get(column.name, []))
        for column in asked.columns
        for sparsity in _sparsities(asked, column)
    }
    _check_distinct(configs)
    checks, refused = _checks(asked, configs)
    made: dict[tuple[str, str, int], Combination] = {}
    by_name = {column.name: column for column in asked.columns}
    cells = [(seed, *cell) for seed in asked.seeds for cell in configs]
    for seed, name, sparsity in cells:
        _make(by_name, configs, checks, place, made, (name, sparsity, seed), ())
    runs = [made[name, sparsity, seed] for seed, name, sparsity in cells]
    return Expanded(runs, notes + refused, frozenset(taken))


def _named(columns: Sequence[Column]) -> str:
    return ", ".join(column.name for column in columns if column != DENSE) or DENSE.name


def _sparsities(asked: Asked, column: Column) -> Sequence[str]:
    """Where a column is asked for: its own list, the comparison's, or nothing removed."""
    return column.sparsities or (asked.sparsities if column.removes else ("0.0",))


def _arguments(asked: Asked, column: Column) -> tuple[list[str], set[str]]:
    """The flags of a column, its own and those of the common ones that it takes, and which of the common those are."""
    own = [arg for args in column.flags.values() for arg in args]
    common = {name: args for name, args in asked.flags.items() if name not in column.flags}
    others = set(PRUNERS) - {column.pruner}
    fitting = [arg for name, args in common.items() if name.rpartition(".")[0] not in others for arg in args]
    config = _parsed(asked, column, _sparsities(asked, column)[0], [*own, *fitting], all_used=False)
    used = {name for name in common if why_unused(config, name) is None}
    taken = [arg for name in common if name in used for arg in common[name]]
    return [*own, *taken], used | (column.flags.keys() & asked.flags.keys())


def _parsed(asked: Asked, column: Column, sparsity: str, args: Sequence[str], *, all_used: bool = True) -> Config:
    """The configuration of the last seed."""
    chosen = (f"--pruner={column.pruner}", f"--sparsity={sparsity}", f"--seed={asked.seeds[-1]}")
    config = _parse(asked.dataset, (*chosen, *args))
    if all_used:
        check_used(config, {field_of(arg) for arg in args if arg.startswith("--")})
    return config


@functools.lru_cache(maxsize=512)
def _parse(dataset: str, args: tuple[str, ...]) -> Config:
    """Reading a command line takes a fortieth of a second, and columns of several comparisons are alike."""
    return parse(dataset, list(args), all_used=False)[0]


def forget() -> None:
    """Has the next comparison read its flags again: what they may be depends on the data."""
    _parse.cache_clear()


def _check_distinct(configs: dict[tuple[str, str], Config]) -> None:
    """Refuses two columns that would be one run."""
    seen: dict[str, str] = {}
    for (name, sparsity), config in configs.items():
        other = seen.setdefault(digest(fields_of(config)), name)
        if other != name:
            raise UsageError(f"columns {other!r} and {name!r} are one run at sparsity {sparsity}; expected flags in "
                             "which they differ, and none for all that takes their place")  # fmt: skip


def _checks(asked: Asked, configs: dict[tuple[str, str], Config]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The sanity checks that each column undergoes: of those asked for, what is defined for it; and lines that say
    which columns leave one out.

    Raises:
      UsageError: for a check that no column can undergo.
    """
    names = [name.strip() for name in asked.sanity.split(",") if name.strip()]
    found: dict[str, tuple[str, ...]] = {}
    refused: dict[str, dict[str, None]] = {}
    without: dict[str, dict[str, None]] = {}
    for (column, _), config in configs.items():
        possible: set[str] = set()
        for name in names if config.method.removes else ():
            try:
                possible |= set(chosen_checks(dataclasses.replace(config, sanity=name)))
            except UsageError as error:
                refused.setdefault(name, {})[str(error)] = None
                without.setdefault(name, {})[column] = None
        found[column] = tuple(name for name in CHECKS if name in possible)
    taken = {name for some in found.values() for name in some}
    for name, why in refused.items():
        if name not in taken:
            raise UsageError(next(iter(why)))
    lines = (f"without {name}: {', '.join(some)} ({'; '.join(refused[name])})" for name, some in without.items())
    return found, tuple(lines)


def _make(
    columns: dict[str, Column],
    configs: dict[tuple[str, str], Config],
    checks: dict[str, tuple[str, ...]],
    place: Place,
    made: dict[tuple[str, str, int], Combination],
    cell: tuple[str, str, int],
    above: tuple[str, ...],
) -> Combination:
    """The run of a cell, once those that it needs are known; `above` are the columns that need it."""
    if cell in made:
        return made[cell]
    name, sparsity, seed = cell
    config = dataclasses.replace(configs[name, sparsity], seed=seed)
    needs = []
    for field, wanted in _references(config).items():
        flag = f"{flag_of(field)}=@{wanted}"
        if wanted not in columns or wanted in (*above, name):
            others = [other for other in columns if other not in (*above, name)]
            raise UsageError(f"{flag}: expected another column, one of {', '.join(others) or 'none'}, got {wanted!r}")
        at = float(sparsity) if columns[wanted].removes else 0.0
        there = next((typed for other, typed in configs if other == wanted and float(typed) == at), None)
        if there is None:
            raise UsageError(f"{flag}: expected {wanted} at sparsity {at} in the comparison, where {name} needs it")
        needed = _make(columns, configs, checks, place, made, (wanted, there, seed), (*above, name))
        needs.append(needed)
        config = _replaced(config, field, needed.folder)
    folder = place(config, columns[name], sparsity if config.method.removes else None)
    made[cell] = Combination(config, folder, name, sparsity, tuple(needs), checks.get(name, ()))
    return made[cell]


def _references(config: Config) -> dict[str, str]:
    """Fields that name a column, as in --pretrained=@dense: field -> the name."""
    fields: dict[str, Any] = {"pretrained": config.pretrained}
    fields |= {f"{config.pruner}.{name}": value for name, value in vars(config.options).items()}
    return {
        field: str(value)[1:] for field, value in fields.items() if isinstance(value, Path) and str(value)[:1] == "@"
    }


def _replaced(config: Config, field: str, value: Path) -> Config:
    group, _, name = field.rpartition(".")
    changed: dict[str, Any] = {name: value}
    if group:
        return dataclasses.replace(config, options=dataclasses.replace(config.options, **changed))
    return dataclasses.replace(config, **changed)
