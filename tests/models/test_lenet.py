"""LeNet-300-100 and LeNet-5 against counts worked by hand and float64 NumPy networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.models.lenet import lenet_5, lenet_300_100
from tests.models.test_conv_net import (
    abstract,
    apply,
    check_passes,
    check_smart_ratio,
    count,
    draw,
    fill,
    names,
    numpy_conv,
    numpy_pool,
    output,
    same_program_in_both_modes,
    sizes,
)


def test_layers_and_counts():
    params, state = jax.eval_shape(lenet_300_100().init, jax.random.key(0))
    assert list(params) == ["linear1", "linear2", "linear3"]
    assert [p["kernel"].shape for p in params.values()] == [(784, 300), (300, 100), (100, 10)]
    assert sum(p["kernel"].size for p in params.values()) == 266_200
    assert sum(p["bias"].size for p in params.values()) == 410
    assert count(lenet_300_100(use_bias=False)) == 266_200
    assert state == {}
    check_smart_ratio(lenet_300_100(), 0.9, linear=0)


def test_init_biases_are_zero_and_kernels_kaiming_normal():
    params, _ = jax.jit(lenet_300_100().init)(jax.random.key(1))
    for layer in params.values():
        fan_in = layer["kernel"].shape[0]
        assert np.all(np.float64(layer["bias"]) == 0)
        assert np.std(np.float64(layer["kernel"])) == pytest.approx(np.sqrt(2 / fan_in), rel=0.08)


@pytest.mark.parametrize("train", [False, True])
def test_forward_matches_float64_numpy_and_flattens(train):
    model = lenet_300_100(num_classes=4, input_size=12)
    params, state = fill(model)
    x = np.random.default_rng(0).standard_normal((5, 2, 3, 2))
    logits, same = apply(model, params, state, x, train)
    y = x.reshape(5, 12)
    for name, layer in params.items():
        y = y @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
        y = np.maximum(y, 0) if name != "linear3" else y
    np.testing.assert_allclose(logits, y, atol=1e-5)
    assert same == {}


def test_gradient_is_finite_under_vmap_over_seeds():
    model = lenet_300_100(input_size=4)
    params, state = jax.jit(jax.vmap(model.init))(jax.random.split(jax.random.key(0), 2))
    x = jnp.asarray(np.random.default_rng(1).standard_normal((6, 4)), jnp.float32)
    grad = jax.grad(lambda p: jnp.square(model.apply(p, state, x, True)[0]).mean())
    grads = jax.jit(jax.vmap(grad))(params)
    assert all(np.isfinite(g).all() and np.any(g != 0) for g in jax.tree.leaves(grads))


def test_lenet_5_layers_counts_and_logits():
    params, state = abstract(lenet_5())
    assert names(params) == [f"{n}/{p}" for n in ("conv1", "conv2", "linear1", "linear2") for p in ("bias", "kernel")]
    assert state == {}
    assert sizes(lenet_5()) == [500, 25_000, 400_000, 5_000]
    assert sum(sizes(lenet_5())) == 430_500
    assert count(lenet_5()) == 430_500 + 20 + 50 + 500 + 10
    assert count(lenet_5(use_bias=False)) == 430_500
    assert sizes(lenet_5(100, in_channels=3, image_size=32)) == [1500, 25_000, 5 * 5 * 50 * 500, 50_000]
    assert output(lenet_5(), 2, 28, 28, 1) == (2, 10)
    check_smart_ratio(lenet_5(), 0.9, linear=0)


def test_lenet_5_forward_and_backward_are_finite():
    model, x = lenet_5(3, image_size=17), draw(1, 4, 17, 17, 1)
    check_passes(model, x, classes=3, train=False)
    assert same_program_in_both_modes(model, x)


def test_lenet_5_matches_float64_numpy():
    model = lenet_5(4, image_size=21, in_channels=2)
    params, state = fill(model)
    x = draw(2, 3, 21, 21, 2)
    logits, _ = apply(model, params, state, x, True)
    y = x
    for name in ("conv1", "conv2"):
        y = numpy_pool(numpy_conv(y, params[name]["kernel"], params[name]["bias"], padding=0))
    assert y.shape == (3, 2, 2, 50)
    y = y.reshape(3, -1) @ np.float64(params["linear1"]["kernel"]) + np.float64(params["linear1"]["bias"])
    y = np.maximum(y, 0) @ np.float64(params["linear2"]["kernel"]) + np.float64(params["linear2"]["bias"])
    np.testing.assert_allclose(logits, y, atol=5e-5)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="input_size: expected 1 or more, got 0"):
        lenet_300_100(input_size=0)
    with pytest.raises(ValueError, match=r"image_size: expected 16 or more .* got 15"):
        lenet_5(image_size=15)
    with pytest.raises(ValueError, match=r"images: expected 28 x 28 pixels, got \(32, 32\)"):
        output(lenet_5(), 2, 32, 32, 1)
