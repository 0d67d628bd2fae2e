"""Pruning by a straight-through estimator: the network sees the masked weights, all weights are trained."""

import jax

from rare_gems import masks, ste
from rare_gems.phase import Mask, Params

__all__ = ["straight_through"]


def straight_through(params: Params, mask: Mask) -> Params:
    """w * m, where the gradient passes on to all weights as if m were 1: use it in the loss, with any optimizer.

    Args:
      params: any pytree. mask: bool, None where a leaf is not prunable; such as the largest |w|, chosen anew in
        every step.
    Returns:
      a tree like `params`.
    Raises:
      ValueError: for a mask of another shape, or one that is not bool.
    Example:
      >>> import jax.numpy as jnp
      >>> def loss(params):
      ...     mask = masks.keep_top(masks.map_kept(jnp.abs, params, masks.ones(params)), 1)
      ...     return 5 * straight_through(params, mask)["kernel"].sum()
      >>> value, grads = jax.value_and_grad(loss)({"kernel": jnp.array([[-2.0, 3.0]])})
      >>> value.item(), grads["kernel"].tolist()
      (15.0, [[5.0, 5.0]])

    Source: Zhou et al., Learning N:M Fine-grained Structured Sparse Neural Networks, Eq. 4, without its decay.
    """
    jax.eval_shape(masks.apply, params, mask)  # raises where they do not fit
    return jax.tree.map(
        lambda m, w: w if m is None else ste.masked(w, m), mask, params, is_leaf=lambda leaf: leaf is None
    )
