"""rare_gems.training.feeds: a stream trains as the same batches on the device do, and resumes within an epoch."""

import functools

import jax
import numpy as np
import pytest

from rare_gems import transforms, views
from rare_gems.phase import Phase
from rare_gems.pruners.parts.finetune import sgd
from rare_gems.training import trainer
from rare_gems.training.feeds import Stream
from tests import contract
from tests.toy import NUM_BATCHES, make_toy

KEY = jax.random.key(7)
IDENTITY = transforms.identity()


@functools.cache
def recipe_of(num_steps):
    phase = Phase(views.masked, "params", sgd(0.1), IDENTITY, IDENTITY, num_steps, name="search")
    return (phase, phase._replace(name="finetune"))


def order_of(seed):
    return np.random.default_rng(seed).permutation(12).reshape(NUM_BATCHES, 4).astype(np.int32)


def stream_of(toy, opened):
    """The toy's data in an order drawn by NumPy from the epoch's seed, by one number doubled in the step."""

    def batches(seed, first):
        opened.append((seed, first))
        yield from (np.asarray(toy.feed.data)[row] / 2 for row in order_of(seed)[first:])

    return Stream(NUM_BATCHES, batches, lambda made, key: 2 * made)


@pytest.fixture(scope="module", autouse=True)
def _programs():
    """Runs of one phase share its programs."""
    with contract.programs():
        yield


@pytest.fixture(scope="module")
def streamed():
    """The toy, the epochs of its stream that were opened, and the stream."""
    toy, opened = make_toy(), []
    return toy, opened, stream_of(toy, opened)


def test_a_stream_trains_as_the_same_batches_from_the_device(streamed):
    toy, opened, stream = streamed
    opened.clear()
    state = trainer.run(recipe_of(7), toy.ticket, toy.model_state, loss_fn=toy.loss_fn, feed=stream, key=KEY)
    seeds = [seed for seed, _ in opened]
    assert len(set(seeds)) == len(seeds) == 2 * 3  # a phase of 7 steps has two epochs and one step of a third
    assert all(first == 0 for _, first in opened)

    def order(key):  # of the feed: drawn by NumPy from the same seed
        shuffle = lambda seed: order_of(int(seed))  # noqa: E731
        return jax.pure_callback(shuffle, jax.ShapeDtypeStruct((NUM_BATCHES, 4), np.int32), jax.random.bits(key))

    feed = toy.feed._replace(order=order)
    expected = trainer.run(
        recipe_of(7), toy.ticket, toy.model_state, loss_fn=toy.loss_fn, feed=feed, key=KEY, loop="python"
    )
    jax.tree.map(np.testing.assert_array_equal, state[0].params, expected[0].params)
    assert int(state[1]["seen"]) == 14


def test_feeds_that_give_too_little_are_told():
    toy = make_toy()
    short = Stream(NUM_BATCHES, lambda seed, first: iter([np.asarray(toy.feed.data)[:4]] * 2), lambda made, key: made)
    feed = toy.feed._replace(order=lambda key: jax.random.permutation(key, 8).reshape(2, 4))
    for given, message in ((short, r"stream: expected 3 batches from open\(\d+, 0\), got 2"),
                           (feed, r"order: expected 3 rows, one for each batch, got \(2, 4\)")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            trainer.run(recipe_of(7), toy.ticket, toy.model_state, loss_fn=toy.loss_fn, feed=given, key=KEY)


@pytest.mark.parametrize("stop", [2, 3, 8])
def test_a_stream_goes_on_in_the_middle_of_an_epoch(stop, streamed):
    toy, opened, stream = streamed
    options = {"loss_fn": toy.loss_fn, "feed": stream, "key": KEY}
    expected = trainer.run(recipe_of(6), toy.ticket, toy.model_state, **options)
    moments = trainer.epochs(
        recipe_of(6), toy.ticket, toy.model_state, poll=lambda index, done: 6 * index + done >= stop, **options
    )
    (last,) = [moment for moment in moments if moment.interrupted]
    assert 6 * last.index + int(last.carry.step) == stop
    opened.clear()
    ends = trainer.epochs(recipe_of(6), toy.ticket, toy.model_state, resume=(last.index, last.carry), **options)
    (*_, end) = ends
    assert opened[0][1] == stop % NUM_BATCHES
    jax.tree.map(np.testing.assert_array_equal, end.ticket.params, expected[0].params)
