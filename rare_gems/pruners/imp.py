"""Iterative magnitude pruning: train, remove the smallest weights, rewind, again.

Source: Frankle and Carbin, The Lottery Ticket Hypothesis, 2019; Frankle et al., Stabilizing the Lottery Ticket
Hypothesis, 2019, Algorithm 2; Renda et al., Comparing Rewinding and Fine-tuning, 2020 (learning-rate rewinding).
"""

import math
from typing import Any

from rare_gems import masks, schedules, transforms
from rare_gems.phase import Mask, Phase, Recipe
from rare_gems.pruners.finetune import finetune as train

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
    num_epochs: int,
    steps_per_epoch: int,
    num_rounds: int | None = None,
    rate: float = 0.2,
    rewind_step: int = 0,
    rewind_state: bool = False,
    finetune: Phase | None = None,
    invert: bool = False,
    **training: Any,
) -> Recipe:
    """IMP with weight rewinding: R rounds of training, each from the weights of step k under a smaller mask.

      w_k = train(w_0, k steps);  R times:  w = train(q w_k);  q = top_{n_r}(|w| within q);  w = q w_k,
      n_r = round(n (1 - s)^(r / R)).

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: s, the fraction removed, in (0, 1).
      num_epochs: T, the length of a training in epochs ("short" rounds have few); steps_per_epoch.
      num_rounds: R; by default as many as remove about `rate` of the remaining weights each (`rounds_for`).
      rewind_step: k in optimizer steps; 0 is cold (rewinding to the initial weights).
      rewind_state: also rewind the model state (BatchNorm statistics) to step k.
      finetune: trains the ticket that is found; None stops at it.
      invert: keep the smallest weights instead (a sanity check).
      training: learning_rate, milestones, momentum, weight_decay of the rounds, as in `pruners.finetune`.
    Returns:
      (k steps, if k > 0, round, ..., round, finetune); all rounds are one `Phase`, and compile once.
    Raises:
      ValueError: if k is not within a training, the rate or sparsity out of range, or the counts do not fall at
        every round.
    Example:
      >>> import jax
      >>> mask = [jax.ShapeDtypeStruct((1000,), bool)]
      >>> recipe = imp(mask, sparsity=0.9, num_epochs=4, steps_per_epoch=10, rewind_step=5, learning_rate=0.1)
      >>> [phase.num_steps for phase in recipe[:3]], len(recipe)
      ([5, 35, 35], 11)

    Deviations: a round removes exactly the scheduled number and the last ends exactly on target (open_lth and the
    code of Rare Gems remove one more than asked, and all ties). Every round trains T - k steps with the learning
    rates of steps k to T, as in Stabilizing, section 2 (the code of Rare Gems restarts the schedule and trains T),
    and round 1 starts without momentum as all others do. All params are rewound, biases too.
    """
    return _rounds(
        mask, sparsity, num_epochs, steps_per_epoch, num_rounds, rate, rewind_step, rewind_state, True, finetune,
        invert, training,
    )  # fmt: skip


def lottery_ticket(mask: Mask, **options: Any) -> Recipe:
    """The one-shot lottery ticket: train once, keep the largest weights, rewind. `imp` with one round.

    Args:
      options: as in `imp`, without num_rounds and rate.
    Source: Frankle and Carbin, 2019; Su et al., Sanity-Checking Pruning, section 3. Deviation: all layers are ranked
    and pruned (the code of Su et al. leaves the dense layers whole, yet counts them).
    """
    return imp(mask, num_rounds=1, **options)


def lrr(
    mask: Mask,
    *,
    sparsity: float,
    num_epochs: int,
    steps_per_epoch: int,
    num_rounds: int | None = None,
    rate: float = 0.2,
    finetune: Phase | None = None,
    invert: bool = False,
    **training: Any,
) -> Recipe:
    """Learning-rate rewinding: as `imp`, but the weights stay as trained; only the learning rate starts again.

    Args:
      num_rounds: 1 is one-shot. The others as in `imp`.
    Source: Renda et al., 2020, Algorithm 3; Sanity-Checking Pruning, section 5 (one-shot). Deviations: as `imp`.
    """
    return _rounds(
        mask, sparsity, num_epochs, steps_per_epoch, num_rounds, rate, 0, False, False, finetune, invert, training
    )


def _rounds(
    mask: Mask, sparsity: float, num_epochs: int, steps_per_epoch: int, num_rounds: int | None, rate: float,
    rewind_step: int, rewind_state: bool, rewinds: bool, finetune: Phase | None, invert: bool, training: dict[str, Any],
) -> Recipe:  # fmt: skip
    whole = train(num_epochs=num_epochs, steps_per_epoch=steps_per_epoch, name="search", **training)
    if not 0 <= rewind_step < whole.num_steps:
        raise ValueError(
            f"rewind_step: expected an integer from 0 to {whole.num_steps - 1} ({num_epochs} epochs of "
            f"{steps_per_epoch} steps a round), got {rewind_step}"
        )
    counts = _counts(mask, sparsity, rounds_for(sparsity, rate) if num_rounds is None else num_rounds)
    keep = transforms.keep_next(counts, transforms.magnitude, invert)
    one = train(
        num_epochs=num_epochs, steps_per_epoch=steps_per_epoch, name="search", first_step=rewind_step, **training
    )._replace(
        after=transforms.chain(keep, transforms.rewind()) if rewinds else keep, rewind_state=rewind_state
    )  # fmt: skip
    first = (whole._replace(num_steps=rewind_step),) if rewind_step else ()
    return (*first, *(one,) * len(counts), *(() if finetune is None else (finetune,)))


def _counts(mask: Mask, sparsity: float, num_rounds: int) -> tuple[int, ...]:
    n = masks.num_prunable(mask)
    counts = schedules.exponential_counts(n, sparsity, num_rounds)
    if counts[-1] < 1:
        raise ValueError(f"sparsity: {sparsity} keeps none of {n} weights; expected a lower one")
    if len(set(counts) | {n}) <= num_rounds:
        raise ValueError(
            f"rounds: {num_rounds} are too many for {n} weights at sparsity {sparsity}: not every one would remove a "
            f"weight; expected fewer"
        )
    return counts
