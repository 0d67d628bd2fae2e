"""VGG-16 and VGG-19 against published counts and ratios, and a float64 NumPy network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.models.model import from_module
from rare_gems.models.vgg import VGG, vgg16, vgg19
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
    sizes,
)

VGG19 = [1728, 36864, 73728, 147456, 294912] + [589824] * 3 + [1179648] + [2359296] * 7


@pytest.mark.parametrize(
    ("factory", "convs"),
    [
        (vgg16, [1728, 36864, 73728, 147456, 294912, 589824, 589824, 1179648] + [2359296] * 5),
        (vgg19, VGG19),
    ],
)
def test_layers_counts_and_logits(factory, convs):
    model, affine, biased = factory(), factory(affine=True), factory(use_bias=True)
    params, state = abstract(model)
    number, total = len(convs), sum(convs) + 5120
    assert names(params) == [f"layers/{i}/conv/kernel" for i in range(number)] + ["linear/kernel"]
    assert names(state) == [f"layers/{i}/bn/{name}" for i in range(number) for name in ("mean", "var")]
    assert sizes(model) == sizes(affine) == sizes(biased) == [*convs, 5120]
    assert total == {13: 14_715_584, 16: 20_024_000}[number]
    assert count(affine) == total + 2 * channels(convs)
    assert count(biased) == total + channels(convs) + 10
    assert sizes(factory(in_channels=1, width=0.5)) == [9 * 32, *(size // 4 for size in convs[1:]), 2560]
    assert output(model, 2, 32, 32, 3) == (2, 10)
    assert output(factory(200), 2, 64, 64, 3) == (2, 200)


def channels(convs):
    """Outputs of all convolutions: 64, 128, 256 and 512 by the number in each stage."""
    return {13: 2 * 64 + 2 * 128 + 3 * 256 + 6 * 512, 16: 2 * 64 + 2 * 128 + 4 * 256 + 8 * 512}[len(convs)]


def test_published_counts():
    assert sum(sizes(vgg16(200))) == 14_812_864
    assert sum(sizes(vgg19(100))) == 20_070_080


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("factory", [vgg16, vgg19])
def test_forward_and_backward_are_finite(factory, train):
    size = 32 if factory is vgg16 else 16
    model = factory(3, width=1 / 16, affine=True, use_bias=True)
    check_passes(model, draw(1, 4, size, size, 3), classes=3, train=train)


def test_smart_ratio():
    check_smart_ratio(vgg16(), 0.9, linear=1, family="vgg")
    ratios = check_smart_ratio(vgg19(), 0.98, linear=1, family="vgg")
    # Su et al.'s VGG-19 ratios at 98 percent, three digits.
    published = [1, 1, 0.838, 0.264, 0.146, 0.087, 0.054, 0.035, 0.022, 0.015, 0.009, 0.006, 0.004, 0.002, 0.001]
    np.testing.assert_allclose(ratios, [*published, 0.0005, 0.3], atol=6e-4)


def numpy_norm(x, bn, stats, train, eps=1e-5):
    mean, var = (
        (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (np.float64(stats["mean"]), np.float64(stats["var"]))
    )
    y = (x - mean) / np.sqrt(var + eps)
    return y * np.float64(bn["scale"]) + np.float64(bn["bias"]) if bn else y


@pytest.mark.parametrize("train", [False, True])
def test_network_matches_float64_numpy(train):
    stages = ((2, 1), (3, 2))  # the first has a pool behind, the second leaves 2 x 3 pixels of 5 x 6
    model = from_module(lambda: VGG(stages, 1, 4, in_channels=2, affine=True, use_bias=True))
    params, state = fill(model)
    x = draw(2, 3, 5, 6, 2)
    logits, _ = apply(model, params, state, x, train)
    y = x
    for i in range(3):
        layer = params["layers"][i]
        y = numpy_conv(y, layer["conv"]["kernel"], layer["conv"]["bias"])
        y = np.maximum(numpy_norm(y, layer["bn"], state["layers"][i]["bn"], train), 0)
        y = numpy_pool(y) if i == 0 else y
    assert y.shape == (3, 2, 3, 3)
    expected = y.mean((1, 2)) @ np.float64(params["linear"]["kernel"]) + np.float64(params["linear"]["bias"])
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_bfloat16_compute_keeps_float32_state_and_logits():
    shapes = jax.eval_shape(
        lambda p, s: vgg16(width=1 / 16, compute_dtype=jnp.bfloat16).apply(p, s, jnp.ones((2, 32, 32, 3)), True),
        *abstract(vgg16(width=1 / 16)),
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="num_classes: expected 1 or more, got 0"):
        vgg16(0)
    with pytest.raises(ValueError, match="width: expected a positive number, got 0"):
        vgg19(width=0)
    for factory, least in ((vgg16, 32), (vgg19, 16)):
        model = factory(width=1 / 16)
        with pytest.raises(
            ValueError, match=rf"images: expected {least} x {least} pixels or more, got \(40, {least - 1}\)"
        ):
            output(model, 2, 40, least - 1, 3)
        assert output(model, 2, 40, least, 3) == (2, 10)
