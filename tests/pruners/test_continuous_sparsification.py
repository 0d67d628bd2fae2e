"""Continuous Sparsification: the temperature, the soft view, the penalty, the exact mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks
from rare_gems.phase import Context, Ticket
from rare_gems.pruners.continuous_sparsification import continuous_sparsification, temperature
from rare_gems.training import trainer

SHAPES = {"a": (6, 10), "b": (5, 8)}  # 100 weights
OPTIONS = {"sparsity": 0.9, "num_epochs": 5, "steps_per_epoch": 2}
KEY = jax.random.key(0)


def make_ticket(scale=0.01):
    rng = np.random.default_rng(0)
    draw = lambda scale: {n: jnp.float32(rng.normal(scale=scale, size=s)) for n, s in SHAPES.items()}  # noqa: E731
    mask = {n: jnp.ones(s, bool) for n, s in SHAPES.items()} | {"bias": None}
    return Ticket(draw(1) | {"bias": jnp.ones(3)}, draw(scale) | {"bias": None}, mask)


def test_temperature():
    got = [float(temperature(jnp.int32(step), 200.0, 5, 2)) for step in range(10)]
    np.testing.assert_allclose(got, np.repeat([1, 200**0.25, 200**0.5, 200**0.75, 200], 2), rtol=1e-5)
    np.testing.assert_allclose(temperature(jnp.int32(0), 200.0, 1, 2), 200, rtol=1e-5)


@pytest.mark.parametrize(("step", "beta"), [(0, 1.0), (5, 200**0.5), (9, 200.0)])
def test_the_network_sees_soft_weights(step, beta):
    _, search = continuous_sparsification(make_ticket().mask, **OPTIONS)
    ticket = make_ticket()
    seen = search.view(ticket, jnp.int32(step), KEY)
    for name in SHAPES:
        soft = 1 / (1 + np.exp(-beta * np.float64(ticket.scores[name])))
        np.testing.assert_allclose(seen[name], ticket.params[name] * soft, rtol=1e-5)
    np.testing.assert_array_equal(seen["bias"], ticket.params["bias"])


def test_the_penalty_pulls_by_its_own_slope():
    ticket = make_ticket()
    _, search = continuous_sparsification(ticket.mask, penalty=0.3, momentum=0.0, learning_rate=1.0, **OPTIONS)
    state = search.optimizer.init(ticket.scores)
    zeros = jax.tree.map(jnp.zeros_like, ticket.scores)
    for step in range(10):
        updates, state = search.optimizer.update(zeros, state, ticket.scores)
        beta, rate = 200 ** (step // 2 / 4), 0.5 * (1 + np.cos(np.pi * (step // 2) / 5))
        s = np.float64(ticket.scores["b"])
        value = lambda s, beta=beta: 0.3 / (1 + np.exp(-beta * s))  # noqa: E731
        slope = (value(s + 1e-6) - value(s - 1e-6)) / 2e-6
        np.testing.assert_allclose(updates["b"], -rate * slope, rtol=1e-4)


@pytest.mark.parametrize("invert", [False, True])
def test_keeps_exactly_the_top(invert):
    ticket = make_ticket()
    start, search = continuous_sparsification(
        jax.eval_shape(lambda: ticket.mask), invert=invert, initial_score=0.1, **OPTIONS
    )
    end, _ = search.after.update(ticket, search.after.init(ticket), Context(jnp.int32(10), KEY, None, None))
    flat = lambda tree: np.concatenate([np.asarray(tree[name]).ravel() for name in SHAPES])  # noqa: E731
    order = np.argsort(flat(ticket.scores))
    assert set(np.flatnonzero(flat(end.mask))) == set(order[:10] if invert else order[-10:])
    began = trainer.finish(start, trainer.begin(start, ticket, {}, KEY))
    assert set(flat(began.scores)) == {np.float32(0.1)}
    assert masks.num_kept(began.mask) == 100


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sparsity": 0.999}, r"0.999 keeps none of 100 weights; expected a lower one"),
        ({"penalty": -1.0}, r"penalty: expected a finite number of 0 or more, got -1.0"),
        ({"final_temperature": 0.5}, r"final_temperature: expected a number of 1 or more, got 0.5"),
        ({"num_epochs": 0}, r"num_epochs: expected 1 or more, got 0"),
        ({"learning_rate": 0.0}, r"learning_rate: expected a positive number"),
    ],
)
def test_errors(changes, match):
    with pytest.raises(ValueError, match=match):
        continuous_sparsification(make_ticket().mask, **{**OPTIONS, **changes})
