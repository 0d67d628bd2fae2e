"""The one network of a comparison, where the presets of its methods, from different papers, are of several variants."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from experiments.catalog.networks import NetworkOptions
from experiments.comparison.columns import Column, Flags
from experiments.config.config import Config
from experiments.config.flag_names import flag_of

__all__ = ["agreed"]


def agreed(columns: Sequence[tuple[Column, Config]]) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """The flags of the network that each column takes beside its own, and a line that says so.

    Of the variants that the presets have, the one of most columns is taken, of equally many the first. What is typed,
    for all columns or for one, stays.

    Returns:
      {column: flags}, empty where all agree; the lines.
    """
    chosen_flags: dict[str, list[str]] = {}
    lines = []
    for model in dict.fromkeys(config.model for _, config in columns):
        free = [(column, config) for column, config in columns if config.model == model]
        voting = [(column, config) for column, config in free if not _typed(column.flags)] or free[:1]
        chosen = Counter(config.network for _, config in voting).most_common(1)[0][0]  # of equally many the first
        whose = [column.name for column, config in voting if config.network == chosen]
        differing: dict[str, dict[Any, list[str]]] = {}
        for column, config in free:
            own = _typed(column.flags)
            for name, value in vars(chosen).items():
                there = getattr(config.network, name)
                if name not in own and there != value:
                    chosen_flags.setdefault(column.name, []).append(_flag(name, value))
                    differing.setdefault(name, {}).setdefault(there, []).append(column.name)
        if differing:
            lines.append(_told(model, chosen, differing, whose))
    return chosen_flags, tuple(lines)


def _typed(flags: Flags) -> set[str]:
    return {name.removeprefix("network.") for name in flags if name.startswith("network.")}


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--network.{name if value else f'no-{name}'}"
    return f"{flag_of(f'network.{name}')}={value}"


def _told(model: str, chosen: NetworkOptions, differing: dict[str, dict[Any, list[str]]], whose: list[str]) -> str:
    """One line: what all take, and whose presets have something else."""
    taken = " ".join(_flag(name, getattr(chosen, name)) for name in differing)
    others: dict[str, list[str]] = {}
    for name, values in differing.items():
        for value, columns in values.items():
            for column in columns:
                others.setdefault(column, []).append(_flag(name, value))
    told = "; ".join(f"{', '.join(names)}: {spelled}" for spelled, names in _grouped(others).items())
    return f"one {model} for all, that of {', '.join(whose)}: {taken} (others have {told}; such flags decide otherwise)"


def _grouped(flags: dict[str, list[str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for column, own in flags.items():
        groups.setdefault(" ".join(own), []).append(column)
    return groups
