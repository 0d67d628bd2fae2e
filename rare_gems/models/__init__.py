"""Networks as two pure functions, `apply(params, state, x, train) -> (logits, state)`, and PyTorch weights for them."""

from rare_gems.models.torch_weights import from_torch as from_torch
from rare_gems.models.torch_weights import read_torch as read_torch
