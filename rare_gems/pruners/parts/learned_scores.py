"""What searches that train scores share: the phase, and scores that all start at one value."""

import jax
import jax.numpy as jnp
import optax

from rare_gems import schedules, transforms
from rare_gems.phase import Phase, Transform, View
from rare_gems.pruners.parts import descent as descents
from rare_gems.pruners.parts.counts import check_positive
from rare_gems.pruners.parts.finetune import sgd
from rare_gems.training import hyperparams

__all__ = ["initial_scores", "score_phase"]


def score_phase(
    view: View,
    after: Transform,
    *,
    num_epochs: int,
    steps_per_epoch: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float = 0.0,
    penalty: optax.GradientTransformation = optax.identity(),  # noqa: B008
    hold_dead: bool = True,
) -> Phase:
    """A search that trains scores and leaves the weights alone: SGD at a cosine rate. Shared by several methods.

    Args:
      view, after, hold_dead: as in `Phase`. penalty: adds to the gradient of the scores, before the decay.
    Raises:
      ValueError: for a length below 1, a learning rate that is not positive, a momentum outside [0, 1) or a negative
        decay.
    """
    check_positive(num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)
    descents.check_numbers(learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)

    def descent(learning_rate: jax.Array, weight_decay: jax.Array) -> optax.GradientTransformation:
        return sgd(schedules.cosine(learning_rate, num_epochs, steps_per_epoch), momentum, weight_decay)

    numbers = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    return Phase(
        view=view,
        trains="scores",
        optimizer=optax.chain(penalty, hyperparams.optimizer(descent, **numbers)),
        during=transforms.identity(),
        after=after,
        num_steps=num_epochs * steps_per_epoch,
        hold_dead=hold_dead,
    )


def initial_scores(value: float) -> Phase:
    """An edit that makes every score `value`."""

    def fill(value: jax.Array) -> Transform:
        return transforms.scores_from(lambda t, _: jax.tree.map(lambda s: jnp.full_like(s, value), t.scores))

    return transforms.edit(hyperparams.transform(fill, value=float(value)))
