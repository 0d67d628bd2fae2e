"""Edge-popup: learns a score for every weight of a random network, whose weights never move.

Source: Ramanujan et al., What's Hidden in a Randomly Weighted Neural Network?, 2020; the global and the gradual
variants: Sreenivasan et al., Rare Gems, 2022, Table 3.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from rare_gems import init, schedules, transforms, views
from rare_gems.phase import Context, Mask, Phase, Recipe, Scores, Step, Ticket
from rare_gems.pruners.parts.counts import freezing_counts, target_counts
from rare_gems.pruners.parts.learned_scores import score_phase
from rare_gems.training import hyperparams

__all__ = ["edge_popup"]


def edge_popup(
    mask: Mask,
    *,
    sparsity: float,
    num_epochs: int,
    steps_per_epoch: int,
    finetune: Phase | None = None,
    scope: Literal["layer", "global"] = "layer",
    gradual: bool = False,
    period: int = 5,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    l2: float = 0.0,
    invert: bool = False,
) -> Recipe:
    """Trains the scores s of frozen weights; the network uses the top k of |s|, and so does the final mask.

      w_eff = w * 1[|s| in the top k],  dL/ds = dL/dw_eff * w * sign(s);  s ~ U(-1, 1) / sqrt(fan_in) at first

    The four variants of Table 3: edge-popup (the defaults), scope="global", that with gradual=True, and that with
    l2=1e-4.

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      num_epochs: E. steps_per_epoch: optimizer steps in each.
      finetune: the last phase, on the initial weights; None stops at the mask.
      scope: top k of |s| within each layer at equal ratios, or over the whole network
      gradual: k falls exponentially over the search rather than being the target from the start:
        round(n (1 - s)^(r / R)) in round r = max(1, floor(e / period)) of R = floor((E - 1) / period). What one round
        leaves out the next may take back
      period: epochs from one fall of k to the next, if gradual
      learning_rate: of the scores, cosine over the epochs, SGD with `momentum`.
      weight_decay: of the scores (d: d s joins their gradient)
      l2: strength of the regulariser on the scores (lambda of lambda * sum s^2)
      invert: the lowest |s| instead (the inverted-scores sanity check).
    Returns:
      (edit, search) or (edit, search, finetune).
    Raises:
      ValueError: for a value outside its range, where nothing of the network or ("layer") of a layer would be kept,
        and for a period too long for the epochs.
    Example:
      >>> recipe = edge_popup([jax.ShapeDtypeStruct((30, 10), bool)], sparsity=0.9, num_epochs=3, steps_per_epoch=4)
      >>> [(phase.trains, phase.num_steps) for phase in recipe]
      [('params', 0), ('scores', 12)]

    Deviations: counts are exact and sum to the target (the code keeps n - int((1 - k) n) of a layer, and drops all
    ties of a global threshold); k is 1 - sparsity (the Rare Gems presets use 0.005 for "0.59 %"). In the gradual
    form a round begins with epoch r * period (the code: one epoch later), so that the last is always trained.
    Weights come from the caller: the codes scale them by the fan times the fraction removed, a slip for the kept one.
    """
    if not 0 <= l2 < math.inf:
        raise ValueError(f"l2: expected a finite number of 0 or more, got {l2}")
    target = target_counts(mask, sparsity, scope)
    count: Any = target
    if gradual:
        rounds = schedules.num_rounds(num_epochs, period)
        table = transforms.stack_counts(freezing_counts(mask, sparsity, rounds, scope))

        def count(step: Step) -> Any:
            index = jnp.clip(step // (steps_per_epoch * period) - 1, 0, rounds - 1)
            return jax.tree.map(lambda column: jnp.asarray(column)[index], table)

    def magnitude(ticket: Ticket) -> Scores:
        return jax.tree.map(jnp.abs, ticket.scores)

    def initial(ticket: Ticket, context: Context) -> Scores:
        return init.kaiming_uniform_scores(context.key, ticket.mask)

    search = score_phase(
        views.top_scored(count, scope, invert),
        transforms.keep_top(target, scope, score=magnitude, invert=invert),
        num_epochs=num_epochs, steps_per_epoch=steps_per_epoch, learning_rate=learning_rate, momentum=momentum,
        weight_decay=weight_decay, penalty=hyperparams.optimizer(lambda l2: optax.add_decayed_weights(2 * l2), l2=l2),
    )  # fmt: skip
    start = transforms.edit(transforms.scores_from(initial))
    return (start, search) if finetune is None else (start, search, finetune)
