"""What has no gradient between two rounds: by hand, and against the paths of a network."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rare_gems import init, masks, views
from rare_gems.analysis import effective
from rare_gems.phase import Context, Phase, Ticket
from rare_gems.pruners.gem_miner_auto import gem_miner_auto
from rare_gems.pruners.parts.unused_weights import drop_unused
from rare_gems.training import trainer
from rare_gems.transforms import identity

KEY = jax.random.key(0)
SIZES = (8, 12, 12, 12, 4)


def scores_after(grads, steps, scores=(0.9, 0.5, 0.4, 0.8)):
    """The scores after each of these gradients."""
    ticket = Ticket([jnp.ones(4), jnp.ones(2)], [jnp.array(scores), None], [jnp.ones(4, bool), None])
    transform = drop_unused(steps)
    state, seen = transform.init(ticket), []
    for step, g in enumerate(grads):
        context = Context(jnp.int32(step), KEY, None, [jnp.array(g), jnp.zeros(2)])
        ticket, state = jax.jit(transform.update)(ticket, state, context)
        seen.append([round(p, 3) for p in ticket.scores[0].tolist()])
    assert ticket.scores[1] is None
    return seen


def test_by_hand():
    """One gradient between two rounds is enough, of whatever size; each interval begins anew; with none at all, nothing
    happens."""
    start, tiny = [0.9, 0.5, 0.4, 0.8], 1e-30
    none, first, last = [0.0] * 4, [tiny, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, -2.0]
    after_two = [0.9, 0, 0, 0]
    assert scores_after([none, first, none, none], steps=(2, 4)) == [start, after_two, after_two, after_two]
    assert scores_after([none, first, none, last], steps=(2, 4)) == [start, after_two, after_two, [0, 0, 0, 0]]
    assert scores_after([first, last], steps=(2,)) == [start, [0.9, 0, 0, 0.8]]
    assert scores_after([first, last], steps=(1, 2)) == [[0.9, 0, 0, 0], [0, 0, 0, 0]]
    assert scores_after([none, first], steps=(1, 3)) == [start, start]


def apply(params, state, x, train):
    del train
    for kernel in params[:-1]:
        x = jax.nn.relu(x @ kernel)
    return x @ params[-1], state


def loss_fn(params, state, batch, key):
    del key
    logits, state = apply(params, state, batch, True)
    return jnp.square(logits - batch[:, :4]).mean(), (state, jnp.float32(0))


def make_ticket(share):
    """Positive weights, so that no unit is off by its sign; `share` of the scores are 1/2 or more."""
    rng = np.random.default_rng(0)
    params = [jnp.float32(rng.uniform(0.5, 1.5, shape)) for shape in itertools.pairwise(SIZES)]
    scores = [jnp.float32(0.75 * (rng.random(w.shape) < share) + 0.125) for w in params]
    return Ticket(params, scores, masks.ones(params))


@pytest.mark.parametrize("share", [0.1, 0.15, 0.3])
def test_what_goes_is_what_lies_on_no_path(share):
    ticket = make_ticket(share)
    on = jax.tree.map(lambda p: p >= 0.5, ticket.scores)
    alive = effective.mask(apply, ticket.params, {}, on, (8,))
    phase = Phase(
        view=views.rounded, trains="scores", optimizer=optax.set_to_zero(), during=drop_unused((1,)), after=identity(),
        num_steps=1,
    )  # fmt: skip
    images = jnp.abs(jax.random.normal(jax.random.key(1), (16, 8)))
    carry = trainer.make_step(loss_fn, phase)(trainer.begin(phase, ticket, {}, KEY), images)
    left = jax.tree.map(lambda p: np.asarray(p >= 0.5), carry.ticket.scores)
    jax.tree.map(np.testing.assert_array_equal, left, alive)
    assert 0 < masks.num_kept(alive) < masks.num_kept(on)
    for p, was, g in zip(carry.ticket.scores, ticket.scores, gradients(ticket, on, images), strict=True):
        np.testing.assert_array_equal(p, np.where(g == 0, 0, was))


def gradients(ticket, on, images):
    """dL/dw at the weights that are on, for all weights, in float64."""
    kernels = [np.float64(w) * np.asarray(m) for w, m in zip(ticket.params, on, strict=True)]
    inputs = [np.float64(images)]
    for kernel in kernels:
        inputs.append(np.maximum(inputs[-1] @ kernel, 0))
    logits = inputs[-2] @ kernels[-1]
    above, found = 2 * (logits - inputs[0][:, :4]) / logits.size, []
    for x, kernel in zip(inputs[-2::-1], kernels[::-1], strict=True):
        found.append(x.T @ above)
        above = (above @ kernel.T) * (x > 0)
    return found[::-1]


def test_a_search_ends_with_weights_on_paths():
    """All of 18 weights of 432, in four layers."""
    ticket = make_ticket(0)
    ticket = ticket._replace(scores=init.uniform_scores(KEY, ticket.mask))
    (phase,) = gem_miner_auto(ticket.mask, sparsity=1 - 18 / 432, num_epochs=10, steps_per_epoch=12)
    carry, step = trainer.begin(phase, ticket, {}, KEY), jax.jit(trainer.make_step(loss_fn, phase))
    for i in range(phase.num_steps):
        carry = step(carry, jax.random.normal(jax.random.key(i), (16, 8)))
    mask = trainer.finish(phase, carry).mask
    masks.check(mask, 18)
    assert masks.num_kept(effective.mask(apply, ticket.params, {}, mask, (8,))) == 18
