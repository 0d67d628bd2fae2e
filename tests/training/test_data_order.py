"""`data_key`: the batch of a step is that of its place in the training, whatever the phase, the loop and the seed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks, transforms, views
from rare_gems.phase import Phase, Ticket
from rare_gems.pruners.imp import imp
from rare_gems.pruners.parts.finetune import finetune, sgd
from rare_gems.training import trainer
from rare_gems.training.feeds import Feed, Stream
from tests import contract

STEPS, SIZE = 3, 2  # an epoch, a batch
KEY, DATA = jax.random.key(1), jax.random.key(5)
FEED = Feed(
    data=jnp.arange(STEPS * SIZE, dtype=jnp.float32),
    num_batches=STEPS,
    order=lambda key: jax.random.permutation(key, jnp.arange(STEPS * SIZE, dtype=jnp.int32)).reshape(STEPS, SIZE),
    batch=lambda data, rows, key: data[rows] + jax.random.uniform(key, (SIZE,)),  # "augmented"
)
START = Ticket({"w": jnp.ones((4, 4))}, {"w": jnp.ones((4, 4))}, {"w": jnp.ones((4, 4), bool)})
STATE = {"log": jnp.zeros((30, SIZE)), "at": jnp.int32(0)}


@pytest.fixture(scope="module", autouse=True)
def _programs():
    """Runs of one phase share its programs."""
    with contract.programs():
        yield


def _loss(params, state, batch, key):
    """Writes every batch down, and its own key's number, which is no affair of the data's."""
    state = {"log": state["log"].at[state["at"]].set(batch), "at": state["at"] + 1}
    return jnp.sum(params["w"]) * jnp.mean(batch) / 100, (state, jax.random.uniform(key))


@functools.cache
def _phase(num_steps, first_step=0):
    still = transforms.identity()
    return Phase(views.masked, "params", sgd(0.1), still, still, num_steps, first_step=first_step)


def _batches(recipe, data_key=DATA, feed=FEED, **options):
    options = {"key": KEY} | options
    _, state = trainer.run(recipe, START, STATE, loss_fn=_loss, feed=feed, data_key=data_key, **options)
    return np.asarray(state["log"])[: sum(phase.num_steps for phase in recipe)]


@pytest.fixture(scope="module")
def whole():
    return _batches((_phase(11),))


@pytest.mark.parametrize(("step", "loop"), [(3, "python"), (5, "scan")])  # an epoch; within one
def test_a_training_in_two_phases_sees_the_batches_of_one(step, loop, whole):
    recipe = _phase(step), _phase(11 - step, step), _phase(11 - step, step)  # rewound once
    got = _batches(recipe, loop=loop)
    np.testing.assert_array_equal(got[:11], whole)
    np.testing.assert_array_equal(got[11:], whole[step:])
    assert len(np.unique(whole)) == whole.size  # no batch comes twice, augmented as it is


def test_an_epoch_has_every_example_once(whole):
    for epoch in range(3):
        assert sorted(np.floor(whole[STEPS * epoch : STEPS * (epoch + 1)]).ravel()) == list(range(STEPS * SIZE))


def test_the_seed_moves_no_batch_and_the_data_key_nothing_else(whole):
    np.testing.assert_array_equal(_batches((_phase(11),), key=jax.random.key(2)), whole)
    assert not np.array_equal(_batches((_phase(11),), jax.random.key(6)), whole)
    drawn = [
        next(trainer.epochs((_phase(3),), START, STATE, loss_fn=_loss, feed=FEED, key=KEY, data_key=data_key))
        for data_key in (None, DATA)
    ]
    assert drawn[0].carry.totals.accuracy == drawn[1].carry.totals.accuracy  # of the loss's own key


def test_without_a_data_key_every_phase_has_an_order_of_its_own():
    here, there = _batches((_phase(4), _phase(4, 4)), None), _batches((_phase(4), _phase(4)), None)
    np.testing.assert_array_equal(here, there)
    assert not np.array_equal(here[:3], here[4:7])


def test_several_at_once_each_with_its_own(whole):
    recipe, keys = (_phase(5), _phase(6, 5)), jnp.stack([DATA, jax.random.key(6)])
    start = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (START, STATE))
    _, state = trainer.run(
        recipe, *start, loss_fn=_loss, feed=FEED, key=jnp.stack([KEY, KEY]), data_key=keys, many=True
    )
    np.testing.assert_array_equal(state["log"][0, :11], whole)
    np.testing.assert_array_equal(state["log"][1, :11], _batches(recipe, jax.random.key(6)))


@pytest.mark.parametrize("stream", [False, True])
def test_a_stopped_run_goes_on_with_the_same_batches(stream):
    opened = []

    def open_epoch(seed, first):
        opened.append(seed)
        yield from np.random.default_rng(seed).random((STEPS, SIZE), np.float32)[first:]

    feed = Stream(STEPS, open_epoch, lambda made, key: made) if stream else FEED
    recipe = _phase(5), _phase(6, 5)
    expected = _batches((_phase(11),), feed=feed)
    assert len(set(opened)) == (4 if stream else 0)
    options = {"loss_fn": _loss, "feed": feed, "key": KEY, "data_key": DATA}
    for stop in (1, 2):  # steps of the second phase: at the end of the epoch that the first began, and beyond
        moments = trainer.epochs(recipe, START, STATE, poll=lambda i, done: i == 1 and done == stop, **options)  # noqa: B023
        (last,) = [moment for moment in moments if moment.interrupted]
        *_, end = trainer.epochs(recipe, START, STATE, resume=(1, last.carry), **options)
        np.testing.assert_array_equal(end.model_state["log"][:11], expected)


def test_rounds_of_imp_and_the_dense_training_see_one_order():
    mask = masks.ones(START.params)
    length = {"steps_per_epoch": STEPS, "learning_rate": 0.1}
    recipe = imp(mask, sparsity=0.5, round_epochs=2, rounds=2, rewind_step=2, **length)
    assert [(phase.num_steps, phase.first_step) for phase in recipe] == [(2, 0), (4, 2), (4, 2)]
    dense = _batches((finetune(num_epochs=2, **length),))
    np.testing.assert_array_equal(_batches(recipe), np.concatenate([dense, dense[2:]]))
