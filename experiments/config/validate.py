"""Refuses values that cannot be run, flags that would be ignored, and checks that a method cannot undergo."""

import math
import sys
from typing import Any

from experiments.catalog.pruners.table import PRUNERS
from experiments.catalog.sanity_checks import CHECKS
from experiments.catalog.training import GROUPS, inherited, takes_momentum, why_idle
from experiments.config.config import Config
from experiments.config.data_flags import check_data_flags
from experiments.config.flag_names import flag_of
from experiments.terminal.errors import UsageError
from rare_gems.leaf_names import pattern_of

__all__ = ["check_used", "check_values", "chosen_checks", "why_unused"]


def check_values(config: Config) -> None:
    """Refuses values out of range and values that do not go together.

    Raises:
      UsageError: naming the flag, what was expected and what was given.
    """
    _check_ranges(config)
    for name in ("learning_rate", "finetune_learning_rate"):
        if not 0 < getattr(config, name) < math.inf:
            raise UsageError(f"{flag_of(name)}: expected a positive number, got {getattr(config, name)}")
    if not 0 <= config.sparsity < 1:
        raise UsageError(f"--sparsity: expected a fraction removed in [0, 1), got {config.sparsity}")
    if not 0 < config.network.width <= 100:
        raise UsageError(f"--network.width: expected a number in (0, 100], got {config.network.width}")
    if not 0 <= config.momentum < 1:
        raise UsageError(f"--momentum: expected a number in [0, 1), got {config.momentum}")
    for name in ("allow_missing", "allow_unexpected"):
        _check_regex(name, getattr(config, name))
    if config.batch_norm == "per-device" and (config.devices is None or config.devices < 2):
        raise UsageError(
            "--batch-norm: per-device statistics depend on how many there are; expected --devices=2 or more with it"
        )
    if config.at_once is not None and config.at_once > 1:
        _check_at_once(config)
    if not config.method.removes and (config.compare or config.sanity):
        flag = "--compare" if config.compare else "--sanity"
        raise UsageError(f"{flag}: the dense network has no mask to check; expected another pruner")
    if config.method.begins is not None and config.pretrained is not None:
        raise UsageError(f"--pretrained: {config.pruner} begins with the weights of another run; expected no such flag")
    if config.method.needs_weights and config.pretrained is None:
        raise UsageError(
            f"--pretrained: {config.pruner} searches a trained network; expected PyTorch weights, or the run folder or "
            "ticket.safetensors of a dense run (--pruner=dense)"
        )


def _check_regex(name: str, text: str | None) -> None:
    try:
        pattern_of(text or "")
    except ValueError as error:
        raise UsageError(f"{flag_of(name)}: {error}") from None


def _check_ranges(config: Config) -> None:
    facts = config.data.facts_of(config.source)
    if config.validation_examples and facts.num_validation:
        raise UsageError(
            f"--validation-examples: {config.dataset} has {facts.num_validation} validation images of its own; "
            "expected none"
        )
    left = facts.num_train - config.validation_examples
    ranges: dict[str, tuple[Any, float, float]] = {
        "epochs": (config.epochs, 1 if config.takes_epochs else 0, math.inf),
        "finetune_epochs": (config.finetune_epochs, 0 if config.method.removes else 1, math.inf),
        "num_seeds": (config.num_seeds, 1, math.inf),
        "at_once": (1 if config.at_once is None else config.at_once, 1, math.inf),
        "devices": (1 if config.devices is None else config.devices, 1, math.inf),
        "seed": (config.seed, 0, 2**32 - config.num_seeds),
        "data_seed": (config.data_seed or 0, 0, 2**32 - 1),
        "validation_examples": (config.validation_examples, 0, facts.num_train - 1),
        "train_examples": (left if config.train_examples is None else config.train_examples, 1, left),
        "batch_size": (config.batch_size, 1, config.train_examples or left),
        "image_size": (1 if config.image_size is None else config.image_size, 1, math.inf),
        "checkpoint_every": (config.checkpoint_every, 1, math.inf),
        "weight_decay": (config.weight_decay, 0, sys.float_info.max),
    }
    for name, (value, low, high) in ranges.items():
        if not value >= low:
            raise UsageError(f"{flag_of(name)}: expected {low} or more, got {value}")
        if not value <= high:
            raise UsageError(f"{flag_of(name)}: expected at most {high}, got {value}")


