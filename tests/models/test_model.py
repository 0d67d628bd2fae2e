"""Which networks get a key, and which: dropout in plain functions, NNX modules and wrapped functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rare_gems.models.layers import Linear
from rare_gems.models.model import from_module, takes_key, with_key


class Methods:
    def plain(self, params, state, x, train):
        return x, state

    def keyed(self, params, state, x, train, *, key=None):
        return x, state

    def __call__(self, params, state, x, train, key):
        return x, state


def reports(params, state, x, train, key):
    return jax.random.key_data(key), state


@functools.wraps(reports)
def wrapped(*args, **kwargs):
    return reports(*args, **kwargs)


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        (reports, True), (wrapped, True), (jax.jit(reports, static_argnums=3), True), (Methods(), True),
        (Methods().keyed, True), (functools.partial(reports, {}), True),
        (Methods().plain, False), (lambda *args, **kwargs: args, False), (lambda *key: key, False), (max, False),
        (lambda key, /: key, False),
    ],
)  # fmt: skip
def test_a_network_with_a_parameter_of_that_name_takes_a_key(apply, expected):
    assert takes_key(apply) == expected
    assert (with_key(apply) is apply) != expected


def test_the_key_of_the_step_or_always_the_same():
    key = jax.random.key(5)
    get = lambda apply, train: apply({}, {}, None, train)[0].tolist()  # noqa: E731
    assert get(with_key(wrapped, key), True) == jax.random.key_data(key).tolist()
    assert get(with_key(reports), False) == get(with_key(reports), False) == [0, 0]
    traced = jax.jit(lambda key: with_key(reports, key)({}, {}, None, True)[0])
    assert traced(key).tolist() == jax.random.key_data(key).tolist()


class Dropping(nnx.Module):
    def __init__(self):
        self.linear, self.dropout = Linear(8, 4), nnx.Dropout(0.5)

    def __call__(self, x, train, key):
        return self.dropout(self.linear(x), deterministic=not train, rngs=key)


def test_an_nnx_module_that_takes_a_key():
    model = from_module(Dropping)
    assert takes_key(model.apply)
    params, state = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (3, 8))
    out = [model.apply(params, state, x, True, key=jax.random.key(seed))[0] for seed in (2, 2, 3)]
    np.testing.assert_array_equal(out[0], out[1])
    assert not np.array_equal(out[0], out[2])
    whole, _ = with_key(model.apply)(params, state, x, False)
    np.testing.assert_array_equal(whole, x @ params["linear"]["kernel"])
    kept = out[0] != 0
    np.testing.assert_allclose(out[0], jnp.where(kept, 2 * whole, 0), rtol=1e-6)
    assert not takes_key(from_module(lambda: Linear(2, 2)).apply)
