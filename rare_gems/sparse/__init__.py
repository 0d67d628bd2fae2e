"""Sparse training in any JAX training loop: an optax optimizer that keeps removed weights at zero.

Example:
  >>> import jax.numpy as jnp, optax
  >>> from rare_gems import sparse
  >>> params = {"kernel": jnp.array([[3.0, -1.0], [0.5, -2.0]]), "bias": jnp.zeros(2)}
  >>> tx = sparse.prune(optax.adamw(1e-3), sparse.magnitude(0.5))
  >>> state = tx.init(params)
  >>> updates, state = tx.update({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, state, params)
  >>> optax.apply_updates(params, updates)["kernel"].round(2).tolist(), sparse.sparsity(state)
  ([[3.0, 0.0], [0.0, -2.0]], 0.5)

There is no `__all__`, so that the reference has a page for each module.
"""

from rare_gems.sparse.dense_gradient import straight_through as straight_through
from rare_gems.sparse.gem_miner_freezing import freezing as freezing
from rare_gems.sparse.methods import Method as Method
from rare_gems.sparse.methods import fixed as fixed
from rare_gems.sparse.methods import gradual as gradual
from rare_gems.sparse.methods import magnitude as magnitude
from rare_gems.sparse.methods import random as random
from rare_gems.sparse.methods import rigl as rigl
from rare_gems.sparse.methods import selected as selected
from rare_gems.sparse.methods import snip as snip
from rare_gems.sparse.methods import sparse_evolutionary_training as sparse_evolutionary_training
from rare_gems.sparse.optimizer import prune as prune
from rare_gems.sparse.sparse_state import SparseState as SparseState
from rare_gems.sparse.sparse_state import masks as masks
from rare_gems.sparse.sparse_state import sparsity as sparsity
from rare_gems.sparse.structured import keep_blocks as keep_blocks
from rare_gems.sparse.structured import keep_channels as keep_channels
from rare_gems.sparse.structured import keep_n_of_m as keep_n_of_m
from rare_gems.sparse.table import report as report
