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

Export of a ticket, as the state dict of the network's counterpart in PyTorch, where removed weights are zeros:
  >>> from rare_gems.models import to_torch
  >>> from rare_gems.models.lenet import lenet_300_100
  >>> params, state = lenet_300_100(2, input_size=4).init(jax.random.key(0))
  >>> mask = masks.keep_top(masks.map_kept(jnp.abs, params, masks.ones(params)), 100)
  >>> tensors = to_torch("lenet_300_100", params, state, mask)
  >>> sorted(tensors), sum(int((tensors[name] != 0).sum()) for name in tensors if name.endswith("weight"))
  (['fc1.bias', 'fc1.weight', 'fc2.bias', 'fc2.weight', 'fc3.bias', 'fc3.weight'], 100)

`rare_gems.models.torch_save` writes it as a .pt that `torch.load` reads, `rare_gems.models.keras_names` has the names
of Keras, and `python -m experiments.export` does all of this for a finished run.
"""

from rare_gems.models.torch_export import to_torch as to_torch
from rare_gems.models.torch_weights import from_torch as from_torch
from rare_gems.models.torch_weights import read_torch as read_torch
