"""LeNet-300-100 against counts worked by hand and a float64 NumPy network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.models.lenet import lenet_300_100


def test_layers_and_counts():
    params, state = jax.eval_shape(lenet_300_100().init, jax.random.key(0))
    assert list(params) == ["linear1", "linear2", "linear3"]
    assert [p["kernel"].shape for p in params.values()] == [(784, 300), (300, 100), (100, 10)]
    assert sum(p["kernel"].size for p in params.values()) == 266_200
    assert sum(p["bias"].size for p in params.values()) == 410
    assert state == {}


def test_init_biases_are_zero_and_kernels_kaiming_normal():
    params, _ = jax.jit(lenet_300_100().init)(jax.random.key(1))
    for layer in params.values():
        fan_in = layer["kernel"].shape[0]
        assert np.all(np.float64(layer["bias"]) == 0)
        assert np.std(np.float64(layer["kernel"])) == pytest.approx(np.sqrt(2 / fan_in), rel=0.08)


@pytest.mark.parametrize("train", [False, True])
def test_forward_matches_float64_numpy_and_flattens(train):
    model = lenet_300_100(num_classes=4, input_size=12)
    params, state = model.init(jax.random.key(2))
    params = {name: layer | {"bias": layer["bias"] + 0.1} for name, layer in params.items()}
    x = np.random.default_rng(0).standard_normal((5, 2, 3, 2))
    logits, same = jax.jit(model.apply, static_argnums=3)(params, state, jnp.asarray(x, jnp.float32), train)
    y = x.reshape(5, 12)
    for name, layer in params.items():
        y = y @ np.float64(layer["kernel"]) + 0.1
        y = np.maximum(y, 0) if name != "linear3" else y
    np.testing.assert_allclose(logits, y, atol=1e-5)
    assert same == {}


def test_gradient_is_finite_under_vmap_over_seeds():
    model = lenet_300_100(input_size=4)
    params, state = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 2))
    x = jnp.asarray(np.random.default_rng(1).standard_normal((6, 4)), jnp.float32)
    grads = jax.vmap(jax.grad(lambda p: jnp.square(model.apply(p, state, x, True)[0]).mean()))(params)
    assert all(np.isfinite(g).all() and np.any(g != 0) for g in jax.tree.leaves(grads))


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match="input_size=0"):
        lenet_300_100(input_size=0)
