"""Iterative magnitude pruning: train, remove the smallest weights, rewind, again.

Source: Frankle and Carbin, The Lottery Ticket Hypothesis, 2019; Frankle et al., Stabilizing the Lottery Ticket
Hypothesis, 2019, Algorithm 2; Renda et al., Comparing Rewinding and Fine-tuning, 2020 (learning-rate rewinding).
"""

import math
from typing import Any

import numpy as np

from rare_gems import transforms
from rare_gems.phase import Mask, Phase, Recipe
from rare_gems.pruners.parts.counts import check_positive, falling_counts
from rare_gems.pruners.parts.finetune import finetune as train

__all__ = ["imp", "lottery_ticket", "lrr", "rounds_for"]


def rounds_for(sparsity: float, rate: float = 0.2) -> int:
    """The number of rounds whose constant rate is nearest to `rate`: ln(1 - s) / ln(1 - rate), rounded, at least 1.

    Raises:
      ValueError: for a rate outside (0, 1), or a sparsity outside (0, 1).
    Example:
      >>> rounds_for(0.9856), rounds_for(0.5, 0.5)
      (19, 1)
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate: expected a fraction removed in (0, 1), got {rate}")
    if not 0 < sparsity < 1:
        raise ValueError(f"sparsity: expected a fraction removed in (0, 1), got {sparsity}")
    return max(1, round(math.log1p(-sparsity) / math.log1p(-rate)))


def imp(
    mask: Mask,
    *,
    sparsity: float,
    steps_per_epoch: int,
    round_epochs: int = 160,
    rate: float = 0.2,
    rounds: int | None = None,
    decay: bool = True,
    rewind_step: int = 0,
    rewind_batch_norm: bool = False,
    finetune: Phase | None = None,
    invert: bool = False,
    **training: Any,
) -> Recipe:
    """IMP with weight rewinding: R rounds of training, each from the weights of step k under a smaller mask.

      w_k = train(w_0, k steps);  R times:  w = train(q w_k);  q = top_{n_r}(|w| within q);  w = q w_k,
      n_r = round(n (1 - s)^(r / R)).

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: s, the fraction removed, in (0, 1).
      steps_per_epoch: optimizer steps in an epoch.
      round_epochs: epochs of training in each round (T; "short" rounds have few)
      rate: fraction of the remaining weights that a round removes, about: the last round ends exactly on target
      rounds: number of rounds (R; default: as the rate asks)
      decay: lower the learning rate within a round, as its schedule says
      rewind_step: optimizer step whose weights each round and the ticket start from (k); 0: the initial weights (cold)
      rewind_batch_norm: rewind the BatchNorm statistics too
      finetune: trains the ticket that is found; None stops at it. A ticket of step k trains from there: give
        `pruners.parts.finetune` the same `first_step`.
      invert: keep the smallest weights instead (a sanity check).
      training: learning_rate, milestones, momentum, weight_decay, descent and loss_fn of the rounds, as in
        `pruners.parts.finetune`.
    Returns:
      (k steps, if k > 0, round, ..., round, finetune); all rounds are one `Phase`, and compile once.
    Raises:
      ValueError: if k is not within a training, the rate or sparsity out of range, or the counts do not fall at
        every round.
    Example:
      >>> import jax
      >>> mask = [jax.ShapeDtypeStruct((1000,), bool)]
      >>> recipe = imp(mask, sparsity=0.9, round_epochs=4, steps_per_epoch=10, rewind_step=5, learning_rate=0.1)
      >>> [phase.num_steps for phase in recipe[:3]], len(recipe)
      ([5, 35, 35], 11)

    Deviations: a round removes exactly the scheduled number and the last ends exactly on target (open_lth and the
    code of Rare Gems remove one more than asked, and all ties). Every round trains T - k steps with the learning
    rates of steps k to T, as in Stabilizing, section 2 (the code of Rare Gems restarts the schedule and trains T),
    and round 1 starts without momentum as all others do. All params are rewound, biases too.
    """
    how = _rounds_training(round_epochs, steps_per_epoch, decay, training)
    whole = train(**how)
    if not isinstance(rewind_step, int | np.integer) or not 0 <= rewind_step < whole.num_steps:
        raise ValueError(
            f"rewind_step: expected an integer from 0 to {whole.num_steps - 1} ({round_epochs} epochs of "
            f"{steps_per_epoch} steps a round), got {rewind_step}"
        )
    counts = _round_counts(mask, sparsity, rate, rounds)
    keep = transforms.keep_next(counts, transforms.magnitude, invert)
    one = train(first_step=rewind_step, **how)._replace(
        after=transforms.chain(keep, transforms.rewind()), rewind_state=rewind_batch_norm
    )
    first = (whole._replace(num_steps=rewind_step),) if rewind_step else ()
    return (*first, *(one,) * len(counts), *(() if finetune is None else (finetune,)))


def lottery_ticket(
    mask: Mask, *, num_epochs: int, rewind_step: int = 0, rewind_batch_norm: bool = False, **options: Any
) -> Recipe:
    """The one-shot lottery ticket: train once, keep the largest weights, rewind. `imp` with one round.

    Args:
      num_epochs: the length of the training.
      rewind_step: optimizer step whose weights the ticket starts from; 0: the initial weights
      rewind_batch_norm: rewind the BatchNorm statistics too
      options: the others of `imp`, without rounds, round_epochs, rate and decay.
    Source: Frankle and Carbin, 2019; Su et al., Sanity-Checking Pruning, section 3. Deviation: all layers are ranked
    and pruned (the code of Su et al. leaves the dense layers whole, yet counts them).
    """
    rewinding = {"rewind_step": rewind_step, "rewind_batch_norm": rewind_batch_norm}
    return imp(mask, rounds=1, round_epochs=num_epochs, rate=0.2, decay=True, **rewinding, **options)


def lrr(
    mask: Mask,
    *,
    sparsity: float,
    steps_per_epoch: int,
    round_epochs: int = 160,
    rate: float = 0.2,
    rounds: int | None = None,
    decay: bool = True,
    finetune: Phase | None = None,
    invert: bool = False,
    **training: Any,
) -> Recipe:
    """Learning-rate rewinding: as `imp`, but the weights stay as trained; only the learning rate starts again.

    Args:
      round_epochs: epochs of training in each round
      rate: fraction of the remaining weights that a round removes, about: the last round ends exactly on target
      rounds: number of rounds (default: as the rate asks); 1 is one-shot
      decay: lower the learning rate within a round, as its schedule says
      mask, sparsity, steps_per_epoch, finetune, invert, training: as in `imp`.
    Source: Renda et al., 2020, Algorithm 3; Sanity-Checking Pruning, section 5 (one-shot). Deviations: as `imp`.
    """
    how = _rounds_training(round_epochs, steps_per_epoch, decay, training)
    counts = _round_counts(mask, sparsity, rate, rounds)
    one = train(first_step=0, **how)._replace(after=transforms.keep_next(counts, transforms.magnitude, invert))
    return (*(one,) * len(counts), *(() if finetune is None else (finetune,)))


def _rounds_training(round_epochs: int, steps_per_epoch: int, decay: bool, training: dict[str, Any]) -> dict[str, Any]:
    check_positive(round_epochs=round_epochs)
    if not decay and training.get("milestones"):
        raise ValueError(f"milestones: expected none without decay, got {training['milestones']}")
    length = {"num_epochs": round_epochs, "steps_per_epoch": steps_per_epoch, "name": "search"}
    return training | length | ({} if decay else {"milestones": ()})


def _round_counts(mask: Mask, sparsity: float, rate: float, rounds: int | None) -> tuple[int, ...]:
    if rounds is None:
        return falling_counts(mask, sparsity, rounds_for(sparsity, rate))
    counts = falling_counts(mask, sparsity, rounds)
    rounds_for(sparsity, rate)  # refuses a rate out of range also where it is not used
    return counts
