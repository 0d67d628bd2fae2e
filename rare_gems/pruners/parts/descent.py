"""How weights descend: the optimizer, the schedule of its learning rate, the warm-up, and what decays."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rare_gems import prunable, schedules
from rare_gems.phase import Params

__all__ = [
    "TAKEN_BY_OPTIMIZER",
    "TAKEN_BY_SCHEDULE",
    "Descent",
    "check",
    "optimizer",
    "rate_at",
    "rates_of",
    "sgd",
    "with_milestones",
]

_RMS_DECAY = 0.9  # of the mean square, as in TensorFlow (torch: 0.99)
# Fields of `Descent` that only some schedules, or only some optimizers, have a use for.
TAKEN_BY_SCHEDULE = {
    "milestones": ("multistep",), "milestone_steps": ("multistep",), "decay_factor": ("multistep",),
    "end_rate": ("cosine", "linear", "exponential"),
}  # fmt: skip
TAKEN_BY_OPTIMIZER = {"epsilon": ("adam", "adamw", "rmsprop"), "momentum": ("sgd", "nesterov", "rmsprop")}


class Descent(NamedTuple):
    """How weights train, but for numbers: rate r, momentum and weight decay stand beside it.

    optimizer: "sgd" (torch's order), "nesterov" (SGD with Nesterov's momentum), "adam", "adamw" (whose decay does not
      pass through the moments), "rmsprop" (mean square of 0.9, then the rate, then momentum, as in TensorFlow).
    epsilon: of Adam and RMSprop (1e-8); RMSprop adds it under the root.
    schedule: of the rate over T steps, from its value r: "constant"; "multistep", r * factor^(milestones reached);
      "cosine", end + (r - end) (1 + cos(pi x)) / 2; "linear", r + (end - r) x; "exponential", r (end / r)^x. x is the
      share of the steps after the warm-up that are done; of the cosine, of the epochs, as in the papers' codes.
    milestones, milestone_steps: in epochs, or in steps, from the start (default: `schedules.milestones_for` the
      length). decay_factor: at each (0.1). end_rate: of the rate after the last step (0; "exponential" needs one).
    warmup_epochs, warmup_steps: W, in one of the two: in the first W steps t the rate is t / W of the schedule's.
    weight_decay_of: "all" that trains, or "kernels": not norms, biases, positions and tokens.
    """

    optimizer: Literal["sgd", "nesterov", "adam", "adamw", "rmsprop"] = "sgd"
    epsilon: float | None = None
    schedule: Literal["constant", "multistep", "cosine", "linear", "exponential"] = "multistep"
    milestones: Sequence[int] | None = None
    milestone_steps: Sequence[int] | None = None
    decay_factor: float | None = None
    end_rate: float | None = None
    warmup_epochs: int = 0
    warmup_steps: int = 0
    weight_decay_of: Literal["all", "kernels"] = "all"


def check_numbers(*, learning_rate: float, momentum: float, weight_decay: float = 0.0) -> None:
    """Raises ValueError, naming it, for a rate that is not positive, a momentum outside [0, 1), or a negative decay."""
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate: expected a positive number, got {learning_rate}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum: expected a number in [0, 1), got {momentum}")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay: expected a finite number of 0 or more, got {weight_decay}")


def check(how: Descent, *, num_epochs: int, steps_per_epoch: int, learning_rate: float, momentum: float) -> None:
    """Refuses what cannot be trained for that long, naming the field.

    Raises:
      ValueError: "FIELD: expected ..., got ...".
    Example:
      >>> check(Descent(milestones=(5, 20)), num_epochs=20, steps_per_epoch=3, learning_rate=0.1, momentum=0.9)
      Traceback (most recent call last):
      ValueError: milestones: expected ascending epochs from 1 to 19, got 5,20
    """
    _check_names(how)
    for name, last in (("milestones", num_epochs - 1), ("milestone_steps", num_epochs * steps_per_epoch - 1)):
        stops = getattr(how, name)
        if stops and (list(stops) != sorted(set(stops)) or not 1 <= stops[0] <= stops[-1] <= last):
            unit = "epochs" if name == "milestones" else "steps"
            raise ValueError(f"{name}: expected ascending {unit} from 1 to {last}, got {','.join(map(str, stops))}")
    if how.milestones is not None and how.milestone_steps is not None:
        raise ValueError("milestone_steps: expected milestones in epochs or in steps, got both")
    if how.decay_factor is not None and not 0 < how.decay_factor <= 1:
        raise ValueError(f"decay_factor: expected a number in (0, 1], got {how.decay_factor}")
    end = how.end_rate
    if how.schedule == "exponential" and end is None:
        raise ValueError("end_rate: expected a positive number for the exponential schedule to fall to, got none")
    low = "above 0" if how.schedule == "exponential" else "from 0"
    if end is not None and not (0 <= end <= learning_rate and (end or how.schedule != "exponential")):
        raise ValueError(f"end_rate: expected a number {low} to the learning rate {learning_rate}, got {end}")
    if how.epsilon is not None and not 0 < how.epsilon < math.inf:
        raise ValueError(f"epsilon: expected a positive number, got {how.epsilon}")
    if how.optimizer == "nesterov" and not momentum:
        raise ValueError("optimizer: expected a momentum above 0 with nesterov, got 0")
    _check_warmup(how, num_epochs, steps_per_epoch)


def _check_names(how: Descent) -> None:
    hints = {"optimizer": ("sgd", "nesterov", "adam", "adamw", "rmsprop"), "weight_decay_of": ("all", "kernels"),
             "schedule": ("constant", "multistep", "cosine", "linear", "exponential")}  # fmt: skip
    for name, known in hints.items():
        if getattr(how, name) not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(how, name)!r}")
    for name, takers in TAKEN_BY_SCHEDULE.items():
        if getattr(how, name) is not None and how.schedule not in takers:
            raise ValueError(f"{name}: not used by a {how.schedule} rate; expected one that is {' or '.join(takers)}")
    if how.epsilon is not None and how.optimizer not in TAKEN_BY_OPTIMIZER["epsilon"]:
        raise ValueError(f"epsilon: not used by {how.optimizer}; expected {' or '.join(TAKEN_BY_OPTIMIZER['epsilon'])}")


def _check_warmup(how: Descent, num_epochs: int, steps_per_epoch: int) -> None:
    lengths = {"warmup_epochs": (how.warmup_epochs, num_epochs, "epochs"),
               "warmup_steps": (how.warmup_steps, num_epochs * steps_per_epoch, "steps")}  # fmt: skip
    for name, (warm, whole, unit) in lengths.items():
        if not 0 <= warm < whole:
            raise ValueError(f"{name}: expected from 0 to {whole - 1} of {whole} {unit} of training, got {warm}")
    if how.warmup_epochs and how.warmup_steps:
        raise ValueError("warmup_steps: expected a warm-up in epochs or in steps, got both")


def with_milestones(how: Descent, milestones: Sequence[int] | None) -> Descent:
    """The descent at a rate that falls at these milestones, in epochs; None leaves the descent as it is."""
    if milestones is None:
        return how
    return how._replace(schedule="multistep", milestones=tuple(milestones), milestone_steps=None, end_rate=None)


def rates_of(how: Descent, learning_rate: float, num_epochs: int) -> np.ndarray:
    """The rates between which the schedule moves: after 0, 1, ... milestones; or the first and the last; or the one.

    Returns:
      float32 [number of rates], for `rate_at`.
    """
    if how.schedule == "multistep":
        stops = _stops(how, num_epochs, 1)[0]
        return schedules.falling_rates(learning_rate, len(stops), 0.1 if how.decay_factor is None else how.decay_factor)
    ends = [learning_rate] if how.schedule == "constant" else [learning_rate, how.end_rate or 0.0]
    return np.array(ends, np.float32)


def _stops(how: Descent, num_epochs: int, steps_per_epoch: int) -> tuple[tuple[int, ...], int]:
    """The milestones, and how many steps each of their units has."""
    if how.milestone_steps is not None:
        return tuple(how.milestone_steps), 1
    given = schedules.milestones_for(num_epochs) if how.milestones is None else how.milestones
    return tuple(given), steps_per_epoch


def rate_at(how: Descent, rates: Any, *, num_epochs: int, steps_per_epoch: int) -> Callable[[Any], jax.Array]:
    """step -> the learning rate, float32; the step and the rates may be traced.

    Args:
      rates: float32, of `rates_of`.
    Example:
      >>> how = Descent(schedule="linear", warmup_steps=2)
      >>> rate = rate_at(how, rates_of(how, 0.5, 3), num_epochs=3, steps_per_epoch=2)
      >>> [float(rate(step)) for step in range(6)]
      [0.0, 0.25, 0.5, 0.375, 0.25, 0.125]
    """
    warm, num_steps = how.warmup_steps or how.warmup_epochs * steps_per_epoch, num_epochs * steps_per_epoch
    if how.schedule in ("constant", "multistep"):
        stops, unit = _stops(how, num_epochs, steps_per_epoch) if how.schedule == "multistep" else ((), 1)
        after = schedules.stairs(rates, stops, unit)
    else:
        unit = steps_per_epoch if how.schedule == "cosine" else 1
        falls = schedules.falling(how.schedule, num_steps - warm, unit)
        after = lambda step: falls(jnp.maximum(jnp.asarray(step) - warm, 0), rates[0], rates[1])  # noqa: E731
    if not warm:
        return after
    return lambda step: after(step) * jnp.minimum(jnp.asarray(step).astype(jnp.float32) / jnp.float32(warm), 1)


def sgd(
    learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9, weight_decay: float | jax.Array = 0.0
) -> optax.GradientTransformation:
    """Stochastic gradient descent in torch's order: decay joins the gradient, then momentum, then the rate.

    u = g + weight_decay * w;  v = momentum * v + u;  w = w - lr * v

    The decay and the rate may be traced (see `hyperparams.optimizer`).
    """
    return optimizer(Descent(), learning_rate, momentum, weight_decay)


def optimizer(
    how: Descent, learning_rate: optax.ScalarOrSchedule, momentum: float, weight_decay: float | jax.Array
) -> optax.GradientTransformation:
    """The optimizer of a descent, in optax. The decay joins the gradient, as in torch, but for "adamw".

    Args:
      learning_rate, weight_decay: may be traced. momentum: of "sgd", "nesterov" and "rmsprop"; Adam has 0.9 and 0.999.
    """
    decay = optax.add_decayed_weights(weight_decay, None if how.weight_decay_of == "all" else _kernels)
    rate = optax.scale_by_learning_rate(learning_rate)
    trace = optax.trace(momentum, nesterov=how.optimizer == "nesterov") if momentum else optax.identity()
    epsilon = 1e-8 if how.epsilon is None else how.epsilon
    if how.optimizer == "adam":
        return optax.chain(decay, optax.scale_by_adam(eps=epsilon), rate)
    if how.optimizer == "adamw":
        return optax.chain(optax.scale_by_adam(eps=epsilon), decay, rate)
    if how.optimizer == "rmsprop":
        return optax.chain(decay, optax.scale_by_rms(_RMS_DECAY, epsilon), rate, trace)
    return optax.chain(decay, trace, rate)


def _kernels(params: Params) -> Any:
    """True where a leaf is a kernel or an embedding table, by the rule of `masks.report`."""
    counts = [leaf.prunable for leaf in prunable.report(params)]
    return jax.tree.unflatten(jax.tree.structure(params), counts)
