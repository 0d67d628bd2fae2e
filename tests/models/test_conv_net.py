"""Conv-2, Conv-4 and Conv-6 against published counts, smart ratios worked out anew, and a float64 NumPy network.

The helpers above the tests serve those of VGG, LeNet, SqueezeNet and Inception too.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks
from rare_gems.models.conv_net import conv2, conv4, conv6
from rare_gems.pruners.parts.smart_ratio_counts import smart_ratio_counts


def names(tree):
    return [masks.path_name(path) for path, _ in jax.tree.leaves_with_path(tree)]


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


@functools.cache
def abstract(model):
    return jax.eval_shape(model.init, jax.random.key(0))


def dense_mask(model):
    return jax.eval_shape(masks.ones, abstract(model)[0])


def sizes(model):
    return [leaf.size for leaf in jax.tree.leaves(dense_mask(model))]


def count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(abstract(model)[0]))


def output(model, *shape):
    """The logits' shape, without computing them."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda p, s, x: model.apply(p, s, x, True)[0], *abstract(model), x).shape


def fill(model):
    """Params and running statistics drawn by NumPy: nothing to compile. Biases, scales and variances are not 0 or 1."""
    rng = np.random.default_rng(0)

    def value(path, leaf):
        noise = rng.standard_normal(leaf.shape)
        if leaf.ndim > 1:
            noise *= np.sqrt(2 * leaf.shape[-1] / leaf.size)
        else:
            noise = 0.1 * noise + (path[-1].key in ("scale", "var"))
        return jnp.asarray(noise, jnp.float32)

    return jax.tree.map_with_path(value, abstract(model))


def apply(model, params, state, x, train):
    return jax.jit(model.apply, static_argnums=3)(params, state, jnp.asarray(x, jnp.float32), train)


def check_passes(model, x, *, classes, train):
    """One pass forward and backward: finite, the state moved in training only, each kernel's gradient not all zero."""
    params, state = fill(model)
    assert set(names(params)) >= set(names(dense_mask(model)))

    @jax.jit
    def run(params):
        def loss(params):
            logits, new = model.apply(params, state, jnp.asarray(x, jnp.float32), train)
            return -jax.nn.log_softmax(logits)[:, 0].mean(), (logits, new)

        return jax.grad(loss, has_aux=True)(params)

    grads, (logits, new) = jax.tree.map(np.asarray, run(params))
    assert logits.shape == (len(x), classes)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    without = [n for n, g in zip(names(grads), jax.tree.leaves(grads), strict=True) if g.ndim > 1 and not g.any()]
    assert without == []
    assert jax.tree.structure(new) == jax.tree.structure(state)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
        assert np.isfinite(after).all()
        assert np.array_equal(before, after) != train


def same_program_in_both_modes(model, x):
    """For networks without BatchNorm: what holds in one mode holds in the other."""
    x = jnp.asarray(x, jnp.float32)
    params, state = abstract(model)
    programs = [jax.make_jaxpr(lambda p, s, t=t: model.apply(p, s, x, t))(params, state) for t in (True, False)]
    return str(programs[0]) == str(programs[1])


def plain_ratio(sizes, linear, sparsity, *, vgg=False):
    """Su et al.'s counts of a network whose last layers, `linear` of them, keep 0.3, in plain Python floats."""
    number = len(sizes)
    raw = [(number - i + 1) ** 2 + (number - i + 1) for i in range(1, number + 1)]
    raw = [r / (i + 1) ** 2 for i, r in enumerate(raw)] if vgg else raw
    convs = number - linear
    kept = int((1 - sparsity) * sum(sizes)) - int(0.3 * sum(sizes[convs:]))
    scale = kept / sum(int(m * r) for m, r in zip(sizes[:convs], raw, strict=False))
    ratios, spill = [scale * r for r in raw[:convs]] + [0.3] * linear, 0
    for i in range(convs):
        more = int((ratios[i] - 1) * sizes[i])
        if spill + more < 0:
            ratios[i] += spill / sizes[i]
            break
        spill, ratios[i] = spill + more, 1
    return [int(p * m) for p, m in zip(ratios, sizes, strict=True)], ratios


def check_smart_ratio(model, sparsity, *, linear, family="resnet"):
    """The exact counts meet the target, the published ones are those of `plain_ratio`; `linear` of them are dense."""
    mask = dense_mask(model)
    option = 0.3 if linear else None
    order = names(mask)  # a formula is checked; which order is that of use: see test_layer_order
    exact = jax.tree.leaves(smart_ratio_counts(mask, sparsity, family=family, linear=option, order=order))
    assert sum(exact) == masks.count_for(sum(sizes(model)), sparsity)
    assert all(1 <= kept <= size for kept, size in zip(exact, sizes(model), strict=True))
    published = smart_ratio_counts(mask, sparsity, family=family, linear=option, exact=False, order=order)
    expected, ratios = plain_ratio(sizes(model), linear, sparsity, vgg=family == "vgg")
    assert jax.tree.leaves(published) == expected
    # Exact targets differ by a rounding of the sum and of each layer, spread in proportion.
    assert np.abs(np.subtract(exact, expected)).max() <= max(2, 2e-3 * max(expected))
    return ratios


