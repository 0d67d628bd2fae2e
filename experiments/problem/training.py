"""How the weights of a run train in its search and in its finetuning: what the flags say, checked and spelled."""

from typing import Any, Literal

from experiments.catalog.training import TrainingOptions, descent_of, inherited
from experiments.config.config import Config
from experiments.config.flag_names import flag_of
from experiments.config.lengths import search_epochs
from experiments.terminal.errors import UsageError
from rare_gems import schedules
from rare_gems.pruners.parts import descent as descents
from rare_gems.pruners.parts.descent import Descent

__all__ = ["Part", "check_training", "descent_for", "smoothing_for", "spelled"]

Part = Literal["training", "finetune"]
_NAMES = {"sgd": "SGD", "nesterov": "SGD with Nesterov's momentum", "adam": "Adam", "adamw": "AdamW",
          "rmsprop": "RMSprop"}  # fmt: skip


def _options(config: Config, part: Part) -> TrainingOptions:
    return config.training if part == "training" else inherited(config.finetune, config.training)


def descent_for(config: Config, part: Part) -> Descent:
    """The descent of the weights in the search ("training") or in the finetuning.

    Raises:
      ValueError: for milestones that are no integers, which `check_training` refuses.
    """
    return descent_of(_options(config, part))


def smoothing_for(config: Config, part: Part) -> float:
    """How much the labels are smoothed there.

    Raises:
      UsageError: for a number outside [0, 1).
    """
    value = _options(config, part).label_smoothing or 0.0
    if not 0 <= value < 1:
        raise UsageError(f"{_flag(config, part, 'label_smoothing')}: expected a number in [0, 1), got {value}")
    return value


def check_training(config: Config, part: Part, steps_per_epoch: int) -> None:
    """Refuses what the weights cannot train by for that long.

    Raises:
      UsageError: naming the flag.
    """
    epochs = search_epochs(config) if part == "training" else config.finetune_epochs
    if not epochs or epochs < 0:
        return
    rate = config.learning_rate if part == "training" else config.finetune_learning_rate
    smoothing_for(config, part)
    length = {"num_epochs": epochs, "steps_per_epoch": steps_per_epoch}
    try:
        descents.check(descent_for(config, part), learning_rate=rate, momentum=config.momentum, **length)
    except ValueError as error:
        name, _, rest = str(error).partition(":")
        where = "the finetuning" if part == "finetune" else "the search"
        raise UsageError(f"{_flag(config, part, name)}:{rest}, in {where} of {epochs} epochs") from None


def _flag(config: Config, part: Part, name: str) -> str:
    """The flag that says it: the finetuning's own, if it is given or nothing is."""
    group = part if getattr(getattr(config, part), name) is not None else "training"
    return flag_of(f"{group}.{name}")


def spelled(config: Config, part: Part) -> str:
    """The training of that part in words.

    Example:
      >>> spelled(Config("digits"), "finetune")
      'SGD, momentum 0.9, rate 0.01, times 0.1 from epochs 80 and 120; weight decay 0.0001'
    """
    how, options = descent_for(config, part), _options(config, part)
    epochs = (search_epochs(config) if part == "training" else config.finetune_epochs) or 0
    rate = config.learning_rate if part == "training" else config.finetune_learning_rate
    told = [_NAMES[how.optimizer]]
    told += [f"momentum {config.momentum:g}"] if how.optimizer in descents.TAKEN_BY_OPTIMIZER["momentum"] else []
    told += [f"epsilon {how.epsilon:g}"] if how.epsilon is not None else []
    held = part == "training" and config.method.length == "rounds" and not config.options.decay
    told += [f"rate {rate:g}{', constant' if held else _fall(how, epochs)}"]
    warm = f"{how.warmup_epochs} epochs" if how.warmup_epochs else f"{how.warmup_steps} steps"
    told += [f"from 0 in {warm}"] if how.warmup_epochs or how.warmup_steps else []
    of = " of kernels" if how.weight_decay_of == "kernels" else ""
    rest = [f"weight decay {config.weight_decay:g}{of}"]
    rest += [f"labels smoothed by {options.label_smoothing:g}"] if options.label_smoothing else []
    return "; ".join([", ".join(told), *rest])


def _fall(how: Descent, epochs: int) -> str:
    if how.schedule == "constant":
        return ", constant"
    if how.schedule != "multistep":
        return f", {how.schedule} to {how.end_rate or 0.0:g}"
    stops: Any = how.milestones if how.milestone_steps is None else how.milestone_steps
    stops = schedules.milestones_for(epochs) if stops is None else stops
    if not stops:
        return ", constant"
    unit, factor = "epoch" if how.milestone_steps is None else "step", how.decay_factor or 0.1
    names = [str(stop) for stop in stops]
    some = f"s {', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else f" {names[0]}"
    return f", times {factor:g} from {unit}{some}"
