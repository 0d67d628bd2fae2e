"""ResNet-18 and ResNet-50 against counts worked by hand and float64 NumPy networks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.models.model import from_module
from rare_gems.models.resnet import BasicBlock
from rare_gems.models.resnet_imagenet import Bottleneck, ResNet, resnet18, resnet50
from tests.models.test_resnet import draw, fill, numpy_conv
from tests.models.test_resnet_counts import (
    check_affine_and_bias,
    check_shape,
    check_smart_ratios,
    layers,
    state_channels,
    totals,
)


def conv(x, params, stride=1):
    return numpy_conv(x, np.float64(params["kernel"]), stride)


def norm(x, state, name):
    """By the statistics of the batch, or where there is a state by the running ones."""
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    if state is not None:
        mean, var = np.float64(state[name]["mean"]), np.float64(state[name]["var"])
    return (x - mean) / np.sqrt(var + 1e-5)


def relu(x):
    return np.maximum(x, 0)


def part(state, *path):
    for name in path:
        state = None if state is None else state[name]
    return state


def numpy_block(x, params, state, stride):
    """A basic block or, where there is a third convolution, a bottleneck."""
    deep = "conv3" in params
    y = relu(norm(conv(x, params["conv1"], 1 if deep else stride), state, "bn1"))
    y = norm(conv(y, params["conv2"], stride if deep else 1), state, "bn2")
    if deep:
        y = norm(conv(relu(y), params["conv3"]), state, "bn3")
    if "downsample" in params:
        x = norm(conv(x, params["downsample"]["conv"], stride), part(state, "downsample"), "bn")
    return relu(y + x)


def numpy_resnet(x, params, state, pool):
    x = relu(norm(conv(x, params["conv1"], 2 if pool else 1), state, "bn1"))
    if pool:
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        rows, columns = (x.shape[1] - 1) // 2, (x.shape[2] - 1) // 2
        shifted = [x[:, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i in range(3) for j in range(3)]
        x = np.max([s[:, :rows, :columns] for s in shifted], 0)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        for i in params[name]:
            x = numpy_block(x, params[name][i], part(state, name, i), 2 if i == 0 and name != "layer1" else 1)
    return x.mean((1, 2)) @ np.float64(params["linear"]["kernel"])


def passes(model, params, state, x, train):
    """One program: gradients of a loss, the logits and the new state, all checked to be finite."""

    def loss(params):
        logits, new = model.apply(params, state, x, train)
        return -jax.nn.log_softmax(logits)[:, 0].mean(), (logits, new)

    grads, (logits, new) = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert all(np.isfinite(g).all() and np.any(g != 0) for g in jax.tree.leaves(grads))
    check_state(state, new, train)
    return logits, new


def forward(model, params, state, x, train):
    logits, new = jax.jit(model.apply, static_argnums=3)(params, state, x, train)
    check_state(state, new, train)
    return logits, new


def check_state(before, after, train):
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(after))
    same = [np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]
    assert not any(same) if train else all(same)


def check_logits(got, expected, tolerance):
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def images(size, seed=1):
    return draw(seed, 2, size, size, 3)


def check_block(model, x, expected, shortcut):
    """The outputs in both modes, and in eval mode a gradient along a random direction."""
    params, state = fill(model)
    assert ("downsample" in params or "shortcut" in params) == shortcut
    batch = jnp.asarray(x, jnp.float32)
    got, new = forward(model, params, state, batch, True)
    np.testing.assert_allclose(got, expected(x, params, None), atol=2e-5)

    weight = draw(5, *got.shape)
    direction = jax.tree.map(lambda p: draw(6, *p.shape), params)

    def loss(params):
        y, same = model.apply(params, new, batch, False)
        return jnp.vdot(y, jnp.asarray(weight, jnp.float32)), (y, same)

    grads, (got, same) = jax.jit(jax.grad(loss, has_aux=True))(params)
    check_state(new, same, False)
    np.testing.assert_allclose(got, expected(x, params, new), rtol=1e-4, atol=2e-5)
    ends = []
    for sign in (1, -1):
        moved = jax.tree.map(lambda p, d, sign=sign: np.float64(p) + sign * 1e-6 * d, params, direction)
        ends.append((expected(x, moved, new) * weight).sum())
    slope = sum((np.float64(g) * d).sum() for g, d in zip(*map(jax.tree.leaves, (grads, direction)), strict=True))
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-3)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (resnet18(stem="cifar"), (21, 11_164_352)),
        (resnet18(200), (21, 11_269_312)),
        (resnet50(), (54, 25_502_912)),
        (resnet50(200), (54, 23_864_512)),
        (resnet50(101), (54, 23_661_760)),  # 25,502,912 - 2,048 * 899
    ],
)
def test_counts(model, expected):
    assert totals(model) == expected


def test_other_sizes():
    assert totals(resnet18(stem="cifar", in_channels=1))[1] == 11_164_352 - 2 * 9 * 64
    half = layers(resnet18(stem="cifar", width=0.5))[0]
    assert sum(map(math.prod, half.values())) == (11_164_352 - 1728 - 5120) // 4 + 1728 // 2 + 5120 // 2


def test_resnet18_layers_in_network_order():
    expected, inputs = {"conv1": 3 * 3 * 3 * 64}, 64
    for stage, outputs in enumerate((64, 128, 256, 512), 1):
        for block in (0, 1):
            expected[f"layer{stage}/{block}/conv1"] = 9 * inputs * outputs
            expected[f"layer{stage}/{block}/conv2"] = 9 * outputs * outputs
            if stage > 1 and block == 0:
                expected[f"layer{stage}/0/downsample/conv"] = inputs * outputs
            inputs = outputs
    expected["linear"] = 5120
    shapes, others = layers(resnet18(stem="cifar"))
    assert [(name, math.prod(shape)) for name, shape in shapes.items()] == list(expected.items())
    assert others == {}
    assert sum(size for name, size in expected.items() if "downsample" in name) == 172_032
    with_pool, _ = layers(resnet18())
    assert with_pool.pop("conv1") == (7, 7, 3, 64)
    assert list(with_pool.items()) == list(shapes.items())[1:]


def test_resnet50_layers_in_network_order():
    expected, inputs = {"conv1": 7 * 7 * 3 * 64}, 64
    for stage, (channels, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for block in range(blocks):
            expected[f"layer{stage}/{block}/conv1"] = inputs * channels
            expected[f"layer{stage}/{block}/conv2"] = 9 * channels * channels
            expected[f"layer{stage}/{block}/conv3"] = 4 * channels * channels
            if block == 0:
                expected[f"layer{stage}/0/downsample/conv"] = inputs * 4 * channels
            inputs = 4 * channels
    expected["linear"] = 2048 * 1000
    shapes, others = layers(resnet50())
    assert [(name, math.prod(shape)) for name, shape in shapes.items()] == list(expected.items())
    assert others == {}
    assert sum(size for name, size in expected.items() if "downsample" in name) == 2_768_896


def test_affine_and_bias():
    check_affine_and_bias(lambda **options: resnet18(10, **options), 10)
    check_affine_and_bias(lambda **options: resnet50(101, **options), 101)
    # torchvision's ResNet-50 has 25,557,032 params, of which 1,000 are the classifier's bias.
    assert state_channels(resnet50()) == (53, (25_557_032 - 25_502_912 - 1000) // 2)


def test_shapes_at_full_size():
    check_shape(resnet18(stem="cifar"), 32, 10)
    check_shape(resnet18(200), 64, 200)
    check_shape(resnet50(101), 224, 101)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="num_classes: expected 1 or more, got 0"):
        resnet18(0)
    with pytest.raises(ValueError, match="width: expected a positive number, got -1"):
        resnet50(width=-1)
    with pytest.raises(ValueError, match="stem: expected 'cifar' or 'imagenet', got 'tiny'"):
        resnet18(stem="tiny")


def test_smart_ratios():
    check_smart_ratios(resnet18(stem="cifar"), 0.9)
    check_smart_ratios(resnet50(200), 0.95)


def test_resnet18_forward_and_backward():
    model, x = resnet18(stem="cifar", width=1 / 8), images(16)
    params, state = fill(model)
    logits, new = passes(model, params, state, jnp.asarray(x, jnp.float32), True)
    check_logits(logits, numpy_resnet(x, params, None, False), 1e-4)
    logits, _ = forward(model, params, new, jnp.asarray(x, jnp.float32), False)
    check_logits(logits, numpy_resnet(x, params, new, False), 1e-4)


def test_resnet50_forward():
    model, x = resnet50(20, width=1 / 8), images(64)
    params, state = fill(model)
    logits, _ = forward(model, params, state, jnp.asarray(x, jnp.float32), False)
    check_logits(logits, numpy_resnet(x, params, state, True), 1e-4)


def test_bottlenecks_forward_and_backward():
    # One block a stage: the compiler takes long over sixteen.
    model, x = from_module(lambda: ResNet((1, 1, 1, 1), 7, bottleneck=True, width=1 / 8)), images(64)
    params, state = fill(model)
    logits, new = passes(model, params, state, jnp.asarray(x, jnp.float32), True)
    check_logits(logits, numpy_resnet(x, params, None, True), 1e-4)
    logits, _ = forward(model, params, new, jnp.asarray(x, jnp.float32), False)
    check_logits(logits, numpy_resnet(x, params, new, True), 1e-4)


@pytest.mark.parametrize(("inputs", "channels", "stride"), [(3, 2, 2), (8, 2, 1)])
def test_bottleneck_matches_float64_numpy(inputs, channels, stride):
    model = from_module(lambda: Bottleneck(inputs, channels, stride))
    check_block(model, draw(3, 3, 6, 5, inputs), lambda *args: numpy_block(*args, stride), inputs != 8)


def test_basic_block_of_option_b_matches_float64_numpy():
    model = from_module(lambda: BasicBlock(3, 4, 2, shortcut="B"))
    check_block(model, draw(3, 3, 6, 5, 3), lambda *args: numpy_block(*args, 2), True)
