"""MobileNetV2 against counts worked by hand and a float64 NumPy network."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.models.mobilenet_v2 import STAGES, InvertedResidual, MobileNetV2, mobilenet_v2
from rare_gems.models.model import from_module
from tests.models.test_resnet import draw, fill, numpy_conv
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

# Inputs, hidden channels, outputs and stride of each block, from Table 7 of Rare Gems (v1) and the published code.
BLOCKS = [(32, 32, 16, 1), (16, 96, 24, 1), (24, 144, 24, 1), (24, 144, 32, 2), (32, 192, 32, 1), (32, 192, 32, 1)]
BLOCKS += [(32, 192, 64, 2), *[(64, 384, 64, 1)] * 3, (64, 384, 96, 1), *[(96, 576, 96, 1)] * 2]
BLOCKS += [(96, 576, 160, 2), *[(160, 960, 160, 1)] * 2, (160, 960, 320, 1)]


def depthwise(x, params, stride):
    kernel = np.float64(params["kernel"])
    each = [numpy_conv(x[..., c : c + 1], kernel[..., c : c + 1], stride) for c in range(x.shape[3])]
    return np.concatenate(each, -1)


def numpy_block(x, params, state, stride):
    y = relu(norm(conv(x, params["conv1"]), state, "bn1"))
    y = relu(norm(depthwise(y, params["conv2"], stride), state, "bn2"))
    y = norm(conv(y, params["conv3"]), state, "bn3")
    if "downsample" in params:
        return y + norm(conv(x, params["downsample"]["conv"]), part(state, "downsample"), "bn")
    return y + x if stride == 1 else y


def numpy_network(x, params, state):
    x = relu(norm(conv(x, params["conv1"]), state, "bn1"))
    for i in params["layer1"]:
        stride = BLOCKS[i][3]
        x = numpy_block(x, params["layer1"][i], part(state, "layer1", i), stride)
    x = relu(norm(conv(x, params["layer2"]["conv"]), part(state, "layer2"), "bn"))
    return x.mean((1, 2)) @ np.float64(params["linear"]["kernel"])


def test_layers_in_network_order():
    expected = {"conv1": (3, 3, 3, 32)}
    for i, (inputs, hidden, outputs, stride) in enumerate(BLOCKS):
        expected[f"layer1/{i}/conv1"] = (1, 1, inputs, hidden)
        expected[f"layer1/{i}/conv2"] = (3, 3, 1, hidden)
        expected[f"layer1/{i}/conv3"] = (1, 1, hidden, outputs)
        if stride == 1 and inputs != outputs:
            expected[f"layer1/{i}/downsample/conv"] = (1, 1, inputs, outputs)
    expected |= {"layer2/conv": (1, 1, 320, 1280), "linear": (1280, 10)}
    shapes, others = layers(mobilenet_v2())
    assert list(shapes.items()) == list(expected.items())
    assert others == {}
    shortcuts = [math.prod(shape) for name, shape in expected.items() if "downsample" in name]
    assert (len(shortcuts), sum(shortcuts)) == (4, 58_240)


def test_counts():
    assert totals(mobilenet_v2()) == (58, 2_261_824)
    assert totals(mobilenet_v2(200)) == (58, 2_505_024)
    assert totals(mobilenet_v2(in_channels=1)) == (58, 2_261_824 - 2 * 9 * 32)
    assert state_channels(mobilenet_v2())[0] == 57


def test_affine_and_bias():
    check_affine_and_bias(lambda **options: mobilenet_v2(7, **options), 7)


def test_shape_at_full_size():
    check_shape(mobilenet_v2(), 32, 10)
    check_shape(mobilenet_v2(200), 64, 200)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="num_classes: expected 1 or more, got -3"):
        mobilenet_v2(-3)


def test_smart_ratios():
    check_smart_ratios(mobilenet_v2(), 0.9)


def test_forward():
    model, x = mobilenet_v2(width=1 / 8), images(16)
    params, state = fill(model)
    logits, _ = forward(model, params, state, jnp.asarray(x, jnp.float32), False)
    check_logits(logits, numpy_network(x, params, state), 1e-4)


def test_forward_and_backward():
    # The first three blocks: the compiler takes long over seventeen.
    model, x = from_module(lambda: MobileNetV2(10, stages=STAGES[:2], width=1 / 8)), images(8)
    params, state = fill(model)
    logits, new = passes(model, params, state, jnp.asarray(x, jnp.float32), True)
    check_logits(logits, numpy_network(x, params, None), 1e-4)
    logits, _ = passes(model, params, new, jnp.asarray(x, jnp.float32), False)
    check_logits(logits, numpy_network(x, params, new), 1e-4)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(2, 3, 2), (2, 3, 1), (3, 3, 1)])
def test_block_matches_float64_numpy(inputs, outputs, stride):
    model = from_module(lambda: InvertedResidual(inputs, outputs, 2, stride))
    projects = inputs != outputs and stride == 1
    check_block(model, draw(3, 3, 6, 5, inputs), lambda *args: numpy_block(*args, stride), projects)
