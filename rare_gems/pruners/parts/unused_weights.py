"""Sends the scores of weights that do nothing to the bottom: those on no path from the images to the logits."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rare_gems import masks
from rare_gems.phase import Context, Mask, State, Ticket, Transform

__all__ = ["drop_unused"]


def drop_unused(steps: Sequence[int]) -> Transform:
    """p = 0 where dL/dw was exactly 0 in each step since the last of `steps`.

    Where nothing reaches a weight, or nothing is made of its product, the gradient of every batch is exactly 0, whether
    the weight is on or off. Steps do not move its score: what does nothing stays on, and what does something is
    switched off in its place. At the bottom it costs nothing; between two units that are alive it has a gradient, which
    may raise it again. If no weight of the network had a gradient, all scores stay.

    Args:
      steps: after which steps of the phase scores are looked at, rising from 1 or more; a `during` transform, which
        needs the gradient of each step. Also weights behind an input that was zero in all images between two of `steps`
        are dropped, those of a unit that none of these images turned on, and all of a layer that the loss gives no
        gradient. So let there be many images between two.
    Returns:
      a transform whose state says which weights were used: bool, in the structure of the mask.
    Example:
      >>> transform = drop_unused([2])
      >>> ticket = Ticket([jnp.ones(3)], [jnp.array([0.75, 0.75, 0.25])], [jnp.ones(3, bool)])
      >>> state = transform.init(ticket)
      >>> for step, grads in enumerate(([0.0, 0.0, 0.0], [0.0, 2.0, 0.0])):
      ...     context = Context(step, jax.random.key(0), None, [jnp.array(grads)])
      ...     ticket, state = transform.update(ticket, state, context)
      >>> ticket.scores[0].tolist()
      [0.0, 0.75, 0.0]

    Source: ours. What it gives is in experiments/results/gem_miner_auto.
    """

    def init(ticket: Ticket) -> Mask:
        return jax.tree.map(jnp.zeros_like, ticket.mask)

    def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        now = jnp.any(jnp.asarray(steps, jnp.int32) == jnp.asarray(context.step, jnp.int32) + 1)
        moved = masks.map_kept(lambda g: jnp.asarray(g) != 0, context.grads, ticket.mask)
        used = jax.tree.map(jnp.logical_or, state, moved)
        drop = jnp.logical_and(now, jnp.any(jnp.stack([jnp.any(u) for u in jax.tree.leaves(used)])))
        scores = jax.tree.map(lambda p, u: jnp.where(drop & ~u, jnp.zeros_like(p), p), ticket.scores, used)
        return ticket._replace(scores=scores), jax.tree.map(lambda u: u & ~now, used)

    return Transform(init, update)
