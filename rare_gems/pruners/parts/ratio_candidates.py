"""Layer ratios that keep a given number of weights, and others near them."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems import masks
from rare_gems.phase import Mask

__all__ = ["candidates", "fit", "layer_sizes"]


def candidates(
    mask: Mask, sparsity: float, ratios: Sequence[float], num_candidates: int = 8, radius: float = 0.3, seed: int = 0
) -> np.ndarray:
    """Ratios around those given: p_l exp(radius * N(0, 1)), scaled to the target; the first are those given.

    Args:
      ratios: one a layer, in leaf order; a 0 becomes one weight. num_candidates: C. radius: of the logarithm.
      seed: of the draws, which are the same in every run.
    Returns:
      float64 [C, L]; in each row sum p_l m_l is the target, and every layer keeps a weight.
    Raises:
      ValueError: if the ratios are not one a layer in [0, 1], or a number is out of range.
    Example:
      >>> mask = [jax.ShapeDtypeStruct((50,), bool), jax.ShapeDtypeStruct((50,), bool)]
      >>> candidates(mask, 0.9, [0.3, 0.1], 1).round(4).tolist()
      [[0.15, 0.05]]
    """
    sizes, target = layer_sizes(mask, sparsity)
    start = np.asarray(ratios, np.float64)
    if start.shape != sizes.shape or not ((start >= 0) & (start <= 1)).all() or not start.any():
        raise ValueError(f"ratios: expected {len(sizes)} numbers in [0, 1], one a layer, got {list(ratios)}")
    if num_candidates < 1 or not (radius >= 0 and math.isfinite(radius)):
        raise ValueError(f"candidates: expected 1 or more at a radius of 0 or more, got {num_candidates} at {radius}")
    with jax.ensure_compile_time_eval():
        noise = np.array(jax.random.normal(jax.random.key(seed), (num_candidates, len(sizes)), jnp.float32), np.float64)
    noise[0] = 0
    tried = np.maximum(start, 1 / sizes) * np.exp(radius * noise)
    return np.array([fit(row, sizes, target, np) for row in tried])


def fit(ratios: Any, sizes: np.ndarray, num_kept: Any, xp: Any = jnp) -> Any:
    """The ratios times the one factor at which they keep `num_kept` weights: p_l = clip(t p_l, 1 / m_l, 1).

    Args:
      ratios: p, positive floats [L]. sizes: m, float64 [L]. num_kept: an integer from L to the sum of the sizes.
      xp: jax.numpy, or numpy for float64 on the host.
    Returns:
      floats [L], whose sum p_l m_l is `num_kept` up to rounding.
    Example:
      >>> fit(np.array([0.5, 0.2]), np.array([10.0, 100.0]), 50, np).round(4).tolist()
      [1.0, 0.4]
    """
    sizes = xp.asarray(sizes, ratios.dtype)
    low = 1 / sizes
    knots = xp.sort(xp.concatenate([low / ratios, 1 / ratios]))  # where a layer starts or stops to follow the factor
    kept = (sizes[None] * xp.clip(knots[:, None] * ratios[None], low[None], 1)).sum(1)
    factor = xp.interp(xp.asarray(num_kept, ratios.dtype), kept, knots)
    return xp.clip(factor * ratios, low, 1)


def layer_sizes(mask: Mask, sparsity: float) -> tuple[np.ndarray, int]:
    """The weights of each layer, float64 [L], and how many are kept of all.

    Raises:
      ValueError: if these are less than one a layer.
    """
    sizes = np.array([math.prod(leaf.shape) for leaf in jax.tree.leaves(mask)], np.float64)
    target = masks.count_for(masks.num_prunable(mask), sparsity)
    if target < len(sizes) or not sizes.all():
        raise ValueError(
            f"sparsity: {sparsity} keeps {target} of {masks.num_prunable(mask)} weights; expected one or more in each "
            f"of {len(sizes)} layers"
        )
    return sizes, target
