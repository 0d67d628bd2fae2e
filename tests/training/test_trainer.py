"""rare_gems.training.trainer against a step in float64 NumPy, and its promises of resuming, copies and totals."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rare_gems import masks, transforms, views
from rare_gems.phase import Phase, Ticket
from rare_gems.pruners.parts.finetune import sgd
from rare_gems.training import trainer
from rare_gems.training.feeds import Feed
from tests.toy import NUM_BATCHES, make_toy

IDENTITY = transforms.identity()
KEY = jax.random.key(7)


def phase_of(optimizer, num_steps=8, **options):
    return Phase(views.masked, "params", optimizer, options.pop("during", IDENTITY), IDENTITY, num_steps, **options)


def options_of(toy):
    return {"loss_fn": toy.loss_fn, "feed": toy.feed, "key": KEY}


def half_kept(toy):
    mask = masks.shuffle(jax.random.key(3), masks.keep_top(toy.ticket.scores, masks.num_prunable(toy.ticket.mask) // 2))
    return toy._replace(ticket=toy.ticket._replace(mask=mask))


def test_a_step_equals_numpy():
    """L = sum (x w q - t)^2 + sum (b - 1)^2; torch's SGD: g += decay w, v = momentum v + g, w -= rate v."""
    rng = np.random.default_rng(0)
    w, t, q, b = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), rng.random((4, 3)) < 0.6, rng.normal(size=3)
    rate, momentum, decay, seen = 0.1, 0.9, 0.05, []

    def loss_fn(params, state, batch, key):
        error = jnp.sum(jnp.square(batch * params["w"] - jnp.float32(t))) + jnp.sum(jnp.square(params["b"] - 1))
        return error, (state + 1, jnp.float32(0.25))

    optimizer = optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, momentum=momentum))
    ticket = Ticket(
        {"w": jnp.float32(w), "b": jnp.float32(b)}, {"w": jnp.zeros((4, 3)), "b": None}, {"w": jnp.array(q), "b": None}
    )
    phase = phase_of(optimizer)
    carry = trainer.begin(phase, ticket, jnp.int32(0), KEY)
    step = jax.jit(trainer.make_step(loss_fn, phase))
    w, vw, vb = w * q, np.zeros((4, 3)), np.zeros(3)
    for x in (0.5, -1.5, 2.0):
        seen.append(((x * w * q - t) ** 2).sum() + ((b - 1) ** 2).sum())
        vw = momentum * vw + (2 * x * (x * w * q - t) * q + decay * w)
        vb = momentum * vb + (2 * (b - 1) + decay * b)
        w, b = (w - rate * vw) * q, b - rate * vb
        carry = step(carry, jnp.float32(x))
        chex.assert_trees_all_close(carry.ticket.params, {"w": np.float32(w), "b": np.float32(b)}, rtol=1e-5, atol=1e-6)
    assert jnp.all(carry.ticket.params["w"][~q] == 0)
    np.testing.assert_allclose(carry.totals.loss, sum(seen), rtol=1e-5)
    assert (int(carry.step), int(carry.model_state), int(carry.totals.num_steps)) == (3, 3, 3)
    assert float(carry.totals.accuracy) == 0.75
    assert int(carry.totals.first_bad) == -1


def _split(inner, other):
    return lambda p: jax.tree_util.tree_map_with_path(lambda k, _: inner if k[-1].key == "kernel" else other, p)


OPTIMIZERS = {
    "adamw": optax.adamw(0.1, weight_decay=0.1),
    "masked": optax.masked(optax.adam(0.1), _split(True, False)),
    "multi_transform": optax.multi_transform({"a": optax.adam(0.1), "b": sgd(0.1)}, _split("a", "b")),
    "inject_hyperparams": optax.inject_hyperparams(optax.sgd)(learning_rate=lambda step: 0.1, momentum=0.9),
    "muon": optax.contrib.muon(0.1),
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=4, momentum=0.9),
}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_dead_weights_and_their_slots_are_held(name):
    toy, optimizer = half_kept(make_toy()), OPTIMIZERS[name]
    phase = phase_of(optimizer, during=transforms.keep_top(40, score=lambda t: t.scores))
    carry = trainer.begin(phase, toy.ticket, toy.model_state, KEY)
    step = jax.jit(trainer.make_step(toy.loss_fn, phase))
    for i in range(2):
        carry = step(carry, toy.feed.data[i * 4 : i * 4 + 4])
    assert masks.num_kept(carry.ticket.mask) == 40
    chex.assert_trees_all_equal(carry.ticket.params, masks.apply(carry.ticket.params, carry.ticket.mask))
    slots = {"first": 0, "last": 0}
    for path, slot in jax.tree_util.tree_leaves_with_path(carry.opt_state):
        for layer, size in slots.items():
            mask = carry.ticket.mask[layer]["kernel"]
            if f"{layer}/kernel" in masks.path_name(path) and jnp.shape(slot) == mask.shape:
                assert jnp.all(jnp.where(mask, 0, slot) == 0), masks.path_name(path)
                assert jnp.any(jnp.where(mask, slot, 0) != 0), masks.path_name(path)
                slots[layer] = size + 1
    assert all(slots.values())  # the check has seen some


