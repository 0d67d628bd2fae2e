"""Initial weights and scores: pure functions (key, tree, mask) -> tree that redraw the prunable leaves.

fan_in of a kernel is the product of all its dimensions but the last (HWIO convolutions, (in, out) dense kernels).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rare_gems.phase import Key, Mask, Params, Scores

__all__ = ["kaiming_normal", "signed_constant", "uniform", "uniform_scores"]


def signed_constant(key: Key, params: Params, mask: Mask) -> Params:
    """w = +-sqrt(2 / fan_in), each sign with probability 1/2.

    Args:
      key: consumed once. params: arrays. mask: None where a leaf is left alone.
    Returns:
      a tree like `params`.
    Source: Rare Gems (v1), Appendix A; Ramanujan et al., section 4.2 (unscaled fan).
    """
    return _redraw(key, params, mask, lambda k, leaf, std: std * jax.random.rademacher(k, leaf.shape, leaf.dtype))


def kaiming_normal(key: Key, params: Params, mask: Mask) -> Params:
    """w ~ N(0, 2 / fan_in). Source: He et al., 2015, Eq. 10."""
    return _redraw(key, params, mask, lambda k, leaf, std: std * jax.random.normal(k, leaf.shape, leaf.dtype))


def uniform(key: Key, params: Params, mask: Mask) -> Params:
    """w ~ U(-b, b) with b = sqrt(6 / fan_in), which has the variance 2 / fan_in of the other two.

    Source: He et al., 2015 (the uniform form). Deviation: torch's default layers draw b = sqrt(1 / fan_in).
    """

    def draw(k: Key, leaf: jax.Array, std: float) -> jax.Array:
        return std * math.sqrt(3) * jax.random.uniform(k, leaf.shape, leaf.dtype, -1.0, 1.0)

    return _redraw(key, params, mask, draw)


def uniform_scores(key: Key, mask: Mask, dtype: Any = jnp.float32) -> Scores:
    """p ~ U[0, 1), None where the mask is None. Source: Rare Gems, Algorithm 1, line 3."""
    leaves, treedef = jax.tree.flatten(mask)
    keys = jax.random.split(key, max(len(leaves), 1))
    return treedef.unflatten([jax.random.uniform(k, m.shape, dtype) for k, m in zip(keys, leaves, strict=True)])


def _redraw(key: Key, params: Params, mask: Mask, draw: Callable[[Key, jax.Array, float], jax.Array]) -> Params:
    leaves, treedef = jax.tree.flatten(mask)
    keys = treedef.unflatten(list(jax.random.split(key, max(len(leaves), 1))))

    def one(m: Any, k: Any, leaf: Any) -> Any:
        return leaf if m is None else draw(k, leaf, math.sqrt(2 / math.prod(leaf.shape[:-1])))

    return jax.tree.map(one, mask, keys, params, is_leaf=lambda leaf: leaf is None)
