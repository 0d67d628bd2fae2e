"""Networks as two pure functions, `apply(params, state, x, train) -> (logits, state)`, and PyTorch weights for them.

Example:
  >>> import jax
  >>> import jax.numpy as jnp
  >>> from rare_gems import masks
  >>> from rare_gems.models.resnet import resnet20
  >>> model = resnet20()
  >>> params, state = jax.eval_shape(model.init, jax.random.key(0))  # shapes only; model.init(key) draws
  >>> masks.num_prunable(jax.eval_shape(masks.ones, params))
  268336
"""

from rare_gems.models.torch_export import to_torch as to_torch
from rare_gems.models.torch_weights import from_torch as from_torch
from rare_gems.models.torch_weights import read_torch as read_torch
