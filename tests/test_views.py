"""rare_gems.views: what the network sees, and what flows back, against finite differences in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import views
from rare_gems.phase import Ticket

KEY = jax.random.key(11)
RNG = np.random.default_rng(1)
X, Y = RNG.normal(size=(6, 5)), RNG.normal(size=(6, 2))
WEIGHTS = {
    "first": RNG.normal(size=(5, 4)),
    "bias": RNG.normal(size=(1, 4)),
    "second": RNG.normal(size=(4, 2)),
}
NAMES = ("first", "second")
MASK = {name: RNG.random(WEIGHTS[name].shape) < 0.7 for name in NAMES}


def make_ticket(low, high):
    rng = np.random.default_rng(3)
    scores = {name: jnp.float32(rng.uniform(low, high, size=WEIGHTS[name].shape)) for name in NAMES}
    return Ticket(
        {name: jnp.float32(w) for name, w in WEIGHTS.items()},
        scores | {"bias": None},
        {name: jnp.array(q) for name, q in MASK.items()} | {"bias": None},
    )


def loss_jax(params):
    hidden = jnp.tanh(jnp.float32(X) @ params["first"] + jnp.broadcast_to(params["bias"], (6, 4)))
    return jnp.mean((hidden @ params["second"] - jnp.float32(Y)) ** 2)


def loss_numpy(w):
    return np.mean((np.tanh(X @ w["first"] + w["bias"]) @ w["second"] - Y) ** 2)


def differences(loss, point, eps=1e-6):
    """Central differences of `loss` in every entry of a dict of arrays."""
    grads = {name: np.zeros_like(x) for name, x in point.items()}
    for name, grad in grads.items():
        for index in np.ndindex(grad.shape):
            step = np.zeros_like(grad)
            step[index] = eps
            grad[index] = (loss(point | {name: point[name] + step}) - loss(point | {name: point[name] - step})) / (
                2 * eps
            )
    return grads


def check_view(view, ticket, factor, sign=None):
    """The view is w * q * factor; its gradients are the derivatives in the factor and in the weights."""
    seen = view(ticket, jnp.int32(0), KEY)
    for name in NAMES:
        np.testing.assert_array_equal(seen[name], np.float32(WEIGHTS[name]) * MASK[name] * factor[name])
    assert seen["bias"] is ticket.params["bias"] or jnp.array_equal(seen["bias"], ticket.params["bias"])

    def of_factor(m):
        return loss_numpy(WEIGHTS | {name: WEIGHTS[name] * MASK[name] * m[name] for name in NAMES})

    def of_weights(w):
        return loss_numpy(w | {name: w[name] * MASK[name] * factor[name] for name in NAMES})

    grads = jax.grad(lambda s: loss_jax(view(ticket._replace(scores=s), jnp.int32(0), KEY)))(ticket.scores)
    expected = differences(of_factor, factor)
    for name in NAMES:
        want = expected[name] if sign is None else expected[name] * sign[name]
        assert np.abs(want).max() > 1e-2
        np.testing.assert_allclose(grads[name], want, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(grads[name])[~MASK[name]], 0)
    grads = jax.grad(lambda w: loss_jax(view(ticket._replace(params=w), jnp.int32(0), KEY)))(ticket.params)
    for name, want in differences(of_weights, WEIGHTS).items():
        np.testing.assert_allclose(grads[name], want, rtol=1e-4, atol=1e-5)


def test_masked():
    ticket = make_ticket(0, 1)
    seen = views.masked(ticket, 0, KEY)
    for name in NAMES:
        np.testing.assert_array_equal(seen[name], np.where(MASK[name], np.float32(WEIGHTS[name]), 0))
    assert seen["bias"] is ticket.params["bias"]
    support = views.support(views.masked, ticket, 0, KEY)
    assert support["bias"] is None
    assert all(jnp.array_equal(support[name], ticket.mask[name]) for name in NAMES)


def test_rounded():
    ticket = make_ticket(0, 1)
    factor = {name: np.float64(np.asarray(ticket.scores[name]) >= 0.5) for name in NAMES}
    check_view(views.rounded, ticket, factor)
    support = views.support(views.rounded, ticket, 0, KEY)
    for name in NAMES:
        np.testing.assert_array_equal(support[name], MASK[name] & (factor[name] == 1))


def test_rounded_by_hand():
    ticket = Ticket([jnp.array([2.0, 3.0, 4.0])], [jnp.array([0.5, 0.49, 1.0])], [jnp.array([True, True, False])])
    assert views.rounded(ticket, 0, KEY)[0].tolist() == [2, 0, 0]
    grads = jax.grad(lambda p: (views.rounded(ticket._replace(scores=p), 0, KEY)[0] * jnp.array([5.0, 7.0, 9.0])).sum())
    assert grads(ticket.scores)[0].tolist() == [10, 21, 0]


def test_support_sees_weights_that_are_zero():
    ticket = Ticket([jnp.array([0.0, 0.0, 4.0])], [jnp.array([0.9, 0.1, 0.9])], [jnp.array([True, True, False])])
    assert views.support(views.rounded, ticket, 0, KEY)[0].tolist() == [True, False, False]
    assert views.support(views.masked, ticket, 0, KEY)[0].tolist() == [True, True, False]


def test_sampled():
    ticket = make_ticket(0, 1)
    ones = ticket._replace(
        params=jax.tree.map(jnp.ones_like, ticket.params),
        mask=jax.tree.map(jnp.ones_like, ticket.mask),
    )
    drawn = views.sampled(ones, 0, KEY)
    factor = {name: np.float64(drawn[name]) for name in NAMES}
    assert set(np.unique(factor["first"])) == {0.0, 1.0}
    check_view(views.sampled, ticket, factor)


def test_sampled_draws_each_leaf_and_key_anew_at_the_right_rate():
    shape = (100, 100)
    ticket = Ticket([jnp.ones(shape)] * 2, [jnp.full(shape, 0.2)] * 2, [jnp.ones(shape, bool)] * 2)
    a, b = views.sampled(ticket, 0, KEY)
    other, _ = views.sampled(ticket, 0, jax.random.key(12))
    bound = 5 * np.sqrt(0.16 / 10_000)
    for draw in (a, b, other):
        np.testing.assert_allclose(draw.mean(), 0.2, atol=bound)
    for pair in [(a, b), (a, other)]:
        np.testing.assert_allclose((pair[0] * pair[1]).mean(), 0.04, atol=bound)  # independent


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_top_scored(scope):
    ticket = make_ticket(-1, 1)
    magnitude = {name: np.where(MASK[name], np.abs(np.asarray(ticket.scores[name])), -1) for name in NAMES}
    counts = {"first": 6, "second": 3, "bias": None}
    if scope == "global":
        count = 9
        threshold = np.sort(np.concatenate([m.reshape(-1) for m in magnitude.values()]))[-count]
        factor = {name: np.float64(m >= threshold) for name, m in magnitude.items()}
    else:
        count = counts
        factor = {name: np.float64(m >= np.sort(m.reshape(-1))[-counts[name]]) for name, m in magnitude.items()}
    assert sum(f.sum() for f in factor.values()) == 9
    sign = {name: np.sign(np.float64(ticket.scores[name])) for name in NAMES}
    check_view(views.top_scored(count, scope), ticket, factor, sign)


def test_top_scored_with_a_falling_count():
    ticket = Ticket([jnp.ones(5)], [jnp.array([0.1, -0.5, 0.3, -0.2, 0.4])], [jnp.array([True] * 4 + [False])])
    view = jax.jit(lambda step: views.top_scored(lambda step: 3 - step)(ticket, step, KEY))
    assert [view(jnp.int32(step))[0].tolist() for step in range(4)] == [
        [0, 1, 1, 1, 0], [0, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0],
    ]  # fmt: skip


def test_views_keep_the_dtype_of_the_weights():
    ticket = Ticket([jnp.ones(3, jnp.bfloat16)], [jnp.array([0.9, 0.1, 0.8])], [jnp.array([True, True, False])])
    for view in (views.masked, views.rounded, views.sampled, views.top_scored(1)):
        assert view(ticket, 0, KEY)[0].dtype == jnp.bfloat16
