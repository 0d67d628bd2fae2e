"""Schedules: how many weights are kept at each round, and the learning rate at each step.

Counts are host integers; learning rates are optax schedules (step -> float32) that change once an epoch.
"""

import decimal
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems.masks import count_for

__all__ = ["cosine", "every", "exponential_counts", "falling", "falling_rates", "milestones_for", "multi_step",
           "num_rounds", "sparsity_bound", "stairs"]  # fmt: skip


def exponential_counts(num_prunable: int, sparsity: float, num_rounds: int) -> tuple[int, ...]:
    """Kept counts that fall by a constant factor a round: round(n (1 - s)^(r / R)), r = 1..R.

    Args:
      num_prunable: n. sparsity: s, the fraction removed in the end. num_rounds: R.
    Returns:
      R integers; the last is exactly `count_for(n, s)`.
    Raises:
      ValueError: if R < 1 or s is outside [0, 1).
    Example:
      >>> exponential_counts(1000, 0.9, 2)
      (316, 100)

    Source: Rare Gems, section 3 (the bound 1 - exp(-c j) at the rounds). Deviation: the reference code rounds the
    removed number up at each round and so ends 0.1 % below target.
    """
    if num_rounds < 1:
        raise ValueError(f"num_rounds: expected 1 or more, got {num_rounds}")
    last = count_for(num_prunable, sparsity)
    keep_ratio = float(1 - decimal.Decimal(str(sparsity)))
    falling = (round(num_prunable * keep_ratio ** (r / num_rounds)) for r in range(1, num_rounds))
    return (*falling, last)


def num_rounds(num_epochs: int, period: int) -> int:
    """GEM-MINER's freezing rounds: R = floor((E - 1) / T), after the epochs e = T, 2T, ... (counted from 0).

    Raises:
      ValueError: if E or T is below 1, or no round fits.
    Example:
      >>> num_rounds(150, 5), num_rounds(150, 8)
      (29, 18)
    """
    if num_epochs < 1:
        raise ValueError(f"epochs: expected 1 or more, got {num_epochs}")
    if period < 1:
        raise ValueError(f"period: expected 1 or more, got {period}")
    if num_epochs == 1:
        raise ValueError("epochs: expected 2 or more, since the first round is after the second epoch, got 1")
    if period > num_epochs - 1:
        raise ValueError(f"period: expected at most {num_epochs - 1} for a search of {num_epochs} epochs, got {period}")
    return (num_epochs - 1) // period


def sparsity_bound(epoch: float, num_epochs: int, sparsity: float) -> float:
    """The bound of Rare Gems, section 3: 1 - exp(-c j) after j epochs, with c = ln(1 / (1 - s)) / E."""
    return 1 - math.exp(math.log1p(-sparsity) * epoch / num_epochs)


def every(period: int) -> Callable[[Any], Any]:
    """A predicate for `transforms.when`: true after each `period`-th step.

    Example:
      >>> [bool(every(3)(jnp.int32(step))) for step in range(6)]
      [False, False, True, False, False, True]
    """
    if period < 1:
        raise ValueError(f"period: expected 1 or more steps, got {period}")
    return lambda step: (step + 1) % period == 0


def cosine(learning_rate: Any, num_epochs: int, steps_per_epoch: int) -> Callable[[Any], Any]:
    """lr (1 + cos(pi e / E)) / 2 with e = floor(step / steps_per_epoch) <= E; the rate may be traced.

    Source: Rare Gems (v1), Appendix A, as its code does it: once an epoch, and never quite zero.
    """

    def schedule(step: Any) -> jax.Array:
        epoch = (jnp.asarray(step) // steps_per_epoch).astype(jnp.float32)
        return jnp.float32(0.5 * learning_rate) * (1 + jnp.cos(jnp.float32(math.pi / num_epochs) * epoch))

    return schedule


def multi_step(
    learning_rate: float, milestones: Sequence[int], steps_per_epoch: int, factor: float = 0.1
) -> Callable[[Any], Any]:
    """lr * factor^(number of milestones reached), the milestones counted in epochs."""
    return stairs(falling_rates(learning_rate, len(milestones), factor), milestones, steps_per_epoch)


def falling_rates(learning_rate: float, num_milestones: int, factor: float = 0.1) -> np.ndarray:
    """The learning rate before the first and after each milestone: lr * factor^i, float32 [num_milestones + 1]."""
    return np.array([learning_rate * factor**i for i in range(num_milestones + 1)], np.float32)


def stairs(values: Any, milestones: Sequence[int], steps_per_epoch: int) -> Callable[[Any], Any]:
    """values[number of milestones reached], the milestones counted in epochs.

    Args:
      values: float32 [len(milestones) + 1], traced or not.
    """

    def schedule(step: Any) -> jax.Array:
        epoch = jnp.asarray(step) // steps_per_epoch
        reached = sum((epoch >= m).astype(jnp.int32) for m in milestones) if milestones else 0
        return jnp.asarray(values)[reached]

    return schedule


def falling(kind: str, num_steps: int, unit: int = 1) -> Callable[[Any, Any, Any], jax.Array]:
    """(step, first, last) -> a rate that falls from the first value to the last over T steps, x = step / T <= 1.

      linear: first + (last - first) x;  exponential: first (last / first)^x;
      cosine: last + (first - last) (1 + cos(pi x)) / 2

    Args:
      kind: "linear", "exponential" or "cosine". num_steps: T. unit: it changes once in so many steps.
    Returns:
      a function of an int32 step and two float32 rates, all of which may be traced.
    Raises:
      ValueError: for another kind.
    Example:
      >>> linear = falling("linear", 4)
      >>> [float(linear(step, 1.0, 0.0)) for step in range(4)]
      [1.0, 0.75, 0.5, 0.25]
    """
    if kind not in ("linear", "exponential", "cosine"):
        raise ValueError(f"kind: expected linear, exponential or cosine, got {kind!r}")

    def rate(step: Any, first: Any, last: Any) -> jax.Array:
        share = (jnp.asarray(step) // unit * unit).astype(jnp.float32) / jnp.float32(num_steps)
        first, last = jnp.asarray(first, jnp.float32), jnp.asarray(last, jnp.float32)
        if kind == "linear":
            return first + (last - first) * share
        if kind == "exponential":
            return first * (last / first) ** share
        return last + (first - last) * (1 + jnp.cos(jnp.float32(math.pi) * share)) / 2

    return rate


def milestones_for(num_epochs: int) -> tuple[int, ...]:
    """The epochs at which the papers lower the learning rate, by the length of the training.

    Example:
      >>> [milestones_for(epochs) for epochs in (160, 50, 4, 1)]
      [(80, 120), (25, 33), (2,), ()]

    Source: Rare Gems (v1), Table 15, and its code for other lengths: [E/2, 2E/3]. Deviation: of 1, 2 and 4 epochs those
    are equal, or 0; the code lowers the rate twice at once, or from the start. Here each counts once, from epoch 1 on.
    """
    table = {100: (50, 80), 150: (80, 120), 160: (80, 120), 200: (100, 150), 300: (150, 250)}
    halves = dict.fromkeys(stop for stop in (num_epochs // 2, 2 * num_epochs // 3) if stop)
    return table.get(num_epochs, tuple(halves))
