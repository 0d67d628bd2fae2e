"""The forms of a configuration on disk: its fields, their digest, and what of them decides what."""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.catalog.datasets import DATASETS
from experiments.catalog.networks import NetworkOptions
from experiments.catalog.pruners.table import PRUNERS
from experiments.catalog.training import GROUPS, TrainingOptions
from experiments.config.config import Config
from experiments.terminal.errors import UsageError

__all__ = ["FREE", "differing", "digest", "fields_of", "flat", "from_fields", "of_problem", "without_free"]

# Fields that do not change what a run computes, so that they may differ when it is resumed.
FREE = (
    "num_seeds", "at_once", "devices", "shard_params", "data_dir", "run_dir", "checkpoint_every", "on_collapse",
    "sanity", "compare", "profile", "dry_run", "for_",
)  # fmt: skip
# Those of them that say how it is computed.
_HOW = ("data_dir", "checkpoint_every", "on_collapse", "profile", "devices", "shard_params")
# Fields that older versions did not have, with the value that stands for what those did, under the same folder's name.
_LATER: dict[str, Any] = {
    "allow_missing": None, "allow_unexpected": None, "dense": None, "prunable": None, "variant": None,
    "data_seed": None, "keep": "ticket", "normalize": True,
} | dict.fromkeys(GROUPS)  # fmt: skip
# Options of methods that older versions did not have, likewise.
_LATER_OPTIONS: dict[str, dict[str, Any]] = {
    "gem_miner": {"freeze_at": "code", "at_least": 0},
    "gem_miner_auto": {"drop_unused": False},
    "grasp": {"at_least": 0},
    "jackpot": {"start": "mask", "budgets": "magnitude"},
    "magnitude": {"at_least": 0},
    "smart_ratio": {"decay": "quadratic"},
    "snip": {"at_least": 0},
}
# What data and network depend on; the seed too, where it chooses the images.
_PROBLEM = (
    "dataset", "model", "network", "precision", "batch_norm", "batch_size", "image_size", "normalize", "data_dir",
    "train_examples", "validation_examples", "skip_broken_images", "stream", "pretrained", "devices", "shard_params",
)  # fmt: skip


def fields_of(config: Config) -> dict[str, Any]:
    """All resolved fields, JSON-able; the options of the pruner stand under its name."""
    fields = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    own = fields.pop("options")
    if config.data.is_folder and config.data_dir is not None:
        fields["data_dir"] = str(config.data_dir.expanduser().resolve())
    return fields | ({config.pruner: own} if own else {})


def from_fields(fields: Mapping[str, Any]) -> Config:
    """The configuration that `fields_of` made these fields of, as read from a config.json.

    Raises:
      UsageError: if it is the configuration of another version.
    """
    try:
        pruner = fields["pruner"]
        common = {field.name for field in dataclasses.fields(Config)}  # "dense" is also a method, without options
        values = {name: value for name, value in fields.items() if name in common or name not in PRUNERS}
        for name in ("data_dir", "run_dir", "pretrained"):
            values[name] = None if values[name] is None else Path(values[name])
        values["network"] = NetworkOptions(**fields["network"])
        values |= {group: TrainingOptions(**fields.get(group) or {}) for group in GROUPS}
        kind, own = PRUNERS[pruner].options, dict(fields.get(pruner) or {}) if pruner not in common else {}
        own = _LATER_OPTIONS.get(pruner, {}) | own
        for name, hint in typing.get_type_hints(kind).items():
            if Path in typing.get_args(hint) and own.get(name) is not None:
                own[name] = Path(own[name])
        return Config(**values, options=kind(**own))
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"config.json: expected the fields of this version, got others ({error})") from None


def flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields under dotted names.

    Example:
      >>> flat({"seed": 1, "imp": {"rate": 0.2}})
      {'seed': 1, 'imp.rate': 0.2}
    """
    found: dict[str, Any] = {}
    for name, value in fields.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def digest(fields: Mapping[str, Any]) -> str:
    """Twelve hex digits of all fields that change what a run computes; for `folder`, where the images are, and for
    statistics per device, how many there are."""
    free = _free_in(fields)
    decisive = {name: value for name, value in fields.items() if name not in free}
    for group in GROUPS:
        given = (fields.get(group) or {}).items()
        decisive[group] = {name: value for name, value in given if value is not None} or None
    decisive = {name: value for name, value in decisive.items() if name not in _LATER or value != _LATER[name]}
    for name, old in _LATER_OPTIONS.items():
        if name in decisive:
            decisive[name] = {k: v for k, v in decisive[name].items() if k not in old or v != old[k]}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def _free_in(fields: Mapping[str, Any]) -> tuple[str, ...]:
    dataset = DATASETS.get(fields.get("dataset", ""))
    but = ("data_dir",) if dataset and dataset.is_folder else ()
    but += ("devices",) if fields.get("batch_norm") == "per-device" else ()
    return tuple(name for name in FREE if name not in but)


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, value, the other's) of the fields by which two configurations compute something else."""
    if digest(one) == digest(other):
        return []
    a, b = flat(one), flat(other)
    names = sorted(name for name in a | b if name not in _free_in(one) or name not in _free_in(other))
    return [(name, a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)]


def without_free(config: Config) -> Config:
    """The configuration with everything at its default that neither changes what a run computes nor says how."""
    free = [name for name in FREE if name not in _HOW]
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Config) if field.name in free}
    return dataclasses.replace(config, **defaults)


def of_problem(config: Config) -> Config:
    """The configuration with everything at its default but what data and network depend on: equal for runs that may
    train on one copy of them."""
    kept = {name: getattr(config, name) for name in _PROBLEM}
    own = config.train_examples or config.validation_examples or config.stream
    return Config(**kept, seed=config.seed if own else Config.seed)
