"""What a ticket is like, beside another ticket or alone: distances, overlaps, paths between networks, dead weights.

Pure functions over pytrees. `rare_gems.analysis.distance` and `rare_gems.analysis.overlap` count on the host, in
float64 and in integers; `rare_gems.analysis.connectivity` and `rare_gems.analysis.running_statistics` run the network;
`rare_gems.analysis.effective` follows a signal through it, and the other modules serve it.

Example:
  >>> import jax.numpy as jnp
  >>> from rare_gems import masks
  >>> from rare_gems.analysis import distance, effective, overlap
  >>> one, other = {"kernel": jnp.array([3.0, 0.0, 7.0])}, {"kernel": jnp.array([0.0, 4.0, 8.0])}
  >>> mask = {"kernel": jnp.array([True, True, False])}
  >>> distance.between(one, other, mask)
  Distance(l2=5.0, angle=90.0)
  >>> overlap.between(mask, {"kernel": jnp.array([True, False, True])}).shared
  0.5
  >>> def apply(params, state, images, train):
  ...     return images @ params["first"] @ params["last"], state
  >>> params = {"first": jnp.ones((2, 3)), "last": jnp.ones((3, 1))}
  >>> mask = {"first": jnp.array([[True, True, False]] * 2), "last": jnp.array([[True], [False], [True]])}
  >>> alive = effective.mask(apply, params, {}, mask, (2,))  # what lies on a path from the images to the logits
  >>> masks.num_kept(mask), masks.num_kept(alive)
  (6, 3)

The same of finished runs: `python -m experiments.analyse RUN RUN ...`.
"""
