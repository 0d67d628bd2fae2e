"""Continuous Sparsification: a soft mask sigmoid(beta s) that hardens as beta rises. Here in its supermask form.

Source: Savarese et al., Winning the Lottery with Continuous Sparsification, 2020.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rare_gems import masks, transforms
from rare_gems.phase import Key, Mask, Params, Phase, Recipe, Step, Ticket, View
from rare_gems.pruners.parts.counts import target_counts
from rare_gems.pruners.parts.learned_scores import initial_scores, score_phase
from rare_gems.training import hyperparams

__all__ = ["continuous_sparsification", "temperature", "tempered"]


def continuous_sparsification(
    mask: Mask,
    *,
    sparsity: float,
    num_epochs: int,
    steps_per_epoch: int,
    finetune: Phase | None = None,
    final_temperature: float = 200.0,
    penalty: float = 1e-8,
    initial_score: float = 0.0,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    invert: bool = False,
) -> Recipe:
    """Minimises L(w * sigmoid(beta s)) + lambda * sum sigmoid(beta s) over s; the weights are frozen.

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      num_epochs, steps_per_epoch: the length of the search, in which beta rises as in `temperature`.
      finetune: the last phase, on the initial weights; None stops at the mask.
      final_temperature: what scores are multiplied by in the sigmoid at the end of the search (1 at its start)
      penalty: strength of the penalty on the relaxed mask (lambda)
      initial_score: all scores at the start
      learning_rate: of the scores, cosine over the epochs, SGD with `momentum`, no decay.
      invert: keep the lowest scores in the end (the inverted-scores sanity check).
    Returns:
      (edit, search) or (edit, search, finetune).
    Raises:
      ValueError: for a value outside its range, and where nothing would be kept.
    Example:
      >>> mask = [jax.ShapeDtypeStruct((30, 10), bool)]
      >>> _, search = continuous_sparsification(mask, sparsity=0.9, num_epochs=3, steps_per_epoch=4)
      >>> search.trains, search.num_steps
      ('scores', 12)

    Deviations: the weights stay as they are (the paper's main method trains them along, over several rounds). The
    mask is the exact top k of s over the network (there: s > 0, so that lambda and the initial score, which here
    shape the search only, set the sparsity). No factor 1 / sigmoid(initial score) on the weights, which its code has.
    """
    if not 0 <= penalty < math.inf:
        raise ValueError(f"penalty: expected a finite number of 0 or more, got {penalty}")
    if not (final_temperature >= 1 and math.isfinite(final_temperature)):
        raise ValueError(f"final_temperature: expected a number of 1 or more, got {final_temperature}")
    beta = functools.partial(
        temperature, final=final_temperature, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch
    )

    def pull(penalty: jax.Array) -> optax.GradientTransformation:
        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
            del extra
            soft = jax.tree.map(lambda s: jax.nn.sigmoid(beta(state) * s), params)
            return jax.tree.map(lambda u, m: u + penalty * beta(state) * m * (1 - m), updates, soft), state + 1

        return optax.GradientTransformation(lambda params: jnp.int32(0), update)

    search = score_phase(
        tempered(beta), transforms.keep_top(target_counts(mask, sparsity), invert=invert),
        num_epochs=num_epochs, steps_per_epoch=steps_per_epoch, learning_rate=learning_rate, momentum=momentum,
        penalty=hyperparams.optimizer(pull, penalty=penalty),
    )  # fmt: skip
    start = initial_scores(initial_score)
    return (start, search) if finetune is None else (start, search, finetune)


def temperature(step: Step, final: float, num_epochs: int, steps_per_epoch: int) -> jax.Array:
    """beta = final^(e / (E - 1)) in epoch e: from 1 to `final`, once an epoch (for E = 1: `final`)."""
    epoch = (jnp.asarray(step) // steps_per_epoch).astype(jnp.float32)
    share = epoch / (num_epochs - 1) if num_epochs > 1 else jnp.float32(1)
    return jnp.exp(jnp.float32(math.log(final)) * share)


def tempered(beta: optax.Schedule) -> View:
    """The view w * q * sigmoid(beta(step) * s), differentiable as it is."""

    def view(ticket: Ticket, step: Step, key: Key) -> Params:
        del key
        soft = jax.tree.map(lambda s: jax.nn.sigmoid(beta(step) * s), ticket.scores)
        kept = masks.apply(ticket.params, ticket.mask)
        return jax.tree.map(
            lambda m, w: w if m is None else w * m.astype(w.dtype), soft, kept, is_leaf=lambda leaf: leaf is None
        )

    return view
