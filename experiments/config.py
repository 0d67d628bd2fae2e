"""The command line: typed flags, defaults from presets, one-line errors."""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import re
import sys
from pathlib import Path
from typing import Any, Literal

import tyro

from experiments import presets

__all__ = ["FACTS", "Config", "GemMiner", "Random", "UsageError", "as_dict", "digest", "parse", "run_folder"]

Pruner = Literal["gem_miner", "dense", "random"]
ModelName = Literal["resnet20", "lenet_300_100"]


# What is known of a data set before it is read: image shape, training and test examples, classes.
FACTS = {"digits": ((8, 8, 1), 1437, 360, 10), "cifar10": ((32, 32, 3), 50_000, 10_000, 10)}
_SEARCHES = ("gem_miner",)


class UsageError(ValueError):
    """A mistake on the command line: one line, exit status 2."""


@dataclasses.dataclass(frozen=True)
class GemMiner:
    """Options of GEM-MINER (Rare Gems, Algorithm 1)."""

    period: int = 5
    """epochs from one freezing round to the next (T)"""
    l2: float = 1e-4
    """strength of the regulariser (lambda)"""
    norm: Literal["l2", "l1"] = "l2"
    """what the regulariser sums: p^2 or |p|"""
    scope: Literal["global", "layer"] = "global"
    """rank scores over the whole network, or within each layer at equal ratios"""
    freeze: bool = True
    """freeze the lowest scores every period; without it the regulariser alone decides the sparsity"""
    rounding: Literal["deterministic", "stochastic"] = "deterministic"
    """the mask of the search: 1[p >= 0.5], or drawn from Bernoulli(p)"""
    finetune_mask: Literal["frozen", "rounded"] = "frozen"
    """finetune what was not frozen (q, of exact sparsity), or q and 1[p >= 0.5]"""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """optimizer of the scores"""


@dataclasses.dataclass(frozen=True)
class Random:
    """Options of random tickets."""

    scope: Literal["global", "layer"] = "global"
    """draw from all weights at once, or keep the same ratio of each layer"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Finds a lottery ticket, finetunes it, and leaves a run folder with the numbers, plots and ticket."""

    pruner: Pruner = "gem_miner"
    """how the ticket is found"""
    model: ModelName = "resnet20"
    """the network"""
    sparsity: float = 0.9856
    """fraction of the prunable weights that is removed, in [0, 1)"""
    epochs: int = 150
    """epochs of the search (0 where the pruner does not train)"""
    finetune_epochs: int = 150
    """epochs of training under the mask"""
    batch_size: int = 128
    """images per step"""
    learning_rate: float = 0.1
    """of the search"""
    finetune_learning_rate: float = 0.01
    """of the finetuning, before the first milestone"""
    momentum: float = 0.9
    """of SGD, in search and finetuning"""
    weight_decay: float = 1e-4
    """in the finetuning"""
    init: Literal["signed_constant", "kaiming_normal", "uniform"] = "signed_constant"
    """how the weights are drawn"""
    seed: int = 42
    """of weights, scores, batches and augmentation"""
    num_seeds: int = 1
    """runs with seed, seed + 1, ..., each in a folder of its own, and a table of mean and standard deviation"""
    train_examples: int | None = None
    """train on a class-balanced subset of that size"""
    validation_examples: int = 0
    """hold that many out of the training set; the test set is then read once, at the end"""
    data_dir: Path | None = None
    """where TFDS keeps its data sets (default: TFDS_DATA_DIR, or ~/tensorflow_datasets)"""
    run_dir: Path | None = None
    """the run folder (default: runs/ and a name made from the configuration)"""
    checkpoint_every: int = 5
    """epochs from one checkpoint to the next"""
    on_collapse: Literal["warn", "error"] = "warn"
    """what to do when a layer loses its last weight"""
    compare: bool = False
    """also finetune the layerwise-shuffled mask and a random mask of the same sparsity"""
    dry_run: bool = False
    """print the configuration with its sources, the schedule and the cost, and stop"""
    gem_miner: GemMiner = GemMiner()
    random: Random = Random()


@dataclasses.dataclass(frozen=True)
class _Choice:
    """The fields that choose a preset."""

    pruner: Pruner = "gem_miner"
    model: ModelName = "resnet20"
    sparsity: float | None = None


# Fields that do not change what a run computes, so that they may differ when it is resumed.
_FREE = ("num_seeds", "data_dir", "run_dir", "checkpoint_every", "on_collapse", "compare", "dry_run")


