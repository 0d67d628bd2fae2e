"""SqueezeNet 1.0 and 1.1 against counts worked by hand and a float64 NumPy network."""

import numpy as np
import pytest

from rare_gems.models.model import from_module
from rare_gems.models.squeezenet import Fire, SqueezeNet, squeezenet
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

# (inputs, squeeze, expand) of each fire module, its input being twice the expansion before.
FIRES = [
    (64, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128),
    (256, 48, 192), (384, 48, 192), (384, 64, 256), (512, 64, 256),
]  # fmt: skip


@pytest.mark.parametrize(("version", "stem", "size", "total"), [("1.1", 64, 3, 1_231_552), ("1.0", 96, 7, 1_244_448)])
def test_layers_counts_and_logits(version, stem, size, total):
    model, bare = squeezenet(version=version), squeezenet(version=version, use_bias=False)
    params, state = abstract(bare)
    fires = [f"fires/{i}/conv{j}/kernel" for i in range(8) for j in (1, 2, 3)]
    assert names(params) == ["conv1/kernel", *fires, "head/kernel"]
    assert state == {}
    expected = [size * size * 3 * stem]
    for inputs, squeeze, expand in [(stem, *FIRES[0][1:]), *FIRES[1:]]:
        expected += [inputs * squeeze, squeeze * expand, 9 * squeeze * expand]
    assert sizes(model) == sizes(bare) == [*expected, 512 * 1000]
    assert sum(sizes(model)) == count(bare) == total
    assert count(model) == total + stem + sum(s + 2 * e for _, s, e in FIRES) + 1000
    assert count(model) == {"1.1": 1_235_496, "1.0": 1_248_424}[version]  # torchvision's
    assert sizes(squeezenet(version=version, width=0.5))[1:-1] == [size // 4 for size in expected[1:]]
    assert output(model, 2, 224, 224, 3) == (2, 1000)
    check_smart_ratio(model, 0.9, linear=0)


def test_forward_and_backward_are_finite():
    model, x = squeezenet(3, width=1 / 8), draw(1, 4, 17, 17, 3)
    check_passes(model, x, classes=3, train=False)
    assert same_program_in_both_modes(model, x)


def numpy_fire(x, params):
    x = np.maximum(numpy_conv(x, params["conv1"]["kernel"], params["conv1"]["bias"]), 0)
    wide = [numpy_conv(x, params[name]["kernel"], params[name]["bias"]) for name in ("conv2", "conv3")]
    return np.maximum(np.concatenate(wide, -1), 0)


class OneFire(Fire):
    def __call__(self, x, train):
        return super().__call__(x)


def test_fire_module_matches_float64_numpy():
    model = from_module(lambda: OneFire(3, 2, 4))
    params, state = fill(model)
    x = draw(2, 2, 4, 5, 3)
    got, _ = apply(model, params, state, x, True)
    assert got.shape == (2, 4, 5, 8)
    np.testing.assert_allclose(got, numpy_fire(x, params), atol=1e-5)


@pytest.mark.parametrize(("version", "pooled"), [("1.1", (0, 2, 4)), ("1.0", (0, 3, 7))])
def test_network_matches_float64_numpy(version, pooled):
    model = from_module(lambda: SqueezeNet(version, 8, in_channels=2, width=1 / 16))
    params, state = fill(model)
    x = draw(3, 2, 40, 26, 2)  # each pool meets a height or a width that does not fit
    logits, _ = apply(model, params, state, x, False)
    y = np.maximum(numpy_conv(x, params["conv1"]["kernel"], params["conv1"]["bias"], stride=2, padding=0), 0)
    for i in range(8):
        y = numpy_pool(y, 3, 2, ceil=True) if i in pooled else y
        y = numpy_fire(y, params["fires"][i])
    y = np.maximum(numpy_conv(y, params["head"]["kernel"], params["head"]["bias"]), 0).mean((1, 2))
    assert (y > 0).any(0).sum() >= 2
    np.testing.assert_allclose(logits, y, atol=1e-5)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"version: expected one of 1\.0, 1\.1, got '1\.2'"):
        squeezenet(version="1.2")
    for version, least in (("1.0", 21), ("1.1", 17)):
        model = squeezenet(version=version, width=1 / 16)
        with pytest.raises(ValueError, match=f"images: expected {least} x {least} pixels or more"):
            output(model, 2, least - 1, 40, 3)
        assert output(model, 2, least, 40, 3) == (2, 1000)
