"""How long weights train, and what of a preset belongs to its length: milestones and warm-up, which go with it."""

import dataclasses
from collections.abc import Set
from typing import Any

from experiments.catalog.training import GROUPS, inherited
from experiments.config.config import Config

__all__ = ["fitted", "search_epochs"]

_TWINS = {"milestones": "milestone_steps", "warmup_epochs": "warmup_steps"}


def search_epochs(config: Config) -> int | None:
    """How long the search trains weights, a round of it if it has rounds; None if it trains none."""
    if config.method.trains != "weights":
        return None
    if config.method.length == "rounds":
        return config.options.round_epochs
    return config.epochs if config.takes_epochs else None


def fitted(config: Config, preset: Config, typed: Set[str]) -> tuple[Config, dict[str, str]]:
    """The configuration with the preset's milestones and warm-up scaled to the lengths that flags gave it.

    Args:
      preset: the configuration before any flag. typed: the fields that flags gave.
    Returns:
      the configuration, and what is to be added to the sources of the fields that changed.
    """
    notes: dict[str, str] = {}
    for part in GROUPS:
        was, now = _length(preset, part), _length(config, part)
        had = preset.training if part == "training" else inherited(preset.finetune, preset.training)
        for name, twin in _TWINS.items():
            value = getattr(had, name)
            groups = [part] if getattr(getattr(preset, part), name) is not None else GROUPS[: GROUPS.index(part) + 1]
            given = any(f"{group}.{one}" in typed for group in {part, *groups} for one in (name, twin))
            if not value or given or was < 1 or now < 1:
                continue
            own, new = getattr(config, part), _scaled(value, was, now)
            has = own if part == "training" else inherited(own, config.training)
            if new != getattr(has, name):
                config = dataclasses.replace(config, **{part: dataclasses.replace(own, **{name: new})})
                notes[f"{part}.{name}"] = f"scaled from {was} to {now} epochs"
    return config, notes


def _length(config: Config, part: str) -> int:
    search = search_epochs(config) if part == "training" else None
    return config.finetune_epochs if search is None else search


def _scaled(value: Any, was: int, now: int) -> Any:
    """Epochs of a training of `was` epochs in one of `now`: milestones, which stay apart, or the warm-up, of one at
    least where there is another epoch.

    Example:
      >>> _scaled("30,60,80", 90, 9), _scaled("30,60,80", 90, 2), _scaled(5, 90, 45), _scaled(5, 90, 9)
      ('3,6,8', '1', 2, 1)
    """
    if was == now:
        return value
    if isinstance(value, int):
        return min(max(round(value * now / was), 1), now - 1)
    stops: list[int] = []
    for stop in map(int, value.split(",")):
        stops += [max(round(stop * now / was), stops[-1] + 1 if stops else 1)]
    return ",".join(str(stop) for stop in stops if stop < now)