def parse(dataset: str, args: list[str]) -> tuple[Config, dict[str, str]]:
    """The configuration of a command line, and the source of each value in it.

    Raises:
      UsageError: for anything that tyro cannot read or `_check` refuses.
      SystemExit: with status 0, after --help.
    """
    program = f"python -m experiments.{dataset}"
    first = [arg for arg in args if arg not in ("-h", "--help")]
    choice, _ = _tyro(_Choice, first, program, return_unknown_args=True)
    dense = choice.pruner == "dense"
    sparsity = choice.sparsity if choice.sparsity is not None else 0.0 if dense else 0.9856
    if not 0 <= sparsity < 1:
        raise UsageError(f"--sparsity: expected a fraction removed in [0, 1), got {sparsity}")
    if dense and sparsity != 0:
        raise UsageError(f"--sparsity: the dense network removes nothing; expected 0 or no flag, got {sparsity}")
    preset = presets.lookup(choice.pruner, choice.model, dataset, sparsity)
    default = _replace(Config(pruner=choice.pruner, model=choice.model, sparsity=sparsity), preset.values)
    config = _tyro(Config, args, program, default=default)
    typed = {_field(arg) for arg in args if arg.startswith("--")}
    _check(dataset, config)
    _check_used(dataset, config, typed)
    sources = {n: "command line" if n in typed else preset.sources.get(n, "default") for n in _flat(config)}
    return config, sources


def _field(flag: str) -> str:
    name = flag.removeprefix("--").split("=")[0].replace("-", "_")
    return re.sub(r"(^|\.)no_", r"\1", name)


def as_dict(dataset: str, config: Config) -> dict[str, Any]:
    """All resolved fields, JSON-able, of the chosen pruner's options only its own."""
    fields = {"dataset": dataset} | json.loads(json.dumps(dataclasses.asdict(config), default=str))
    for name in ("gem_miner", "random"):
        if name != config.pruner:
            del fields[name]
    return fields


def run_folder(dataset: str, config: Config, one_of_many: bool) -> Path:
    """Where a run lives: as --run-dir says (a folder in it for each of several seeds), or by its hash."""
    if config.run_dir is None:
        return Path("runs") / f"{dataset}-{config.pruner}-{digest(as_dict(dataset, config))}"
    return config.run_dir / f"seed-{config.seed}" if one_of_many else config.run_dir


def digest(fields: dict[str, Any]) -> str:
    """Twelve hex digits of all fields that change what a run computes."""
    decisive = {name: value for name, value in fields.items() if name not in _FREE}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def _check(dataset: str, config: Config) -> None:
    searches = config.pruner in _SEARCHES
    train = FACTS[dataset][1]
    train_left = train - config.validation_examples
    ranges: dict[str, tuple[Any, float, float]] = {
        "epochs": (config.epochs, 1 if searches else 0, math.inf),
        "finetune-epochs": (config.finetune_epochs, 1, math.inf),
        "num-seeds": (config.num_seeds, 1, math.inf),
        "seed": (config.seed, 0, 2**32 - config.num_seeds),
        "validation-examples": (config.validation_examples, 0, train - 1),
        "train-examples": (train_left if config.train_examples is None else config.train_examples, 1, train_left),
        "batch-size": (config.batch_size, 1, config.train_examples or train_left),
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
    if not 0 <= config.momentum < 1:
        raise UsageError(f"--momentum: expected a number in [0, 1), got {config.momentum}")
    if searches and not config.gem_miner.freeze and config.gem_miner.finetune_mask == "frozen":
        raise UsageError("--gem-miner.finetune-mask: expected 'rounded' without freezing, got 'frozen'")
    if config.compare and config.pruner == "dense":
        raise UsageError("--compare: the dense network has no mask to compare with; expected another pruner")


def _check_used(dataset: str, config: Config, typed: set[str]) -> None:
    """Refuses flags that would be ignored."""
    for name in sorted(typed):
        group = name.split(".")[0]
        if group in ("gem_miner", "random") and group != config.pruner:
            raise UsageError(f"--{name.replace('_', '-')}: an option of {group}; expected none with {config.pruner}")
        if name in ("epochs", "learning_rate") and config.pruner not in _SEARCHES:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag}: of the search, which {config.pruner} has not; see --finetune-{flag}")
    if config.data_dir is not None and dataset == "digits":
        raise UsageError("--data-dir: digits come with scikit-learn; expected no such flag")


def _tyro(kind: Any, args: list[str], program: str, **options: Any) -> Any:
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
    for group in ("gem_miner", "random"):
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