@pytest.mark.parametrize("stop", [2, 3, 4])  # within an epoch, at its end, in the next
def test_poll_interrupts_and_the_run_goes_on_from_there(stop):
    toy = half_kept(make_toy())
    recipe = (phase_of(sgd(0.1)), phase_of(sgd(0.05), 2))
    expected = trainer.run(recipe, toy.ticket, toy.model_state, **options_of(toy))
    asked = []

    def poll(index, done):
        asked.append((index, done))
        return done == stop

    moments = list(trainer.epochs(recipe, toy.ticket, toy.model_state, loop="python", poll=poll, **options_of(toy)))
    assert asked == [(0, i + 1) for i in range(stop)]
    last = moments[-1]
    assert (last.interrupted, last.ended, last.index, int(last.carry.step)) == (True, False, 0, stop)
    got = trainer.run(recipe, toy.ticket, toy.model_state, resume=(0, last.carry), **options_of(toy))
    chex.assert_trees_all_equal(got, expected)


@pytest.mark.parametrize("index", [1, 2, -1])
def test_resume_beyond_the_recipe(index):
    toy = make_toy()
    phase = phase_of(sgd(0.1), 1)
    carry = trainer.begin(phase, toy.ticket, toy.model_state, KEY)
    with pytest.raises(ValueError, match=rf"resume: expected a phase index from 0 to 0, got {index}"):
        trainer.run((phase,), toy.ticket, toy.model_state, resume=(index, carry), **options_of(toy))


@pytest.mark.parametrize("loop", ["python", "scan"])
def test_totals_start_anew_each_epoch_and_keep_the_first_bad_step(loop):
    """The loss is the batch: 1, 2, 4 in the first epoch; NaN and inf are the fifth and sixth of eight steps."""
    losses = jnp.array([1.0, 2.0, 4.0, 8.0, jnp.nan, jnp.inf, 64.0, 128.0])
    feed = Feed(losses, NUM_BATCHES, lambda key: jnp.arange(3, dtype=jnp.int32)[:, None], lambda d, i, k: d[i[0]])

    def loss_fn(params, state, batch, key):
        return losses[state] + 0 * jnp.sum(params[0]), (state + 1, jnp.float32(0.5))

    ticket = Ticket([jnp.ones((2, 2))], [jnp.ones((2, 2))], [jnp.ones((2, 2), bool)])
    recipe = (phase_of(optax.set_to_zero()),)
    moments = trainer.epochs(recipe, ticket, jnp.int32(0), loss_fn=loss_fn, feed=feed, key=KEY, loop=loop)
    totals = [jax.tree.map(float, moment.carry.totals) for moment in moments if not moment.ended]
    assert [t.num_steps for t in totals] == [3, 3, 2]
    assert [t.accuracy for t in totals] == [1.5, 1.5, 1.0]
    assert [t.first_bad for t in totals] == [-1, 4, 4]
    assert (totals[0].loss, totals[2].loss) == (7, 192)
    assert np.isnan(totals[1].loss)


@pytest.mark.parametrize("loop", ["python", "scan"])
def test_the_callers_arrays_survive(loop):
    toy = half_kept(make_toy())
    before = jax.tree.map(np.array, (toy.ticket, toy.model_state))
    phase = phase_of(sgd(0.1), 4)
    *_, last = trainer.epochs((phase,), toy.ticket, toy.model_state, loop=loop, **options_of(toy))
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, (toy.ticket, toy.model_state)), before)
    assert jnp.any(last.ticket.params["first"]["kernel"] != toy.ticket.params["first"]["kernel"])
    carry = trainer.begin(phase, toy.ticket, toy.model_state, KEY)
    buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((carry._replace(key=None), toy.ticket))]
    assert len(buffers) == len(set(buffers))
    jax.jit(trainer.make_step(toy.loss_fn, phase), donate_argnums=0)(carry, toy.feed.data[:4])
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, (toy.ticket, toy.model_state)), before)


def test_mistakes_are_found_before_training():
    toy = make_toy()
    ticket, phase = toy.ticket, phase_of(sgd(0.1))
    with pytest.raises(ValueError, match=r"phase 'search': trains: expected 'params' or 'scores', got 'weights'"):
        trainer.begin(phase._replace(trains="weights"), ticket, toy.model_state, KEY)
    with pytest.raises(ValueError, match=r"ticket: expected scores and mask of one structure"):
        trainer.begin(phase, ticket._replace(scores={"first": None}), toy.model_state, KEY)
    other = {"first": ticket.mask["first"]}
    with pytest.raises(ValueError, match=r"last"):
        trainer.begin(phase, ticket._replace(mask=other, scores=other), toy.model_state, KEY)


def test_the_two_parts_are_the_step():
    toy = half_kept(make_toy())
    phase = phase_of(optax.adam(0.1), during=transforms.keep_top(30))
    whole = jax.jit(trainer.make_step(toy.loss_fn, phase))
    descend, edit = (jax.jit(part) for part in trainer.step_parts(toy.loss_fn, phase))
    one = two = trainer.begin(phase, toy.ticket, toy.model_state, KEY)
    for i in range(3):
        batch = toy.feed.data[i * 4 : i * 4 + 4]
        one, two = whole(one, batch), edit(*descend(two, batch))
    strip = lambda carry: carry._replace(key=jax.random.key_data(carry.key))  # noqa: E731
    chex.assert_trees_all_close(strip(one), strip(two), rtol=1e-6, atol=1e-7)
    chex.assert_trees_all_equal(one.ticket.mask, two.ticket.mask)
    assert masks.num_kept(one.ticket.mask) == 30
    assert trainer.step_parts(toy.loss_fn, phase_of(sgd(0.1)))[1] is None
