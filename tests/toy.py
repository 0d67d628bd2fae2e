"""A problem small enough to train in every test, and exact: the loss is separable, so sums never reorder."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rare_gems import init, masks
from rare_gems.phase import Ticket
from rare_gems.training.feeds import Feed

NUM_BATCHES = 3
SIZES = {"first": (16, 8), "last": (8, 6)}  # 176 prunable weights, leading axes that eight devices divide
ORDER = tuple(f"{name}/kernel" for name in SIZES)


class Toy(NamedTuple):
    """`num_traces` counts how often the loss was traced, in a list of one."""

    ticket: Ticket
    model_state: dict
    loss_fn: object
    feed: Feed
    num_traces: list


def rotated(num_batches, batch_size):
    """Orders of examples that depend on the key, and compile in a fifth of a permutation's time."""
    size = num_batches * batch_size

    def order(key):
        first = (jax.random.key_data(key)[-1] % size).astype(jnp.int32)
        return ((jnp.arange(size, dtype=jnp.int32) + first) % size).reshape(num_batches, batch_size)

    return order


def make_toy(seed: int = 0) -> Toy:
    """L = sum over weights of (w x - y)^2 with a scalar x per example; the bias is not prunable."""
    key_weights, key_scores, key_targets = jax.random.split(jax.random.key(seed), 3)
    params = {name: {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[1])} for name, shape in SIZES.items()}
    mask = masks.ones(params)
    params = init.kaiming_normal(key_weights, params, mask)
    targets = jax.tree.map(lambda w: jax.random.normal(key_targets, w.shape), params)
    num_traces = [0]

    def loss_fn(params, state, batch, key):
        del key
        num_traces[0] += 1
        errors = jax.tree.map(lambda w, t: jnp.mean(batch) * jnp.square(w - t), params, targets)
        loss = sum(jnp.sum(e) for e in jax.tree.leaves(errors)) / 100
        return loss, ({"seen": state["seen"] + 1}, jnp.float32(0.5))

    feed = Feed(
        data=jnp.linspace(0.5, 1.5, 12),
        num_batches=NUM_BATCHES,
        order=rotated(NUM_BATCHES, 4),
        batch=lambda data, indices, key: data[indices],
    )
    ticket = Ticket(params, init.uniform_scores(key_scores, mask), mask)
    return Toy(ticket, {"seen": jnp.int32(0)}, loss_fn, feed, num_traces)
