"""Hybrid tickets: dense training, the largest weights of each layer, and training from there."""

import jax
import numpy as np
import pytest

from rare_gems import masks, transforms
from rare_gems.pruners.hybrid import hybrid
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.pruners.parts.smart_ratio_counts import smart_ratio_counts
from rare_gems.training import trainer
from tests.toy import NUM_BATCHES, ORDER, make_toy

TRAINING = finetune(num_epochs=2, steps_per_epoch=NUM_BATCHES, learning_rate=1.0, name="dense")
TUNE = finetune(num_epochs=1, steps_per_epoch=NUM_BATCHES, learning_rate=0.5)
COUNTS = {"first": {"bias": None, "kernel": 31}, "last": {"bias": None, "kernel": 4}}  # 6 * 128 : 2 * 48 of 35


def run(toy, recipe):
    options = {"loss_fn": toy.loss_fn, "feed": toy.feed, "key": jax.random.key(2)}
    return [m for m in trainer.epochs(recipe, toy.ticket, toy.model_state, **options) if m.ended]


@pytest.mark.parametrize("invert", [False, True])
def test_keeps_the_largest_trained_weights_of_each_layer(invert):
    toy = make_toy()
    dense, *_ = run(toy, (TRAINING,))
    recipe = hybrid(
        toy.ticket.mask, sparsity=0.8, training=TRAINING, finetune=TUNE, linear=None, invert=invert, order=ORDER
    )
    assert [phase.name for phase in recipe] == ["search", "finetune"]
    assert recipe[1] is TUNE
    pruned, tuned = run(toy, recipe)
    masks.check(pruned.ticket.mask, 35)
    for layer, count in [("first", 31), ("last", 4)]:
        trained = np.asarray(dense.ticket.params[layer]["kernel"])
        order = np.argsort(np.abs(trained).ravel(), kind="stable")
        want = np.zeros(trained.size, bool)
        want[order[:count] if invert else order[-count:]] = True
        want = want.reshape(trained.shape)
        np.testing.assert_array_equal(pruned.ticket.mask[layer]["kernel"], want)
        kernel = np.asarray(pruned.ticket.params[layer]["kernel"])
        np.testing.assert_array_equal(kernel, trained * want)  # the trained weights, not the initial ones
        assert not np.array_equal(kernel[want], np.asarray(toy.ticket.params[layer]["kernel"])[want])
        after = np.asarray(tuned.ticket.params[layer]["kernel"])
        assert (after[~want] == 0).all()
        assert not np.array_equal(after, kernel)
    assert int(tuned.model_state["seen"]) == 9  # the state goes on too


def test_counts_of_the_callers_choice():
    toy = make_toy()
    counts = {"first": {"bias": None, "kernel": 5}, "last": {"bias": None, "kernel": 7}}
    (pruned,) = run(toy, hybrid(toy.ticket.mask, sparsity=0.8, training=TRAINING, counts=counts))
    assert [kept for kept, _ in masks.layer_counts(pruned.ticket.mask).values()] == [5, 7]
    assert smart_ratio_counts(toy.ticket.mask, 0.8, linear=None, order=ORDER) == COUNTS


def test_what_the_training_does_at_its_end_comes_first():
    toy = make_toy()
    training = TRAINING._replace(after=transforms.rewind())
    (pruned,) = run(toy, hybrid(toy.ticket.mask, sparsity=0.8, training=training, linear=None, order=ORDER))
    start = np.abs(np.asarray(toy.ticket.params["last"]["kernel"]))
    np.testing.assert_array_equal(
        np.sort(start[np.asarray(pruned.ticket.mask["last"]["kernel"])]), np.sort(start.ravel())[-4:]
    )


def test_errors():
    mask = jax.eval_shape(lambda: masks.ones(make_toy().ticket.params))
    with pytest.raises(ValueError, match=r"hybrid training: expected a phase that trains 'params', got 'scores'"):
        hybrid(mask, sparsity=0.8, training=TRAINING._replace(trains="scores"), linear=None)
    with pytest.raises(ValueError, match=r"2 of 2 layers at fixed ratios .* linear=None"):
        hybrid(mask, sparsity=0.8, training=TRAINING, order=ORDER)
    counts = {"first": {"bias": None, "kernel": 1}, "last": {"bias": None, "kernel": 49}}
    with pytest.raises(ValueError, match=r"counts of last/kernel: expected an integer from 0 to 48, got 49"):
        hybrid(mask, sparsity=0.8, training=TRAINING, counts=counts)
