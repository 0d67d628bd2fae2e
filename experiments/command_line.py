"""The command line: typed flags, defaults from presets, one-line errors."""

import contextlib
import dataclasses
import io
import math
import re
import sys
from typing import Any

import tyro

from experiments import presets
from experiments.config import Config, ModelName, Pruner, UsageError, takes_epochs, why_unused
from experiments.datasets import DATASETS, facts_of
from experiments.networks import defaults_of
from experiments.options import GROUPS

__all__ = ["field_of", "parse", "read_flags"]


@dataclasses.dataclass(frozen=True)
class _Choice:
    """The fields that choose a preset."""

    pruner: Pruner = "gem_miner"
    model: ModelName | str = "resnet20"
    sparsity: float | None = None


def parse(dataset: str, args: list[str], *, all_used: bool = True) -> tuple[Config, dict[str, str]]:
    """The configuration of a command line, and the source of each value in it.

    Args:
      all_used: refuse flags that would be ignored.

    Raises:
      UsageError: for anything that tyro cannot read or `_check` refuses.
      SystemExit: with status 0, after --help.
    """
    program = f"python -m experiments.{dataset}"
    first = [arg for arg in args if arg not in ("-h", "--help")]
    choice, _ = read_flags(_Choice, first, program, return_unknown_args=True)
    dense = choice.pruner == "dense"
    sparsity = choice.sparsity if choice.sparsity is not None else 0.0 if dense else 0.9856
    if not 0 <= sparsity < 1:
        raise UsageError(f"--sparsity: expected a fraction removed in [0, 1), got {sparsity}")
    if dense and sparsity != 0:
        raise UsageError(f"--sparsity: the dense network removes nothing; expected 0 or no flag, got {sparsity}")
    preset = presets.lookup(choice.pruner, choice.model, dataset, sparsity)
    network = defaults_of(choice.model)
    named = Config(pruner=choice.pruner, model=choice.model, sparsity=sparsity, network=network)
    default = _replace(named, preset.values)
    config = read_flags(Config, args, program, default=default)
    typed = {field_of(arg) for arg in args if arg.startswith("--")}
    _check(dataset, config)
    _check_used(dataset, config, typed if all_used else set())
    sources = {n: "command line" if n in typed else preset.sources.get(n, "default") for n in _flat(config)}
    return config, sources


def field_of(flag: str) -> str:
    """The field that a flag sets: --gem-miner.no-freeze -> gem_miner.freeze."""
    name = flag.removeprefix("--").split("=")[0].replace("-", "_")
    return re.sub(r"(^|\.)no_", r"\1", name)