def _check_at_once(config: Config) -> None:
    if config.shard_params:
        raise UsageError("--at-once: --shard-params spreads one run over all devices; expected 1 with it")
    if config.batch_norm == "per-device":
        raise UsageError("--at-once: runs that train at once do not share their batches out; expected 1 with "
                         "--batch-norm=per-device")  # fmt: skip
    if config.data.streamed or config.stream:
        raise UsageError("--at-once: streamed images are read for one run; expected 1")
    for name in ("train_examples", "validation_examples"):
        if getattr(config, name):
            raise UsageError(
                f"--at-once: {flag_of(name)} gives each seed training images of its own; expected 1 with it"
            )


def check_used(config: Config, typed: set[str]) -> None:
    """Raises UsageError for a flag of `typed` (names of fields) that would be ignored."""
    for name in sorted(typed):
        why = why_unused(config, name)
        if why:
            raise UsageError(why)
    check_data_flags(config)


def why_unused(config: Config, name: str) -> str | None:
    """Why a field would be ignored, or None if it is used."""
    method, flag, (group, _, option) = config.method, flag_of(name), name.rpartition(".")
    if group in PRUNERS and group != config.pruner:
        return f"{flag}: an option of {group}; expected none with {config.pruner}, or --pruner={group}"
    if group in PRUNERS:
        why = method.why_idle and method.why_idle(config.options, option)
        return f"{flag}: {why}" if why else None
    if name == "epochs" and method.length == "rounds":
        return f"--epochs: {config.pruner} trains for its rounds; see --{config.pruner}.round-epochs"
    searches = config.takes_epochs or method.length == "rounds"
    if name in ("epochs", "learning_rate") and not searches:
        return f"{flag}: of the search, which {config.pruner} has not; see --finetune-{flag.removeprefix('--')}"
    if name == "learning_rate" and not method.takes_rate:
        return f"{flag}: steps of {config.pruner} follow from its length; expected no such flag, or another --pruner"
    if group in GROUPS:
        return _why_untrained(config, group, option)
    trains_weights = config.finetune_epochs > 0 or method.trains == "weights"
    whys = {
        "finetune_learning_rate": (config.finetune_epochs == 0, "there is no finetuning with --finetune-epochs=0"),
        "keep": (
            config.keep == "rounds" and not method.keeps_rounds,
            f"{config.pruner} trains no weights in rounds; expected ticket, or one of {', '.join(_with_rounds())}",
        ),
        "for_": (not config.dry_run, "what a dry run is compiled for; expected --dry-run with it"),
        "init": (_why_given(config) != "", _why_given(config)),
        "replace_classifier": (
            config.pretrained is None, "there are no weights to leave one out of; expected --pretrained with it"
        ),
        "allow_missing": (config.pretrained is None, "there are no weights to fit; expected --pretrained with it"),
        "allow_unexpected": (config.pretrained is None, "there are no weights to fit; expected --pretrained with it"),
        "weight_decay": (not trains_weights, f"{config.pruner} trains no weights with --finetune-epochs=0"),
        "momentum": _without_momentum(config),
        "scale_fan": (_why_unscaled(config) != "", _why_unscaled(config)),
    }  # fmt: skip
    idle, why = whys.get(name, (False, ""))
    return f"{flag}: {why}" if idle else None


def _why_given(config: Config) -> str:
    """Why no weights are drawn; empty if they are."""
    if config.method.begins is not None:
        return f"{config.pruner} begins with the weights of another run"
    return "" if config.pretrained is None else "the weights are those of --pretrained"


def _why_unscaled(config: Config) -> str:
    """Why --scale-fan would do nothing; empty if it does something."""
    if why := _why_given(config):
        return why
    if config.init == "model":
        return "the network draws its weights itself with --init=model"
    return "" if config.sparsity else "a unit keeps all of its inputs at sparsity 0"