def numpy_conv(x, kernel, bias=0.0, *, stride=1, padding=None):
    """Float64 convolution by its definition; rectangular kernels, zero padding of half the kernel unless given."""
    rows, columns = kernel.shape[:2]
    up, left = (rows // 2, columns // 2) if padding is None else (padding, padding)
    x = np.pad(np.float64(x), ((0, 0), (up, up), (left, left), (0, 0)))
    height, width = (x.shape[1] - rows) // stride + 1, (x.shape[2] - columns) // stride + 1
    out = np.zeros((x.shape[0], height, width, kernel.shape[3]))
    for i in range(height):
        for j in range(width):
            window = x[:, i * stride : i * stride + rows, j * stride : j * stride + columns]
            out[:, i, j] = np.einsum("nhwc,hwco->no", window, np.float64(kernel))
    return out + np.float64(bias)


def numpy_pool(x, size=2, stride=2, *, ceil=False):
    """Max-pool; windows that reach over the edge are cut off, or with `ceil` kept as they are."""
    steps = [(n - size + (stride - 1 if ceil else 0)) // stride + 1 for n in x.shape[1:3]]
    out = np.zeros((x.shape[0], *steps, x.shape[3]))
    for i in range(steps[0]):
        for j in range(steps[1]):
            out[:, i, j] = x[:, i * stride : i * stride + size, j * stride : j * stride + size].max((1, 2))
    return out


CONVS = [1728, 36864, 73728, 147456, 294912, 589824]


@pytest.mark.parametrize(
    ("factory", "pairs", "flat", "total"),
    [(conv2, 1, 16 * 16 * 64, 4_300_992), (conv4, 2, 8 * 8 * 128, 2_425_024), (conv6, 3, 4 * 4 * 256, 2_261_184)],
)
def test_layers_counts_and_logits(factory, pairs, flat, total):
    model, biased = factory(), factory(use_bias=True)
    params, state = abstract(model)
    assert names(params) == [f"convs/{i}/kernel" for i in range(2 * pairs)] + [f"linear/{i}/kernel" for i in range(3)]
    assert state == {}
    assert sizes(model) == [*CONVS[: 2 * pairs], flat * 256, 256 * 256, 2560]
    assert sum(sizes(model)) == total
    assert count(biased) == total + sum([128, 256, 512][:pairs]) + 2 * 256 + 10
    assert sizes(biased) == sizes(model)
    assert sizes(factory(width=0.5))[1:-1] == [size // 4 for size in sizes(model)[1:-1]]
    assert sizes(factory(image_size=16))[2 * pairs] == flat * 64
    assert output(model, 2, 32, 32, 3) == (2, 10)
    assert output(factory(100, image_size=28, in_channels=1), 2, 28, 28, 1) == (2, 100)
    check_smart_ratio(model, 0.9, linear=0)  # 0.3 of the dense layers alone would be too many


@pytest.mark.parametrize("factory", [conv2, conv4, conv6])
def test_forward_and_backward_are_finite(factory):
    model = factory(3, width=1 / 8, image_size=8, use_bias=True)
    x = draw(1, 4, 8, 8, 3)
    check_passes(model, x, classes=3, train=False)
    assert same_program_in_both_modes(model, x)


def test_network_matches_float64_numpy_and_flattens_rows_columns_channels():
    model = conv4(4, width=1 / 32, image_size=9, in_channels=2, use_bias=True)
    params, state = fill(model)
    x = draw(2, 3, 9, 9, 2)
    logits, _ = apply(model, params, state, x, True)
    y = x
    for i in range(4):
        y = np.maximum(numpy_conv(y, params["convs"][i]["kernel"], params["convs"][i]["bias"]), 0)
        y = numpy_pool(y) if i in (1, 3) else y
    assert y.shape == (3, 2, 2, 4)
    kernel = np.float64(params["linear"][0]["kernel"])
    z = np.zeros((3, 8)) + np.float64(params["linear"][0]["bias"])
    for i, j, c in np.ndindex(2, 2, 4):
        z += y[:, i, j, c, None] * kernel[(i * 2 + j) * 4 + c]
    for i in (1, 2):
        z = np.maximum(z, 0) @ np.float64(params["linear"][i]["kernel"]) + np.float64(params["linear"][i]["bias"])
    np.testing.assert_allclose(logits, z, atol=1e-5)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="in_channels: expected 1 or more, got 0"):
        conv2(in_channels=0)
    with pytest.raises(ValueError, match="image_size: expected 8 or more for 3 pools, got 7"):
        conv6(image_size=7)
    with pytest.raises(ValueError, match=r"images: expected 32 x 32 pixels, got \(32, 28\)"):
        output(conv4(), 2, 32, 28, 3)
