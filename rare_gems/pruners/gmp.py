"""Gradual magnitude pruning: the smallest weights go while the network trains.

Source: Zhu and Gupta, To Prune, or Not to Prune, 2017.
"""

from typing import Any, Literal

from rare_gems import keep_ratios, masks, transforms
from rare_gems.phase import Mask, Phase, Recipe, Rounds
from rare_gems.pruners.parts.counts import check_whole
from rare_gems.pruners.parts.finetune import finetune as train

__all__ = ["cubic_counts", "gmp"]


def cubic_counts(num_prunable: int, sparsity: float, num_rounds: int, initial_sparsity: float = 0.0) -> tuple[int, ...]:
    """Kept counts along the cubic schedule: n (1 - s_r), s_r = s_f + (s_i - s_f) (1 - r / R)^3, r = 0..R, rounded.

    Args:
      num_prunable: n. sparsity: s_f, the fraction removed in the end. num_rounds: R. initial_sparsity: s_i.
    Returns:
      R + 1 integers that never rise; the first and last are exactly `masks.count_for` of s_i and s_f.
    Raises:
      ValueError: unless R >= 1 and 0 <= s_i <= s_f < 1, and where nothing would be kept.
    Example:
      >>> cubic_counts(1000, 0.9, 3)
      (1000, 367, 133, 100)

    Source: Zhu and Gupta, Eq. 1.
    """
    if num_rounds < 1:
        raise ValueError(f"num_rounds: expected 1 or more, got {num_rounds}")
    first, last = (masks.count_for(num_prunable, s) for s in (initial_sparsity, sparsity))
    if last > first:
        raise ValueError(f"initial_sparsity: expected a number from 0 to {sparsity}, got {initial_sparsity}")
    if last < 1:
        raise ValueError(f"sparsity: {sparsity} keeps none of {num_prunable} weights; expected a lower one")
    falling = (round(last + (first - last) * (1 - r / num_rounds) ** 3) for r in range(1, num_rounds))
    return (first, *falling, last)


def gmp(
    mask: Mask,
    *,
    sparsity: float,
    num_epochs: int,
    steps_per_epoch: int,
    every: int = 100,
    start: float = 0.0,
    stop: float = 0.75,
    initial_sparsity: float = 0.0,
    scope: Literal["global", "layer"] = "global",
    learning_rate: float = 0.1,
    finetune: Phase | None = None,
    invert: bool = False,
    **training: Any,
) -> Recipe:
    """Trains the weights and removes the smallest after every `every` steps, fast at first, then ever slower.

      q = top_{n (1 - s_t)}(|w| within q),  s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^3

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: s_f, the fraction removed, in [0, 1).
      num_epochs, steps_per_epoch: the length of the search, which is a whole training.
      every: steps from one pruning to the next
      start: fraction of the search after which pruning begins (t_0 is the nearest step)
      stop: fraction of the search after which the target is reached (t_1 is the nearest step; if `every` does not
        divide their distance, the last before it)
      initial_sparsity: s_i, removed at `start` at once.
      scope: rank over the whole network, or within each layer at equal ratios
      learning_rate, training: milestones, momentum, weight_decay, descent, loss_fn, as in `pruners.parts.finetune`; by
        default SGD at 0.1, a tenth at each of `schedules.milestones_for`.
      finetune: a last phase on the weights as they are then; None stops after the search.
      invert: keep the largest out instead: the smallest |w| stay (a sanity check).
    Returns:
      (search,) or (search, finetune); with start 0 and s_i above 0 an edit that prunes to s_i comes first.
    Raises:
      ValueError: if no pruning fits between start and stop, for a value outside its range, and where nothing of the
        network or ("layer") of a layer would be kept.
    Example:
      >>> import jax
      >>> mask = [jax.ShapeDtypeStruct((1000,), bool)]
      >>> (search,) = gmp(mask, sparsity=0.9, num_epochs=10, steps_per_epoch=4, every=5)
      >>> search.num_steps, search.trains
      (40, 'params')

    Deviations: prunes after the optimizer step, to integer counts from a table (jaxpruner rounds in float32, layer by
    layer), and the last pruning is exactly on target (there the target is missed unless the stop is a multiple of
    `every`). A weight once removed stays out (jaxpruner ranks all anew).
    """
    search = train(
        num_epochs=num_epochs, steps_per_epoch=steps_per_epoch, learning_rate=learning_rate, name="search", **training
    )
    if scope not in ("global", "layer"):
        raise ValueError(f"scope: expected 'global' or 'layer', got {scope!r}")
    if not 0 <= start < stop <= 1:
        raise ValueError(f"start, stop: expected 0 <= start < stop <= 1, got {start} and {stop}")
    first, last = round(start * search.num_steps), round(stop * search.num_steps)
    check_whole(every=every)
    if not 1 <= every <= last - first:
        raise ValueError(
            f"every: expected 1 to {last - first} steps, for a pruning between the steps {first} and {last} of "
            f"{search.num_steps}, got {every}"
        )
    num_rounds = (last - first) // every
    totals = cubic_counts(masks.num_prunable(mask), sparsity, num_rounds, initial_sparsity)
    rows = [total if scope == "global" else keep_ratios.uniform(mask, total) for total in totals]
    skipped = int(first == 0)  # no step comes before the first of them
    search = search._replace(
        rounds=Rounds(
            transforms.keep_given(scope, transforms.magnitude, invert=invert),
            range(first, last + 1, every)[skipped:],
            given=lambda r: rows[r + skipped],
        )
    )
    recipe = (search,) if finetune is None else (search, finetune)
    if first == 0 and totals[0] < masks.num_prunable(mask):
        return (transforms.edit(transforms.keep_top(rows[0], scope, transforms.magnitude, invert=invert)), *recipe)
    return recipe
