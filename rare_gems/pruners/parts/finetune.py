"""Training the weights under a fixed mask: the last phase of every method, and all of `dense`."""

from collections.abc import Sequence

import jax
import optax

from rare_gems import schedules, transforms, views
from rare_gems.phase import Phase, Recipe
from rare_gems.training import hyperparams

__all__ = ["dense", "finetune", "sgd"]


def sgd(
    learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9, weight_decay: float | jax.Array = 0.0
) -> optax.GradientTransformation:
    """Stochastic gradient descent in torch's order: decay joins the gradient, then momentum, then the rate.

    u = g + weight_decay * w;  v = momentum * v + u;  w = w - lr * v

    The decay and the rate may be traced (see `hyperparams.optimizer`).
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(momentum) if momentum else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
    )


def finetune(
    *,
    num_epochs: int,
    steps_per_epoch: int,
    learning_rate: float,
    milestones: Sequence[int] | None = None,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    first_step: int = 0,
    name: str = "finetune",
) -> Phase:
    """SGD on the kept weights; the rate falls to a tenth at each milestone.

    Args:
      num_epochs, steps_per_epoch: the length; `milestones` in epochs, by default `schedules.milestones_for`.
      learning_rate, momentum, weight_decay: as in `sgd`; the decay acts on every trained leaf, as in torch.
      first_step: begin there in the schedule, and train that many steps less.
      name: what reports call the phase.
    Raises:
      ValueError: for a length below 1 or a learning rate that is not positive.
    Example:
      >>> finetune(num_epochs=150, steps_per_epoch=391, learning_rate=0.01).num_steps
      58650

    Source: Rare Gems (v1), Table 15.
    """
    if num_epochs < 1 or steps_per_epoch < 1:
        raise ValueError(
            f"{name} epochs and steps an epoch: expected 1 or more, got {num_epochs} and {steps_per_epoch}"
        )
    if not learning_rate > 0:
        raise ValueError(f"{name} learning rate: expected a positive number, got {learning_rate}")
    stops = schedules.milestones_for(num_epochs) if milestones is None else tuple(milestones)

    def descent(rates: jax.Array, weight_decay: jax.Array) -> optax.GradientTransformation:
        schedule = schedules.stairs(rates, stops, steps_per_epoch)
        return sgd(lambda step: schedule(step + first_step), momentum, weight_decay)

    rates = schedules.falling_rates(learning_rate, len(stops))
    optimizer = hyperparams.optimizer(descent, rates=rates, weight_decay=weight_decay)
    return Phase(
        view=views.masked, trains="params", optimizer=optimizer, during=transforms.identity(),
        after=transforms.identity(), num_steps=num_epochs * steps_per_epoch - first_step, name=name,
    )  # fmt: skip


def dense(training: Phase) -> Recipe:
    """No pruning: `training`, under a mask that keeps everything."""
    return (training,)
