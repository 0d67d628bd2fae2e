"""Pruning methods, one file per paper. Each is a factory that returns a `Recipe`, and no more than that.

The trainer runs the recipe: it finds the mask, and then trains the weights under it.

Example:
  >>> import jax
  >>> import jax.numpy as jnp
  >>> from rare_gems import init, masks
  >>> from rare_gems.phase import Ticket
  >>> from rare_gems.pruners.gem_miner import gem_miner
  >>> from rare_gems.training import trainer
  >>> from rare_gems.training.feeds import Feed
  >>> feed = Feed(
  ...     data=jax.random.normal(jax.random.key(0), (8, 16)),
  ...     num_batches=2,  # an epoch
  ...     order=lambda key: jnp.arange(8, dtype=jnp.int32).reshape(2, 4),
  ...     batch=lambda data, indices, key: data[indices],
  ... )
  >>> def loss_fn(params, state, batch, key):
  ...     error = jnp.square(batch @ params["kernel"] - batch[:, :1])
  ...     return error.mean(), (state, jnp.float32(0))  # in the place of an accuracy
  >>> params = {"kernel": jnp.zeros((16, 10))}
  >>> mask = masks.ones(params)
  >>> ticket = Ticket(
  ...     params=init.signed_constant(jax.random.key(1), params, mask),
  ...     scores=init.uniform_scores(jax.random.key(2), mask),
  ...     mask=mask,
  ... )
  >>> recipe = gem_miner(mask, sparsity=0.9, num_epochs=3, steps_per_epoch=2, period=1)
  >>> ticket, _ = trainer.run(recipe, ticket, {}, loss_fn=loss_fn, feed=feed, key=jax.random.key(3))
  >>> masks.num_kept(ticket.mask), masks.num_prunable(ticket.mask)
  (16, 160)
"""
