"""How weights may train: the fields of --training.* and --finetune.*, and the descent that they stand for."""

import dataclasses
from typing import Any, Literal

from rare_gems.pruners.parts.descent import TAKEN_BY_OPTIMIZER, TAKEN_BY_SCHEDULE, Descent

__all__ = ["GROUPS", "TrainingOptions", "descent_of", "inherited", "takes_momentum", "why_idle"]

GROUPS = ("training", "finetune")  # fields of the configuration that are of `TrainingOptions`


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """How weights train; what is not given is as the preset has it, and in the finetuning as in the search."""

    optimizer: Literal["sgd", "nesterov", "adam", "adamw", "rmsprop"] | None = None
    """sgd (default), nesterov (SGD with Nesterov's momentum), adam, adamw (its decay passes by the moments), rmsprop"""
    epsilon: float | None = None
    """of adam, adamw, rmsprop (default 1e-8)"""
    schedule: Literal["constant", "multistep", "cosine", "linear", "exponential"] | None = None
    """of the learning rate: multistep (default) falls at milestones; cosine once an epoch, linear and exponential at
    every step, to the end rate"""
    milestones: str | None = None
    """of multistep, in epochs, separated by commas (default: by the length, 80,120 of 150 or 160)"""
    milestone_steps: str | None = None
    """of multistep, in steps, in place of epochs"""
    decay_factor: float | None = None
    """of multistep, at each milestone (default 0.1)"""
    end_rate: float | None = None
    """of cosine, linear (default 0) and exponential, which needs it: the learning rate after the last step"""
    warmup_epochs: int | None = None
    """the learning rate rises from 0 for so many epochs"""
    warmup_steps: int | None = None
    """the same in steps, in place of epochs"""
    label_smoothing: float | None = None
    """share of a label that goes to all classes alike (default 0)"""
    weight_decay_of: Literal["all", "kernels"] | None = None
    """all that trains (default), or kernels: not BatchNorm and biases"""


# A group that has one of these has no use for what another gives of the others.
_TOGETHER = (
    ("optimizer", "epsilon"), ("schedule", *TAKEN_BY_SCHEDULE), ("milestones", "milestone_steps"),
    ("warmup_epochs", "warmup_steps"),
)  # fmt: skip


def inherited(own: TrainingOptions, other: TrainingOptions) -> TrainingOptions:
    """The options with those of another group where they say nothing: the finetuning's, as those of the search.

    A group with a schedule of its own takes no milestones from the other, and the like.
    """
    values = vars(own)
    dropped = set()
    for first, *rest in _TOGETHER:
        dropped |= set(rest) if values[first] is not None else set()
    for one, two in _TOGETHER[2:]:
        dropped |= {one} if values[two] is not None else set()
    taken = {name: value for name, value in vars(other).items() if values[name] is None and name not in dropped}
    return dataclasses.replace(own, **taken)


def descent_of(options: TrainingOptions) -> Descent:
    """The descent that the options stand for, without those that it has no use for.

    Raises:
      ValueError: "FIELD: expected ..." for milestones that are no integers.
    """
    values: dict[str, Any] = {}
    for name in Descent._fields:
        value = getattr(options, name)
        if value is not None and _why_unused(options, name) is None:
            values[name] = _integers(name, value) if name.startswith("milestone") else value
    return Descent(**values)


def why_idle(options: TrainingOptions, name: str) -> str | None:
    """Why an option would be ignored under the others, without the flag; None if it is not."""
    return _why_unused(options, name)


def takes_momentum(options: TrainingOptions) -> bool:
    """Whether the optimizer has a use for --momentum."""
    return (options.optimizer or "sgd") in TAKEN_BY_OPTIMIZER["momentum"]


def _why_unused(options: TrainingOptions, name: str) -> str | None:
    if name in TAKEN_BY_SCHEDULE and (options.schedule or "multistep") not in TAKEN_BY_SCHEDULE[name]:
        takers = " or ".join(TAKEN_BY_SCHEDULE[name])
        return f"not used by the schedule {options.schedule or 'multistep'}; expected schedule={takers} with it"
    if name == "epsilon" and (options.optimizer or "sgd") not in TAKEN_BY_OPTIMIZER[name]:
        return f"not used by {options.optimizer or 'sgd'}; expected optimizer={' or '.join(TAKEN_BY_OPTIMIZER[name])}"
    return None


def _integers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise ValueError(f"{name}: expected integers separated by commas, such as 80,120, got {text!r}") from None