def _check(dataset: str, config: Config) -> None:
    searches = config.pruner == "gem_miner"
    facts = facts_of(dataset, dataclasses.replace(config, train_examples=None, validation_examples=0))
    if config.validation_examples and facts.num_validation:
        raise UsageError(
            f"--validation-examples: {dataset} has {facts.num_validation} validation images of its own; expected none"
        )
    train = facts.num_train
    train_left = train - config.validation_examples
    ranges: dict[str, tuple[Any, float, float]] = {
        "epochs": (config.epochs, 1 if takes_epochs(config) else 0, math.inf),
        "finetune-epochs": (config.finetune_epochs, 1 if config.pruner == "dense" else 0, math.inf),
        "num-seeds": (config.num_seeds, 1, math.inf),
        "at-once": (1 if config.at_once is None else config.at_once, 1, math.inf),
        "devices": (1 if config.devices is None else config.devices, 1, math.inf),
        "seed": (config.seed, 0, 2**32 - config.num_seeds),
        "validation-examples": (config.validation_examples, 0, train - 1),
        "train-examples": (train_left if config.train_examples is None else config.train_examples, 1, train_left),
        "batch-size": (config.batch_size, 1, config.train_examples or train_left),
        "image-size": (1 if config.image_size is None else config.image_size, 1, math.inf),
        "checkpoint-every": (config.checkpoint_every, 1, math.inf),
        "weight-decay": (config.weight_decay, 0, sys.float_info.max),
        "gem-miner.l2": (config.gem_miner.l2, 0, sys.float_info.max),
        "gem-miner.period": (config.gem_miner.period, 1, math.inf),
    }
    if searches and config.gem_miner.freeze:
        ranges["gem-miner.period"] = (config.gem_miner.period, 1, config.epochs - 1)
    for name, (value, low, high) in ranges.items():
        if not value >= low:
            raise UsageError(f"--{name}: expected {low} or more, got {value}")
        if not value <= high:
            raise UsageError(f"--{name}: expected at most {high}, got {value}")
    for name in ("learning_rate", "finetune_learning_rate"):
        if not 0 < getattr(config, name) < math.inf:
            raise UsageError(f"--{name.replace('_', '-')}: expected a positive number, got {getattr(config, name)}")
    if not 0 < config.network.width <= 100:
        raise UsageError(f"--network.width: expected a number in (0, 100], got {config.network.width}")
    if not 0 <= config.momentum < 1:
        raise UsageError(f"--momentum: expected a number in [0, 1), got {config.momentum}")
    if searches and not config.gem_miner.freeze and config.gem_miner.finetune_mask == "frozen":
        raise UsageError("--gem-miner.finetune-mask: expected 'rounded' without freezing, got 'frozen'")
    if config.batch_norm == "per-device" and (config.devices is None or config.devices < 2):
        raise UsageError(
            "--batch-norm: per-device statistics depend on how many there are; expected --devices=2 or more with it"
        )
    if config.at_once is not None and config.at_once > 1:
        if config.shard_params:
            raise UsageError("--at-once: --shard-params spreads one run over all devices; expected 1 with it")
        own = [f"--{n.replace('_', '-')}" for n in ("train_examples", "validation_examples") if getattr(config, n)]
        if dataset == "imagenet" or config.stream:
            raise UsageError("--at-once: streamed images are read for one run; expected 1")
        if own:
            raise UsageError(f"--at-once: {own[0]} gives each seed training images of its own; expected 1 with it")
    for flag, value in (("compare", config.compare), ("sanity", config.sanity)):
        if value and config.pruner == "dense":
            raise UsageError(f"--{flag}: the dense network has no mask to check; expected another pruner")


def _check_used(dataset: str, config: Config, typed: set[str]) -> None:
    """Refuses flags that would be ignored."""
    for name in sorted(typed):
        why = why_unused(config, name)
        if why:
            raise UsageError(why)
    for name in ("data_dir", "image_size", "skip_broken_images", "stream"):
        if getattr(config, name) not in (None, False) and name not in DATASETS[dataset].flags:
            taking = ", ".join(data for data, entry in DATASETS.items() if name in entry.flags)
            raise UsageError(f"--{name.replace('_', '-')}: {dataset} has no use for it; it is for {taking}")


def read_flags(kind: Any, args: list[str], program: str, **options: Any) -> Any:
    """tyro.cli with its boxed errors folded into one line."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(kind, args=args, prog=program, **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(_one_line(errors.getvalue())) from None


def _one_line(text: str) -> str:
    text = re.split(r"For full helptext|Argument helptext", text)[0]
    lines = [re.sub(r"[─│╭╮╰╯|]|-{4,}", "", line).strip() for line in text.splitlines()]
    return " ".join(line for line in lines[1:] if line).strip() or "the command line could not be read"


def _replace(config: Config, values: dict[str, Any]) -> Config:
    flat = {name: value for name, value in values.items() if "." not in name}
    for group in ("network", *GROUPS):
        nested = {name.split(".")[1]: value for name, value in values.items() if name.startswith(group + ".")}
        flat[group] = dataclasses.replace(getattr(config, group), **nested)
    return dataclasses.replace(config, **flat)


def _flat(config: Config) -> dict[str, Any]:
    flat = {}
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": entry for inner, entry in value.items()}
        else:
            flat[name] = value
    return flat
