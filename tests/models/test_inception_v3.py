"""Inception-v3 against torchvision's counts and shapes, and float64 NumPy blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.models.inception_v3 import (
    InceptionA,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
    Maker,
    inception_v3,
)
from rare_gems.models.model import from_module
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
from tests.models.test_vgg import numpy_norm

# name: (rows, columns, inputs, outputs), the inputs of a block being n.
STEM = [(3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 64), (1, 1, 64, 80), (3, 3, 80, 192)]


def block_a(n, pool):
    return {
        "branch1x1": (1, 1, n, 64),
        "branch3x3dbl_1": (1, 1, n, 64), "branch3x3dbl_2": (3, 3, 64, 96), "branch3x3dbl_3": (3, 3, 96, 96),
        "branch5x5_1": (1, 1, n, 48), "branch5x5_2": (5, 5, 48, 64),
        "branch_pool": (1, 1, n, pool),
    }  # fmt: skip


def block_b(n):
    return {
        "branch3x3": (3, 3, n, 384),
        "branch3x3dbl_1": (1, 1, n, 64), "branch3x3dbl_2": (3, 3, 64, 96), "branch3x3dbl_3": (3, 3, 96, 96),
    }  # fmt: skip


def block_c(n, c):
    return {
        "branch1x1": (1, 1, n, 192),
        "branch7x7_1": (1, 1, n, c), "branch7x7_2": (1, 7, c, c), "branch7x7_3": (7, 1, c, 192),
        "branch7x7dbl_1": (1, 1, n, c), "branch7x7dbl_2": (7, 1, c, c), "branch7x7dbl_3": (1, 7, c, c),
        "branch7x7dbl_4": (7, 1, c, c), "branch7x7dbl_5": (1, 7, c, 192),
        "branch_pool": (1, 1, n, 192),
    }  # fmt: skip


def block_d(n):
    return {
        "branch3x3_1": (1, 1, n, 192), "branch3x3_2": (3, 3, 192, 320),
        "branch7x7x3_1": (1, 1, n, 192), "branch7x7x3_2": (1, 7, 192, 192), "branch7x7x3_3": (7, 1, 192, 192),
        "branch7x7x3_4": (3, 3, 192, 192),
    }  # fmt: skip


def block_e(n):
    return {
        "branch1x1": (1, 1, n, 320),
        "branch3x3_1": (1, 1, n, 384), "branch3x3_2a": (1, 3, 384, 384), "branch3x3_2b": (3, 1, 384, 384),
        "branch3x3dbl_1": (1, 1, n, 448), "branch3x3dbl_2": (3, 3, 448, 384),
        "branch3x3dbl_3a": (1, 3, 384, 384), "branch3x3dbl_3b": (3, 1, 384, 384),
        "branch_pool": (1, 1, n, 192),
    }  # fmt: skip


BLOCKS = [
    block_a(192, 32), block_a(256, 64), block_a(288, 64), block_b(288),
    block_c(768, 128), block_c(768, 160), block_c(768, 160), block_c(768, 192),
    block_d(768), block_e(1280), block_e(2048),
]  # fmt: skip


def test_layers_counts_and_logits():
    model = inception_v3()
    params, state = abstract(model)
    expected = {f"conv/{i}/conv/kernel": shape for i, shape in enumerate(STEM)}
    expected |= {
        f"inception/{i}/{n}/conv/kernel": shape for i, block in enumerate(BLOCKS) for n, shape in block.items()
    }
    expected |= {"linear/kernel": (2048, 1000)}
    assert dict(zip(names(params), [leaf.shape for leaf in jax.tree.leaves(params)], strict=True)) == expected
    assert names(params) == list(expected)
    assert len(expected) == 95
    assert len(names(state)) == 2 * 94
    total, channels = sum(sizes(model)), sum(shape[-1] for shape in expected.values()) - 1000
    assert channels == 17_216
    assert total == 23_799_136
    assert count(inception_v3(affine=True, use_bias=True)) == total + 2 * channels + 1000
    assert total + 2 * channels + 1000 == 27_161_264 - 3_326_696  # torchvision's without its auxiliary classifier
    check_smart_ratio(model, 0.95, linear=1)


@pytest.mark.parametrize("train", [False, True])
def test_forward_and_backward_are_finite(train):
    check_passes(inception_v3(3, width=1 / 16), draw(1, 4, 75, 75, 3), classes=3, train=train)


def mean_pool(x):
    return sum(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))[:, i : i + x.shape[1], j : j + x.shape[2]]
               for i in range(3) for j in range(3)) / 9  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "more", "branches"),
    [
        (InceptionA, (32,), [["branch1x1"], ["branch5x5_1", "branch5x5_2"],
                             ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], [mean_pool, "branch_pool"]]),
        (InceptionB, (), [["branch3x3/2"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3/2"], [None]]),
        (InceptionC, (128,), [["branch1x1"], ["branch7x7_1", "branch7x7_2", "branch7x7_3"],
                              [f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)], [mean_pool, "branch_pool"]]),
        (InceptionD, (), [["branch3x3_1", "branch3x3_2/2"],
                          ["branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4/2"], [None]]),
        (InceptionE, (), [["branch1x1"], ["branch3x3_1", "branch3x3_2a"], ["branch3x3_1", "branch3x3_2b"],
                          ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a"],
                          ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3b"], [mean_pool, "branch_pool"]]),
    ],
)  # fmt: skip
def test_blocks_match_float64_numpy(kind, more, branches):
    """A "/2" is a stride of 2 without padding, None a max-pool of stride 2; the branches are side by side in order."""
    train = kind is InceptionC
    model = from_module(lambda: kind(3, *more, Maker(1 / 64, True)))
    params, state = fill(model)
    x = draw(2, 2, 7, 6, 3)
    got, _ = apply(model, params, state, x, train)
    outputs = []
    for steps in branches:
        y = x
        for step in steps:
            if step is None:
                y = numpy_pool(y, 3, 2)
            elif step is mean_pool:
                y = mean_pool(y)
            else:
                name, halved = step.removesuffix("/2"), step.endswith("/2")
                kernel = params[name]["conv"]["kernel"]
                y = numpy_conv(y, kernel, stride=2, padding=0) if halved else numpy_conv(y, kernel)
                y = np.maximum(numpy_norm(y, params[name]["bn"], state[name]["bn"], train, eps=1e-3), 0)
        outputs.append(y)
    assert got.shape[1:3] == ((3, 2) if None in branches[-1] else (7, 6))
    np.testing.assert_allclose(got, np.concatenate(outputs, -1), atol=1e-4 if train else 2e-5)


def test_sizes_of_maps_and_logits_are_torchvisions():
    model = inception_v3()
    x = jax.ShapeDtypeStruct((4, 299, 299, 3), jnp.float32)
    program = jax.make_jaxpr(lambda p, s, x: model.apply(p, s, x, False)[0])(*abstract(model), x)
    shapes = [v.aval.shape for equation in program.jaxpr.eqns for v in equation.outvars]
    sides = [shape[1:3] for shape in shapes if len(shape) == 4]
    assert list(dict.fromkeys(sides)) == [(n, n) for n in (149, 147, 73, 71, 35, 17, 8)]
    assert program.out_avals[0].shape == (4, 1000)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="num_classes: expected 1 or more, got 0"):
        inception_v3(0)
    model = inception_v3(width=1 / 32)
    with pytest.raises(ValueError, match=r"images: expected 75 x 75 pixels or more, got \(74, 80\)"):
        output(model, 2, 74, 80, 3)
