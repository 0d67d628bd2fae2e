"""Lottery jackpots: the warm start, the view, and weights that stay as they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks, views
from rare_gems.phase import Context, Ticket
from rare_gems.pruners.jackpot import jackpot, magnitude_budgets, warm_start
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.pruners.parts.random_scores import random_scores
from rare_gems.pruners.snip import snip
from rare_gems.training import trainer
from tests.toy import NUM_BATCHES, make_toy

OPTIONS = {"sparsity": 0.8, "num_epochs": 3, "steps_per_epoch": NUM_BATCHES}
KEY = jax.random.key(0)
CONTEXT = Context(jnp.int32(0), KEY, None, None)


def small():
    """The four largest |w| are two in a, two in b, none in c."""
    params = {"a": jnp.array([[4.0, -0.1], [0.2, -3.0]]), "b": jnp.array([[0.3, 5.0, -6.0]]), "c": jnp.array([[0.4]])}
    mask = masks.ones(params, lambda path, leaf: True)
    scores = {"a": jnp.array([[0.1, 0.9], [0.8, 0.2]]), "b": jnp.array([[3.0, 2.0, 1.0]]), "c": jnp.array([[9.0]])}
    return Ticket(params, scores, mask)


def test_budgets_are_those_of_global_magnitude():
    assert jax.tree.map(int, magnitude_budgets(small(), 4)) == {"a": 2, "b": 2, "c": 0}
    assert jax.tree.map(int, magnitude_budgets(small(), 3)) == {"a": 1, "b": 2, "c": 0}


@pytest.mark.parametrize("invert", [False, True])
def test_warm_start(invert):
    start = warm_start(4, 0.95, invert)
    ticket, _ = start.update(small(), start.init(small()), CONTEXT)
    keeps = {"a": [[False, True], [True, False]], "b": [[True, True, False]], "c": [[False]]}
    if invert:
        keeps = {"a": [[True, False], [False, True]], "b": [[False, True, True]], "c": [[False]]}
    for name, keep in keeps.items():
        np.testing.assert_array_equal(ticket.mask[name], keep)
        kept, other = (0.95, 1.0) if invert else (1.0, 0.95)
        np.testing.assert_array_equal(ticket.scores[name], np.where(keep, np.float32(kept), np.float32(other)))
        np.testing.assert_array_equal(ticket.params[name], small().params[name])
    seen = views.support(views.reselected(invert), ticket, 0, KEY)  # the search begins with this mask
    assert masks.overlap(seen, ticket.mask) == masks.overlap(ticket.mask, seen) == 1


def test_the_view_reselects_in_each_layer_by_signed_scores():
    ticket = small()
    mask = {
        "a": jnp.array([[True, False], [False, False]]),
        "b": jnp.array([[False, True, True]]),
        "c": jnp.ones((1, 1), bool),
    }
    scores = ticket.scores | {"a": jnp.array([[-5.0, 0.5], [-0.2, 0.1]])}
    ticket = ticket._replace(mask=mask, scores=scores)
    seen = views.reselected()(ticket, 0, KEY)
    np.testing.assert_array_equal(seen["a"], np.float32([[0, -0.1], [0, 0]]))  # where the mask is False
    np.testing.assert_array_equal(seen["b"], np.float32([[0.3, 5, 0]]))
    np.testing.assert_array_equal(seen["c"], np.float32([[0.4]]))
    loss = lambda s: sum(2 * jnp.sum(w) for w in views.reselected()(ticket._replace(scores=s), 0, KEY).values())  # noqa: E731
    for name, slope in jax.grad(loss)(scores).items():
        np.testing.assert_array_equal(slope, 2 * ticket.params[name])  # dL/dw_eff * w, everywhere, no sign(s)
    low = views.reselected(invert=True)(ticket, 0, KEY)
    np.testing.assert_array_equal(low["a"], np.float32([[4, 0], [0, 0]]))


@pytest.mark.parametrize("criterion", ["magnitude", "random", "snip"])
def test_weights_stay_and_the_mask_moves(criterion):
    toy = make_toy()
    target = masks.count_for(176, 0.8)
    extra = {
        "magnitude": {},
        "random": {"criterion": random_scores},
        "snip": {"scoring": snip(toy.ticket.mask, sparsity=0.8, loss_fn=toy.loss_fn)[0]},
    }[criterion]
    recipe = jackpot(toy.ticket.mask, learning_rate=0.5, **OPTIONS, **extra)
    assert len(recipe) == (3 if criterion == "snip" else 2)
    options = {"loss_fn": toy.loss_fn, "feed": toy.feed, "key": KEY}
    moments = [m for m in trainer.epochs(recipe, toy.ticket, toy.model_state, **options) if m.ended]
    initial, found = moments[-2].ticket, moments[-1].ticket
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(toy.ticket.params), strict=True):
        np.testing.assert_array_equal(a, b)  # bit for bit
    for name, (kept, size) in masks.layer_counts(initial.mask).items():
        assert masks.layer_counts(found.mask)[name] == (kept, size)
    assert masks.num_kept(found.mask) == masks.num_kept(initial.mask) == target
    assert 0 < masks.overlap(initial.mask, found.mask) < 1
    budgets = jax.tree.leaves(magnitude_budgets(toy.ticket, target))
    assert [kept for kept, _ in masks.layer_counts(initial.mask).values()] == [int(b) for b in budgets]
    assert int(moments[-1].model_state["seen"]) > 0  # statistics go on moving
    if criterion == "snip":  # its scores rank, within the budgets of magnitude
        first = moments[0].ticket.scores
        top = masks.keep_top(first, magnitude_budgets(toy.ticket, target), "layer")
        assert masks.overlap(top, initial.mask) == 1
        by_size = masks.keep_top(masks.map_kept(jnp.abs, toy.ticket.params, toy.ticket.mask), target)
        assert masks.overlap(by_size, initial.mask) < 1


@pytest.mark.parametrize(("budgets", "invert"), [("layer", False), ("magnitude", False), ("layer", True)])
def test_the_search_of_the_text_draws_scores_and_keeps_one_share_of_each_layer(budgets, invert):
    toy = make_toy()
    recipe = jackpot(toy.ticket.mask, start="uniform", budgets=budgets, invert=invert, learning_rate=0.5, **OPTIONS)
    first = trainer.finish(recipe[0], trainer.begin(recipe[0], toy.ticket, toy.model_state, KEY))
    drawn = [np.asarray(s) for s in jax.tree.leaves(first.scores)]
    assert all(0 <= s.min() < 0.1 and 0.9 < s.max() < 1 for s in drawn)
    shares = (
        [int(k) for k in jax.tree.leaves(magnitude_budgets(toy.ticket, 35))] if budgets == "magnitude" else [25, 10]
    )
    for scores, mask, count in zip(drawn, jax.tree.leaves(first.mask), shares, strict=True):
        order = np.argsort(scores if invert else -scores, axis=None)[:count]
        np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(order))
    end, _ = trainer.run(recipe, toy.ticket, toy.model_state, loss_fn=toy.loss_fn, feed=toy.feed, key=KEY)
    assert [kept for kept, _ in masks.layer_counts(end.mask).values()] == shares
    assert masks.overlap(end.mask, first.mask) < 1


def test_the_warm_up_takes_one_share_of_each_layer_too():
    start = warm_start({"a": 2, "b": 1, "c": 1}, 0.95)
    ticket, _ = start.update(small(), start.init(small()), CONTEXT)
    assert masks.layer_counts(ticket.mask) == {"a": (2, 4), "b": (1, 3), "c": (1, 1)}


def test_the_mask_is_the_initial_one_during_the_search():
    toy = make_toy()
    edit, search = jackpot(toy.ticket.mask, **OPTIONS)
    carry = trainer.begin(search, trainer.finish(edit, trainer.begin(edit, toy.ticket, {}, KEY)), toy.model_state, KEY)
    initial = jax.tree.map(np.asarray, carry.ticket.mask)
    step = jax.jit(trainer.make_step(toy.loss_fn, search))
    for _ in range(3):
        carry = step(carry, toy.feed.data[:4])
    for a, b in zip(jax.tree.leaves(carry.ticket.mask), jax.tree.leaves(initial), strict=True):
        np.testing.assert_array_equal(a, b)
    dead = jax.tree.map(lambda m, s: jnp.where(m, 0, jnp.abs(s - 0.99)).max(), carry.ticket.mask, carry.ticket.scores)
    assert max(map(float, jax.tree.leaves(dead))) > 0  # scores outside the mask train too


def test_weight_tuning_starts_from_the_trained_weights():
    toy = make_toy()
    last = finetune(num_epochs=1, steps_per_epoch=NUM_BATCHES, learning_rate=0.1)
    recipe = jackpot(toy.ticket.mask, finetune=last, **OPTIONS)
    assert recipe[-1] is last
    options = {"loss_fn": toy.loss_fn, "feed": toy.feed, "key": KEY}
    end, _ = trainer.run(recipe, toy.ticket, toy.model_state, **options)
    assert masks.num_kept(end.mask) == masks.count_for(176, 0.8)
    assert any(
        bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (end.params, toy.ticket.params)), strict=True)
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sparsity": 0.999}, r"0.999 keeps none of 176 weights; expected a lower one"),
        ({"dropped": 1.0}, r"dropped: expected a score in \[0, 1\), got 1.0"),
        ({"start": "warm"}, r"start: expected one of mask, uniform, got 'warm'"),
        ({"budgets": "equal"}, r"budgets: expected one of magnitude, layer, got 'equal'"),
        ({"start": "uniform", "criterion": random_scores}, r"start: expected 'mask' with a criterion"),
        ({"num_epochs": 0}, r"num_epochs: expected 1 or more, got 0"),
        ({"learning_rate": -1.0}, r"learning_rate: expected a positive number"),
        (
            {"criterion": random_scores, "scoring": finetune(num_epochs=1, steps_per_epoch=1, learning_rate=0.1)},
            r"scoring: expected either a criterion or a scoring phase, got both",
        ),
    ],
)
def test_errors(changes, match):
    with pytest.raises(ValueError, match=match):
        jackpot(make_toy().ticket.mask, **{**OPTIONS, **changes})
