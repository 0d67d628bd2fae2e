"""Supermasks: the draw, its gradient, the exact mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.phase import Context, Ticket
from rare_gems.pruners.supermask import supermask, tossed
from rare_gems.training import trainer

OPTIONS = {"sparsity": 0.9, "num_epochs": 5, "steps_per_epoch": 2}
KEY = jax.random.key(0)


def make_ticket(shape=(100, 100)):
    keys = jax.random.split(KEY, 2)
    params = {"a": jax.random.normal(keys[0], shape), "bias": jnp.ones(3)}
    scores = {"a": jax.random.normal(keys[1], shape), "bias": None}
    return Ticket(params, scores, {"a": jnp.ones(shape, bool), "bias": None})


@pytest.mark.parametrize("score", [0.0, -2.0])
def test_draws_with_the_probability_of_the_sigmoid(score):
    ticket = make_ticket()
    ticket = ticket._replace(scores=jax.tree.map(lambda s: jnp.full_like(s, score), ticket.scores))
    seen = [tossed(ticket, 0, key)["a"] for key in jax.random.split(KEY, 2)]
    for weights in seen:
        drawn = np.asarray(weights) != 0
        np.testing.assert_array_equal(weights, np.where(drawn, ticket.params["a"], 0))
        np.testing.assert_allclose(drawn.mean(), 1 / (1 + np.exp(-score)), atol=0.02)  # 4 standard deviations
    assert (seen[0] != seen[1]).any()


def test_the_gradient_is_straight_through_the_draw():
    ticket = make_ticket((6, 10))
    loss = lambda scores: 3 * tossed(ticket._replace(scores=scores), 0, KEY)["a"].sum()  # noqa: E731
    odds = 1 / (1 + np.exp(-np.float64(ticket.scores["a"])))
    want = 3 * np.float64(ticket.params["a"]) * odds * (1 - odds)
    np.testing.assert_allclose(jax.grad(loss)(ticket.scores)["a"], want, rtol=1e-5)


@pytest.mark.parametrize("invert", [False, True])
def test_keeps_exactly_the_top(invert):
    ticket = make_ticket((10, 10))
    start, search = supermask(jax.eval_shape(lambda: ticket.mask), invert=invert, initial_score=0.5, **OPTIONS)
    end, _ = search.after.update(ticket, search.after.init(ticket), Context(jnp.int32(10), KEY, None, None))
    order = np.argsort(np.asarray(ticket.scores["a"]), axis=None)
    assert set(np.flatnonzero(end.mask["a"])) == set(order[:10] if invert else order[-10:])
    began = trainer.finish(start, trainer.begin(start, ticket, {}, KEY))
    assert set(np.asarray(began.scores["a"]).ravel()) == {np.float32(0.5)}
    assert (search.trains, search.num_steps) == ("scores", 10)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sparsity": 0.99999}, r"0.99999 keeps none of 10000 weights; expected a lower one"),
        ({"num_epochs": 0}, r"num_epochs: expected 1 or more, got 0"),
        ({"learning_rate": 0.0}, r"learning_rate: expected a positive number"),
        ({"weight_decay": -0.1}, r"weight_decay: expected a finite number of 0 or more, got -0.1"),
    ],
)
def test_errors(changes, match):
    with pytest.raises(ValueError, match=match):
        supermask(make_ticket().mask, **{**OPTIONS, **changes})
