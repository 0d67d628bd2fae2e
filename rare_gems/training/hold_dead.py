"""What an optimizer holds of dead weights, set to zero: without it, momentum would move them when they grow again."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rare_gems.phase import Mask, Params

__all__ = ["hold_dead"]


def hold_dead(optimizer: optax.GradientTransformation, opt_state: Any, trained: Params, mask: Mask) -> Any:
    """The optimizer's state with zeros where the mask is False, in every slot that has the shape of its parameter.

    What has another shape is left: placeholders (`optax.masked`), Adafactor's rows and columns.

    Args:
      optimizer: any optax chain. opt_state: its state. trained: the parameters that it updates.
      mask: bool, None where a leaf is not prunable.
    Returns:
      a state like `opt_state`.
    Example:
      >>> optimizer, params = optax.sgd(0.1, momentum=0.9), jnp.ones(2)
      >>> _, state = optimizer.update(jnp.ones(2), optimizer.init(params), params)
      >>> hold_dead(optimizer, state, params, jnp.array([True, False]))[0].trace
      Array([1., 0.], dtype=float32)
    """
    leaves = jax.tree.map(lambda w, m: True if m is None else m, trained, mask)

    def hold(slot: Any, m: Any) -> Any:
        return jnp.where(m, slot, jnp.zeros_like(slot)) if np.shape(m) == getattr(slot, "shape", None) else slot

    with jax.numpy_dtype_promotion("standard"):  # map_params calls init
        return optax.tree.map_params(
            optimizer.init, hold, opt_state, leaves, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
        )
