"""Networks of a user's own, for `--model=tests.experiments.nets:NAME`: sound ones with PRNG keys, and faulty ones."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np


def _network(image_shape, num_classes, change_params=None, change_state=None, change=None):
    """A linear layer with dropout, whose keys lie in the state, and the key of a fixed noise in the params."""

    def init(key):
        keys = jax.random.split(jax.random.key(1, impl="unsafe_rbg"), 3)
        size = int(np.prod(image_shape))
        params = {"linear": {"kernel": jax.random.normal(key, (size, num_classes)) / 8}, "noise": keys[0]}
        state = {"rng": jax.random.key(2), "more": keys[1:], "seen": jnp.int32(0)}
        params, state = (change_params or dict)(params), (change_state or dict)(state)
        return params, state

    def apply(params, state, x, train):
        x = x.reshape(len(x), -1) + jax.random.normal(params["noise"], (1, 1), jnp.float32) / 100
        if train:
            key, own = jax.random.split(state["rng"])
            x = jnp.where(jax.random.bernoulli(own, 0.9, x.shape), x, 0)
            state = state | {"rng": key, "more": state["more"][::-1], "seen": state["seen"] + 1}
        logits = x @ params["linear"]["kernel"]
        return change(logits, state, train) if change else (logits, state)

    return SimpleNamespace(init=init, apply=apply)


def keyed(image_shape, num_classes):
    return _network(image_shape, num_classes)


def with_a_string(*shapes):
    return _network(*shapes, change_state=lambda state: state | {"bn": {"act": "relu"}})


def with_objects(*shapes):
    return _network(*shapes, change_params=lambda params: params | {"o": [np.array([None])]})


def with_float8(*shapes):
    return _network(*shapes, change_state=lambda state: state | {"scale": jnp.zeros(2, jnp.float8_e4m3fn)})


def with_one_name_twice(*shapes):
    return _network(*shapes, change_params=lambda params: params | {"a": {"b": jnp.ones(2)}, "a/b": jnp.ones(2)})


def with_64_bits(*shapes):
    return _network(*shapes, change_state=lambda state: state | {"seen": np.int64(2**40)})


def with_another_state(*shapes):
    return _network(*shapes, change=lambda logits, state, train: (logits, state | {"seen": state["seen"] / 2}))


def with_integers(*shapes):
    return _network(*shapes, change=lambda logits, state, train: (logits.astype(jnp.int32), state))


def of_small_batches(*shapes):
    """Right in training, and in evaluation up to a hundred images."""

    def change(logits, state, train):
        return (logits if train else logits - jnp.zeros((min(len(logits), 100), 1))), state

    return _network(*shapes, change=change)


def of_two_images_or_more(*shapes):
    def change(logits, state, train):
        if len(logits) < 2:
            raise RuntimeError("two images or more")
        return logits, state

    return _network(*shapes, change=change)


def without_gradient(*shapes):
    def change(logits, state, train):
        twice = lambda x: jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x * 2, x)  # noqa: E731
        return (twice(logits) if train else logits), state

    return _network(*shapes, change=change)


def with_a_large_int(*shapes):
    return _network(*shapes, change_state=lambda state: state | {"bn": [2**31]})


def with_a_large_float(*shapes):
    return _network(*shapes, change_params=lambda params: params | {"eps": 1e300})


def without_state(*shapes):
    made = _network(*shapes)
    return SimpleNamespace(init=lambda key: made.init(key)[0], apply=made.apply)


def with_nan(*shapes):
    return _network(*shapes, change_params=lambda params: params | {"head": {"bias": jnp.full(2, jnp.nan)}})


def with_an_infinite_kernel(*shapes):
    return _network(*shapes, change_params=lambda params: params | {"head": {"w": jnp.full((2, 3), jnp.inf)}})


def with_an_infinite_constant(*shapes):
    return _network(*shapes, change_params=lambda params: params | {"causal_mask": jnp.full((2, 2), -jnp.inf)})


def with_mixed_keys(*shapes):
    return _network(*shapes, change_params=lambda params: params | {"blocks": [{1: jnp.ones(2), "a": jnp.ones(2)}]})


def with_an_assertion(*shapes):
    def change(logits, state, train):
        assert logits.shape[1] == 3
        return logits, state

    return _network(*shapes, change=change)


def centred(image_shape, num_classes):
    """A linear layer on images less their running mean."""
    size = int(np.prod(image_shape))

    def init(key):
        return {"linear": {"kernel": jax.random.normal(key, (size, num_classes)) / 8}}, {"mean": jnp.zeros((1, size))}

    def apply(params, state, x, train):
        x = x.reshape(len(x), -1)
        mean = x.mean(0, keepdims=True) if train else state["mean"]
        state = {"mean": 0.5 * state["mean"] + 0.5 * mean} if train else state
        return (x - mean) @ params["linear"]["kernel"], state

    return SimpleNamespace(init=init, apply=apply)
