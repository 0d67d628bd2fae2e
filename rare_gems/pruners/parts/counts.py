"""How many weights a pruner keeps: checked, and computed on the host."""

import decimal
import math
from typing import Any, Literal

import jax
import numpy as np

from rare_gems import keep_ratios, masks, schedules
from rare_gems.phase import Mask
from rare_gems.structures import check_structure

__all__ = [
    "check_counts",
    "check_floors",
    "check_positive",
    "check_whole",
    "counts_at",
    "falling_counts",
    "freezing_counts",
    "stop_step",
    "target_counts",
]


def stop_step(stop: float, num_steps: int) -> float:
    """stop * num_steps, from the digits that were typed: 0.55 of 100 steps is 55, not 55.00000000000001.

    Example:
      >>> stop_step(0.55, 100)
      55.0
    """
    return float(decimal.Decimal(str(stop)) * int(num_steps))


def check_counts(mask: Mask, counts: Any) -> None:
    """Raises ValueError unless `counts` is a tree of integers like `mask`, each from 0 to its layer's size."""
    check_structure("counts", counts, mask, "the mask")
    for (path, leaf), count in zip(jax.tree_util.tree_leaves_with_path(mask), jax.tree.leaves(counts), strict=True):
        size = math.prod(leaf.shape)
        if not 0 <= count <= size:
            raise ValueError(f"counts of {masks.path_name(path)}: expected an integer from 0 to {size}, got {count}")


def check_floors(mask: Mask, at_least: int, num_kept: Any, scope: Literal["global", "layer"] = "global") -> int | None:
    """The floor for `transforms.keep_top`: `at_least`, or None for 0.

    Args:
      at_least: how many weights each layer keeps at least; all, where it has fewer.
      num_kept: how many are kept in all; in the scope "layer" nothing is asked of it.
    Raises:
      ValueError: for something that is no integer of 0 or more, for floors beside the scope "layer", whose counts are
        given, and where floors exceed the count.
    Example:
      >>> check_floors([jax.ShapeDtypeStruct((10,), bool), jax.ShapeDtypeStruct((2,), bool)], 3, 4)
      Traceback (most recent call last):
      ValueError: at_least: expected floors that sum to at most the 4 weights kept, got 3 in each of 2 layers, 5 in all
    """
    check_whole(at_least=at_least)
    if at_least == 0:
        return None
    if scope != "global":
        raise ValueError(f"at_least: expected 0 in the scope 'layer', where each layer has its count, got {at_least}")
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(mask)]
    total = sum(min(at_least, size) for size in sizes)
    if total > num_kept:
        raise ValueError(
            f"at_least: expected floors that sum to at most the {num_kept} weights kept, got {at_least} in each of "
            f"{len(sizes)} layers, {total} in all"
        )
    return at_least


def target_counts(mask: Mask, sparsity: float, scope: Literal["global", "layer"] = "global") -> Any:
    """How many weights are kept: an integer, or ("layer") a tree of them at equal ratios.

    Raises:
      ValueError: for a sparsity outside [0, 1) or an unknown scope, and where nothing, or ("layer") nothing of some
        layer, would be kept.
    Example:
      >>> target_counts([jax.ShapeDtypeStruct((10,), bool), jax.ShapeDtypeStruct((30,), bool)], 0.9, "layer")
      [1, 3]
    """
    if scope not in ("global", "layer"):
        raise ValueError(f"scope: expected 'global' or 'layer', got {scope!r}")
    n = masks.num_prunable(mask)
    count = masks.count_for(n, sparsity)
    if count < 1:
        raise ValueError(f"sparsity: {sparsity} keeps none of {n} weights; expected a lower one")
    return count if scope == "global" else keep_ratios.uniform(mask, count)


def counts_at(mask: Mask, sparsity: float, ratios: Literal["uniform", "erk"]) -> Any:
    """How many weights each layer keeps at equal, or Erdos-Renyi-kernel, ratios: a tree of integers.

    Raises:
      ValueError: for other ratios, and where a layer would be left without a weight.
    """
    known = {"uniform": keep_ratios.uniform, "erk": keep_ratios.erk}
    if ratios not in known:
        raise ValueError(f"ratios: expected one of {', '.join(known)}, got {ratios!r}")
    return known[ratios](mask, target_counts(mask, sparsity))


def check_whole(least: int = 0, **counts: int) -> None:
    """Raises ValueError, naming it, for a count that is no integer or below `least`; floats are none, whole or not.

    Example:
      >>> check_whole(every=-1)
      Traceback (most recent call last):
      ValueError: every: expected an integer of 0 or more, got -1
    """
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < least:
            raise ValueError(f"{name}: expected an integer of {least} or more, got {count!r}")


def check_positive(**counts: int) -> None:
    """Raises ValueError, naming it, for a count that is no integer or below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}: expected 1 or more, got {count}")
    check_whole(1, **counts)


def falling_counts(mask: Mask, sparsity: float, num_rounds: int) -> tuple[int, ...]:
    """How many weights of the network are kept after each round, a constant factor fewer each: R falling integers.

    Raises:
      ValueError: for a sparsity outside (0, 1), if nothing would be kept, or a round would remove nothing.
    Example:
      >>> falling_counts([jax.ShapeDtypeStruct((1000,), bool)], 0.9, 2)
      (316, 100)
    """
    check_positive(rounds=num_rounds)
    if not 0 < sparsity < 1:
        raise ValueError(f"sparsity: expected a fraction in (0, 1), got {sparsity}")
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


def freezing_counts(
    mask: Mask, sparsity: float, num_rounds: int, scope: Literal["global", "layer"] = "global"
) -> tuple:
    """How many weights q keeps after each round: R integers, or ("layer") R trees of them.

    In the layer scope the equal ratios are rounded so that the layers always sum to the global count.

    Raises:
      ValueError: if nothing, or ("layer") nothing of some layer, would be kept.
    Example:
      >>> freezing_counts([jax.ShapeDtypeStruct((1000,), bool)], 0.9, 2)
      (316, 100)
    """
    n = masks.num_prunable(mask)
    counts = schedules.exponential_counts(n, sparsity, num_rounds)
    if counts[-1] < 1:
        raise ValueError(f"sparsity: {sparsity} keeps none of {n} weights; expected a lower one")
    if scope == "global":
        return counts
    return tuple(keep_ratios.uniform(mask, count) for count in counts)
