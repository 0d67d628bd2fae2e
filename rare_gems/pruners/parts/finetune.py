"""Training the weights under a fixed mask: the last phase of every method, and all of `dense`."""

import math
from collections.abc import Sequence

import jax
import optax

from rare_gems import transforms, views
from rare_gems.phase import LossFn, Phase, Recipe
from rare_gems.pruners.parts import descent as descents
from rare_gems.pruners.parts.counts import check_whole
from rare_gems.pruners.parts.descent import Descent, sgd
from rare_gems.training import hyperparams

__all__ = ["dense", "finetune", "sgd"]


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
    descent: Descent = Descent(),  # noqa: B008 - a constant
    loss_fn: LossFn | None = None,
) -> Phase:
    """Trains the kept weights; as no `descent` says otherwise, by SGD whose rate falls to a tenth at each milestone.

    Args:
      num_epochs, steps_per_epoch: the length.
      milestones: in epochs, by default `schedules.milestones_for`; given, the schedule is that of "multistep", and ()
        stands for a constant rate.
      learning_rate, momentum, weight_decay: as in `descent.optimizer`; the decay acts on every trained leaf, as in
        torch, unless the descent says otherwise.
      first_step: begin there in the schedule (and in the order of batches, where all phases share one), and train that
        many steps less: a ticket that was rewound to step k.
      name: what reports call the phase.
      descent: the optimizer, the schedule, the warm-up.
      loss_fn: takes the place of the trainer's, for smoothed labels and the like.
    Raises:
      ValueError: for a length below 1, a learning rate that is not positive, a first step outside of the training, and
        as `descent.check`.
    Example:
      >>> finetune(num_epochs=150, steps_per_epoch=391, learning_rate=0.01).num_steps
      58650
      >>> how = Descent(optimizer="adam", schedule="cosine", warmup_epochs=5)
      >>> finetune(num_epochs=150, steps_per_epoch=391, learning_rate=1e-3, descent=how, first_step=391).num_steps
      58259

    Source: Rare Gems (v1), Table 15; Stabilizing, section 2 (`first_step`).
    """
    if num_epochs < 1 or steps_per_epoch < 1:
        raise ValueError(
            f"{name} epochs and steps an epoch: expected 1 or more, got {num_epochs} and {steps_per_epoch}"
        )
    check_whole(num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"{name} learning rate: expected a positive number, got {learning_rate}")
    descents.check_numbers(learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
    length = {"num_epochs": num_epochs, "steps_per_epoch": steps_per_epoch}
    num_steps = num_epochs * steps_per_epoch
    if not 0 <= first_step < num_steps:
        raise ValueError(f"{name} first step: expected from 0 to {num_steps - 1} of {num_steps}, got {first_step}")
    how = descents.with_milestones(descent, milestones)
    descents.check(how, learning_rate=learning_rate, momentum=momentum, **length)

    def make(rates: jax.Array, weight_decay: jax.Array) -> optax.GradientTransformation:
        rate = descents.rate_at(how, rates, **length)
        return descents.optimizer(how, lambda step: rate(step + first_step), momentum, weight_decay)

    rates = descents.rates_of(how, learning_rate, num_epochs)
    return Phase(
        view=views.masked, trains="params",
        optimizer=hyperparams.optimizer(make, rates=rates, weight_decay=weight_decay),
        during=transforms.identity(), after=transforms.identity(), num_steps=num_steps - first_step, name=name,
        first_step=first_step, loss_fn=loss_fn,
    )  # fmt: skip


def dense(training: Phase) -> Recipe:
    """No pruning: `training`, under a mask that keeps everything."""
    return (training,)
