"""WRN-28-2 against counts worked by hand and a float64 NumPy network."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.models.model import from_module
from rare_gems.models.wide_resnet import WideBlock, WideResNet, wide_resnet28_2
from tests.models.test_resnet import draw, fill
from tests.models.test_resnet_counts import (
    check_affine_and_bias,
    check_shape,
    check_smart_ratios,
    layers,
    state_channels,
    totals,
)
from tests.models.test_resnet_imagenet import (
    check_block,
    check_logits,
    conv,
    forward,
    images,
    norm,
    part,
    passes,
    relu,
)


def numpy_block(x, params, state, stride):
    a = relu(norm(x, state, "bn1"))
    y = relu(norm(conv(a, params["conv1"], stride), state, "bn2"))
    return conv(y, params["conv2"]) + (conv(a, params["shortcut"], stride) if "shortcut" in params else x)


def numpy_network(x, params, state):
    x = conv(x, params["conv1"])
    for name in ("layer1", "layer2", "layer3"):
        for i in params[name]:
            stride = 2 if i == 0 and name != "layer1" else 1
            x = numpy_block(x, params[name][i], part(state, name, i), stride)
    return relu(norm(x, state, "bn1")).mean((1, 2)) @ np.float64(params["linear"]["kernel"])


def test_layers_in_network_order():
    expected = {"conv1": 432}
    inputs = 16
    for stage, outputs in enumerate((32, 64, 128), 1):
        for block in range(4):
            expected[f"layer{stage}/{block}/conv1"] = 9 * inputs * outputs
            expected[f"layer{stage}/{block}/conv2"] = 9 * outputs * outputs
            if block == 0:
                expected[f"layer{stage}/0/shortcut"] = inputs * outputs
            inputs = outputs
    expected["linear"] = 1280
    shapes, others = layers(wide_resnet28_2())
    assert [(name, math.prod(shape)) for name, shape in shapes.items()] == list(expected.items())
    assert others == {}
    assert sum(size for name, size in expected.items() if "shortcut" in name) == 10_752


def test_counts():
    assert totals(wide_resnet28_2()) == (29, 1_463_984)
    assert totals(wide_resnet28_2(100, in_channels=1)) == (29, 1_463_984 + 90 * 128 - 2 * 144)
    assert totals(wide_resnet28_2(width=2)) == (29, 4 * (1_463_984 - 432 - 1280) + 2 * (432 + 1280))
    assert state_channels(wide_resnet28_2())[0] == 25


def test_affine_and_bias():
    check_affine_and_bias(lambda **options: wide_resnet28_2(7, **options), 7)


def test_shape_at_full_size():
    check_shape(wide_resnet28_2(100), 32, 100)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="in_channels: expected 1 or more, got 0"):
        wide_resnet28_2(in_channels=0)
    with pytest.raises(ValueError, match="stride: expected 1 where the channels stay 4, got 2"):
        WideBlock(4, 4, 2)


def test_smart_ratios():
    check_smart_ratios(wide_resnet28_2(), 0.9)


def test_forward():
    model, x = wide_resnet28_2(width=1 / 4), images(8)
    params, state = fill(model)
    logits, _ = forward(model, params, state, jnp.asarray(x, jnp.float32), False)
    check_logits(logits, numpy_network(x, params, state), 1e-4)


def test_forward_and_backward():
    # One block a stage: the compiler takes long over twelve.
    model, x = from_module(lambda: WideResNet(1, 2, 10, width=1 / 4)), images(8)
    params, state = fill(model)
    logits, new = passes(model, params, state, jnp.asarray(x, jnp.float32), True)
    check_logits(logits, numpy_network(x, params, None), 1e-4)
    logits, _ = passes(model, params, new, jnp.asarray(x, jnp.float32), False)
    check_logits(logits, numpy_network(x, params, new), 1e-4)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(3, 4, 2), (3, 3, 1)])
def test_block_matches_float64_numpy(inputs, outputs, stride):
    model = from_module(lambda: WideBlock(inputs, outputs, stride))
    check_block(model, draw(3, 3, 6, 5, inputs), lambda *args: numpy_block(*args, stride), inputs != outputs)