def _without_momentum(config: Config) -> tuple[bool, str]:
    """Whether nothing has a use for --momentum, and why."""
    method, searches = config.method, config.takes_epochs or config.method.length == "rounds"
    used = [config.training] if method.trains == "weights" and searches else []
    used += [inherited(config.finetune, config.training)] if config.finetune_epochs else []
    if not used and not searches:
        return True, f"{config.pruner} trains nothing with --finetune-epochs=0"
    if not used and not method.takes_momentum(config.options):
        what = f"{config.pruner} has no use for it and" if method.takes_rate else config.pruner
        return True, f"{what} trains no weights with --finetune-epochs=0"
    idle = not any(map(takes_momentum, used)) and not method.takes_momentum(config.options)
    return idle, f"not used by {used[0].optimizer if used else ''}; expected --training.optimizer=sgd with it"


def _why_untrained(config: Config, group: str, option: str) -> str | None:
    """Why a field of --training or --finetune would be ignored, or None if it is used."""
    flag = flag_of(f"{group}.{option}")
    searches = config.method.trains == "weights" and (config.takes_epochs or config.method.length == "rounds")
    if group == "finetune" and config.finetune_epochs == 0:
        return f"{flag}: there is no finetuning with --finetune-epochs=0"
    if not searches and config.finetune_epochs == 0:
        return f"{flag}: {config.pruner} trains no weights with --finetune-epochs=0"
    if not searches and group == "training" and getattr(config.finetune, option) is not None:
        other = flag_of(f"finetune.{option}")
        return f"{flag}: the search of {config.pruner} trains no weights, and the finetuning has {other}"
    finetuning = inherited(config.finetune, config.training)
    used = [finetuning] if group == "finetune" else [config.training] if searches else [finetuning]
    whys = [why_idle(options, option) for options in used]
    if all(whys):
        return f"{flag}: {whys[0]}".replace("expected ", f"expected --{group}.", 1)
    falls = option in ("schedule", "milestones", "milestone_steps", "decay_factor", "end_rate")
    goes_on = config.finetune_epochs and getattr(config.finetune, option) is None is not getattr(finetuning, option)
    if group == "training" and falls and config.method.length == "rounds" and not config.options.decay and not goes_on:
        name = config.pruner.replace("_", "-")
        return f"{flag}: the rate of the rounds is constant with --{name}.no-decay; expected --{name}.decay with it"
    return None


def _with_rounds() -> list[str]:
    return [name for name, row in PRUNERS.items() if row.keeps_rounds]


def chosen_checks(config: Config, flag: str = "--sanity") -> tuple[str, ...]:
    """The sanity checks that a configuration asks for, each once, in the order of the catalogue.

    Args:
      flag: that asks for them.
    Raises:
      UsageError: for an unknown check, or one that the pruner cannot undergo.
    """
    asked = {name.strip() for name in config.sanity.split(",") if name.strip()}
    if config.compare:
        asked |= {"shuffle", "shuffle_global"}
    if "all" in asked:
        asked = (asked - {"all"}) | {name for name in CHECKS if _why_undefined(config, name) is None}
    for name in sorted(asked):
        if name not in CHECKS:
            raise UsageError(f"{flag}: expected some of all, {', '.join(CHECKS)}, got {name!r}")
        if why := _why_undefined(config, name):
            raise UsageError(f"{flag}={name}: {why}")
    return tuple(name for name in CHECKS if name in asked)


def _why_undefined(config: Config, name: str) -> str | None:
    """Why a method has nothing that a check would change, or None."""
    check = CHECKS[name]
    if check.invert and not config.method.inverts(config.options):
        some = " with these options" if callable(config.method.invertible) else ""
        return f"inversion is not defined for {config.pruner}{some}; expected other checks"
    if check.corrupt and not config.method.reads(config.options):
        return f"it changes the data of the search, and that of {config.pruner} reads none; expected other checks"
    if check.redraws and config.init == "model":
        return "expected reinit_kaiming_normal with --init=model"
    return None
