"""Initial weights and scores: pure functions (key, tree, mask) -> tree that redraw the prunable leaves.

fan_in of a kernel is the product of all its dimensions but the last (HWIO convolutions, (in, out) dense kernels).
Kernels are drawn in float32 and come in the dtype of the params. NumPy's float64 is refused where JAX would cut it;
leaves that are not prunable stay as they are.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems.leaves import as_jax
from rare_gems.masks import num_prunable, path_name
from rare_gems.phase import Key, Mask, Params, Scores
from rare_gems.structures import check_shape

__all__ = ["kaiming_normal", "kaiming_uniform_scores", "signed_constant", "uniform", "uniform_scores"]


def signed_constant(key: Key, params: Params, mask: Mask, keep_ratio: float = 1.0) -> Params:
    """w = +-sqrt(2 / (fan_in k)), each sign with probability 1/2.

    Args:
      key: consumed once. params: arrays. mask: None where a leaf is left alone.
      keep_ratio: k in (0, 1], the fraction of its inputs that a unit will keep ("scaled fan"); 1 leaves the fan.
    Returns:
      a tree like `params`.
    Example:
      >>> params, key = {"kernel": jnp.zeros((8, 4))}, jax.random.key(0)
      >>> sorted(set(signed_constant(key, params, {"kernel": jnp.ones((8, 4), bool)})["kernel"].ravel().tolist()))
      [-0.5, 0.5]

    Raises:
      ValueError: if keep_ratio is not in (0, 1], or a mask has another shape than its parameter.

    Source: Rare Gems (v1), Appendix A; Ramanujan et al., section 4.2. Deviation: edge-popup's code scales the fan by
    the fraction that it removes, which agrees at one half only.
    """
    return _redraw(params, mask, lambda shape: jax.random.rademacher(key, shape, jnp.float32), keep_ratio)


def kaiming_normal(key: Key, params: Params, mask: Mask, keep_ratio: float = 1.0) -> Params:
    """w ~ N(0, 2 / (fan_in k)), with `keep_ratio` k as in `signed_constant`. Source: He et al., 2015, Eq. 10."""
    return _redraw(params, mask, lambda shape: jax.random.normal(key, shape, jnp.float32), keep_ratio)


def uniform(key: Key, params: Params, mask: Mask, keep_ratio: float = 1.0) -> Params:
    """w ~ U(-b, b) with b = sqrt(6 / (fan_in k)), which has the variance 2 / (fan_in k) of the other two.

    Source: He et al., 2015 (the uniform form). Deviation: torch's default layers draw b = sqrt(1 / fan_in).
    """

    def draw(shape: tuple[int]) -> jax.Array:  # in [-1, 1) nothing is rounded, however XLA contracts a + (b - a) u
        return jax.random.uniform(key, shape, jnp.float32, -1, 1) * jnp.float32(3**0.5)

    return _redraw(params, mask, draw, keep_ratio)


def uniform_scores(key: Key, mask: Mask) -> Scores:
    """p ~ U[0, 1) in float32, None where the mask is None. Source: Rare Gems, Algorithm 1, line 3."""
    return _split(jax.random.uniform(key, (num_prunable(mask),), jnp.float32), mask)


def kaiming_uniform_scores(key: Key, mask: Mask) -> Scores:
    """s ~ U(-b, b) with b = 1 / sqrt(fan_in), in float32; None where the mask is None.

    Args:
      key: consumed once. mask: bool; only its shapes matter.
    Example:
      >>> scores = kaiming_uniform_scores(jax.random.key(0), {"kernel": jnp.ones((16, 100), bool), "bias": None})
      >>> 0.24 < float(jnp.abs(scores["kernel"]).max()) < 0.25, scores["bias"]
      (True, None)

    Source: edge-popup's code (Kaiming uniform with a = sqrt(5), torch's default for a layer's weights).
    """
    units = _split(jax.random.uniform(key, (num_prunable(mask),), jnp.float32, -1, 1), mask)
    return jax.tree.map(lambda unit: unit / math.sqrt(math.prod(unit.shape[:-1]) or 1), units)


def _redraw(params: Params, mask: Mask, draw: Callable[[tuple[int]], jax.Array], keep_ratio: float) -> Params:
    """Standard draws, scaled leaf by leaf. One draw for all leaves: each would cost half a second of compiling."""
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio: expected a number in (0, 1], got {keep_ratio}")
    drawn = _split(draw((num_prunable(mask),)), mask)

    def one(path: tuple, m: Any, unit: Any, leaf: Any) -> Any:
        if m is None:
            return leaf
        check_shape("mask", path, m, leaf)
        if leaf.size == 0:
            return leaf
        leaf = as_jax(f"params of {path_name(path)}", leaf)
        return (math.sqrt(2 / (math.prod(leaf.shape[:-1]) * keep_ratio)) * unit).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, mask, drawn, params, is_leaf=lambda leaf: leaf is None)


def _split(flat: jax.Array, mask: Mask) -> Any:
    leaves, treedef = jax.tree.flatten(mask)
    if not leaves:
        return mask
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    return treedef.unflatten([x.reshape(m.shape) for x, m in zip(jnp.split(flat, ends), leaves, strict=True)])
