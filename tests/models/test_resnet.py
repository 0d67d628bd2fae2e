"""ResNet-20/32 against counts worked by hand and a float64 NumPy network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.models.layers import BatchNorm, Conv, option_a_shortcut
from rare_gems.models.model import from_module
from rare_gems.models.resnet import BasicBlock, resnet20, resnet32


def names(tree):
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(tree)]


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def fill(model):
    """Kaiming-normal params drawn by NumPy: nothing to compile."""
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    rng = np.random.default_rng(0)

    def kernel(leaf):
        fan_in = leaf.size // leaf.shape[-1]
        drawn = rng.standard_normal(leaf.shape) * np.sqrt(2 / fan_in)
        return jnp.asarray(drawn if leaf.ndim > 1 else 1 + 0 * drawn, jnp.float32)

    state = jax.tree.map_with_path(lambda path, v: jnp.full(v.shape, float(path[-1].key == "var")), state)
    return jax.tree.map(kernel, params), state


def numpy_conv(x, kernel, stride):
    """Float64 convolution by its definition: zero padding of size // 2, then a sum over the window."""
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    height, width = (x.shape[1] - size) // stride + 1, (x.shape[2] - size) // stride + 1
    out = np.zeros((x.shape[0], height, width, kernel.shape[3]))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            window = x[:, top : top + size, left : left + size]
            out[:, row, column] = np.einsum("nhwc,hwco->no", window, kernel)
    return out


def numpy_norm(x):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(var + 1e-5), mean, var


def numpy_shortcut(x, outputs, stride):
    out = np.zeros((x.shape[0], -(-x.shape[1] // stride), -(-x.shape[2] // stride), outputs))
    first = (outputs - x.shape[3]) // 2
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            out[:, row, column, first : first + x.shape[3]] = x[:, row * stride, column * stride]
    return out


def numpy_block(x, block, stride):
    first, second = np.float64(block["conv1"]["kernel"]), np.float64(block["conv2"]["kernel"])
    y, *stats1 = numpy_norm(numpy_conv(x, first, stride))
    y, *stats2 = numpy_norm(numpy_conv(np.maximum(y, 0), second, 1))
    return np.maximum(y + numpy_shortcut(x, second.shape[3], stride), 0), stats1, stats2


def test_resnet20_layers_are_those_of_the_paper_in_network_order():
    params, state = jax.eval_shape(resnet20().init, jax.random.key(0))
    blocks = [f"layer{s}/{b}/conv{c}/kernel" for s in (1, 2, 3) for b in (0, 1, 2) for c in (1, 2)]
    assert names(params) == ["conv1/kernel", *blocks, "linear/kernel"]
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    assert sizes == [432] + [2304] * 6 + [4608] + [9216] * 5 + [18432] + [36864] * 5 + [640]
    assert sum(sizes) == 268_336
    assert names(state)[:3] == ["bn1/mean", "bn1/var", "layer1/0/bn1/mean"]
    assert len(names(state)) == 2 * 19


def test_resnet32_and_width_and_classes():
    def count(model):
        return sum(p.size for p in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))[0]))

    assert count(resnet32()) == 461_872
    assert count(resnet32(width=2)) == 1_845_344
    assert count(resnet20(in_channels=1)) == 268_336 - 2 * 9 * 16
    assert count(resnet20(affine=True)) == 268_336 + 2 * (7 * 16 + 6 * 32 + 6 * 64)


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match="num_classes: expected 1 or more, got 0"):
        resnet20(0)


def test_init_is_kaiming_normal_and_differs_between_seeds():
    params, state = jax.jit(jax.vmap(resnet20().init))(jax.random.split(jax.random.key(3), 2))
    for leaf in jax.tree.leaves(params)[7:]:
        fan_in = leaf[0].size // leaf.shape[-1]
        assert np.std(np.float64(leaf[0])) == pytest.approx(np.sqrt(2 / fan_in), rel=0.08)
        assert abs(np.float64(leaf[0]).mean()) < 5 * np.sqrt(2 / fan_in / leaf[0].size)
        assert np.mean(leaf[0] == leaf[1]) < 0.01
    for name, value in zip(names(state), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(value, float("var" in name))


@pytest.mark.parametrize("size", [8, 32])
def test_forward_and_backward_are_finite(size):
    model = resnet20()
    params, state = fill(model)
    x = jnp.asarray(draw(1, 4, size, size, 3), jnp.float32)

    @jax.jit
    def run(params):
        def loss(params):
            logits, new = model.apply(params, state, x, True)
            return -jax.nn.log_softmax(logits)[:, 0].mean(), (logits, new)

        return jax.grad(loss, has_aux=True)(params)

    grads, (logits, new) = run(params)
    assert logits.shape == (4, 10)
    assert logits.dtype == jnp.float32
    assert all(np.isfinite(g).all() and np.any(g != 0) for g in jax.tree.leaves(grads))
    assert jax.tree.structure(new) == jax.tree.structure(state)
    evaluated, kept = jax.jit(model.apply, static_argnums=3)(params, new, x, False)
    assert np.isfinite(evaluated).all()
    jax.tree.map(np.testing.assert_array_equal, kept, new)


def test_network_in_train_mode_matches_float64_numpy():
    model = resnet20(num_classes=3, in_channels=2, width=0.25)
    params, state = fill(model)
    x = draw(2, 5, 8, 8, 2)
    logits, new = jax.jit(model.apply, static_argnums=3)(params, state, jnp.asarray(x, jnp.float32), True)

    y, *stats = numpy_norm(numpy_conv(x, np.float64(params["conv1"]["kernel"]), 1))
    expected = {"bn1": stats}
    y = np.maximum(y, 0)
    for name, first_stride in (("layer1", 1), ("layer2", 2), ("layer3", 2)):
        for i in range(3):
            y, *both = numpy_block(y, params[name][i], first_stride if i == 0 else 1)
            expected[name, i] = both
    np.testing.assert_allclose(logits, y.mean((1, 2)) @ np.float64(params["linear"]["kernel"]), atol=2e-4)

    def check(got, stats, count):
        np.testing.assert_allclose(got["mean"], 0.1 * stats[0], atol=2e-5)
        np.testing.assert_allclose(got["var"], 0.9 + 0.1 * stats[1] * count / (count - 1), rtol=1e-4)

    check(new["bn1"], expected["bn1"], 5 * 64)
    check(new["layer2"][0]["bn1"], expected["layer2", 0][0], 5 * 16)
    check(new["layer3"][2]["bn2"], expected["layer3", 2][1], 5 * 4)


def test_basic_block_with_stride_and_its_gradient_match_float64_numpy():
    model = from_module(lambda: BasicBlock(2, 4, 2))
    params, state = fill(model)
    x, weight = draw(3, 3, 6, 6, 2), draw(4, 3, 3, 3, 4)
    got, _ = model.apply(params, state, jnp.asarray(x, jnp.float32), True)
    np.testing.assert_allclose(got, numpy_block(x, params, 2)[0], atol=1e-5)

    grads = jax.grad(
        lambda p: jnp.vdot(
            model.apply(p, state, jnp.asarray(x, jnp.float32), True)[0], jnp.asarray(weight, jnp.float32)
        )
    )(params)
    kernels = {name: np.float64(params[name]["kernel"]) for name in ("conv1", "conv2")}
    for name, index in (("conv1", (0, 1, 1, 3)), ("conv1", (2, 2, 0, 0)), ("conv2", (1, 0, 3, 2))):
        values = []
        for shift in (1e-5, -1e-5):
            moved = {n: {"kernel": k.copy()} for n, k in kernels.items()}
            moved[name]["kernel"][index] += shift
            values.append((numpy_block(x, moved, 2)[0] * weight).sum())
        np.testing.assert_allclose(grads[name]["kernel"][index], (values[0] - values[1]) / 2e-5, rtol=1e-3, atol=1e-4)


def test_option_a_slices_and_pads_half_the_channels_on_each_side():
    x = draw(6, 2, 5, 4, 2)
    got = option_a_shortcut(jnp.asarray(x, jnp.float32), 4, 2)
    np.testing.assert_array_equal(got, np.float32(numpy_shortcut(x, 4, 2)))
    assert got.shape == (2, 3, 2, 4)
    same = jnp.asarray(x, jnp.float32)
    np.testing.assert_array_equal(option_a_shortcut(same, 2, 1), same)


def test_stride_two_pads_one_on_the_first_side_as_torch_does():
    # A kernel that sees only its centre picks rows and columns 0, 2, ... ("SAME" would pick 1, 3, ...).
    conv = Conv(1, 1, stride=2)
    conv.kernel[...] = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(conv(x)[0, :, :, 0], [[0, 2], [8, 10]])


@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm_moves_its_statistics_as_torch_does(affine):
    norm = BatchNorm(3, affine=affine)
    x, y = draw(7, 4, 2, 2, 3) * 3 + 1, draw(8, 4, 2, 2, 3)
    mean, var = np.zeros(3), np.ones(3)
    for batch in (x, y):
        norm(jnp.asarray(batch, jnp.float32), True)
        mean, var = 0.9 * mean + 0.1 * batch.mean((0, 1, 2)), 0.9 * var + 0.1 * batch.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.var[...], var, rtol=1e-5)
    if affine:
        norm.scale[...], norm.bias[...] = jnp.asarray([2.0, 3, 4]), jnp.asarray([1.0, 0, -1])
    got = norm(jnp.asarray(x, jnp.float32), False)
    expected = (x - mean) / np.sqrt(var + 1e-5)
    expected = expected * [2, 3, 4] + [1, 0, -1] if affine else expected
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5, atol=1e-6)  # not moved


def test_seeds_under_vmap_equal_seeds_one_by_one():
    model = from_module(lambda: BasicBlock(4, 8, 2))
    params, state = jax.vmap(model.init)(jax.random.split(jax.random.key(2), 2))
    x = jnp.asarray(draw(9, 3, 8, 8, 4), jnp.float32)
    together, new = jax.jit(jax.vmap(lambda p, s: model.apply(p, s, x, True)))(params, state)
    for i in (0, 1):
        alone, moved = model.apply(*jax.tree.map(lambda a, i=i: a[i], (params, state)), x, True)
        np.testing.assert_allclose(together[i], alone, atol=1e-5)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-5), new, moved)


def test_bfloat16_compute_keeps_float32_state_and_logits():
    model, exact = resnet20(width=1 / 8, compute_dtype=jnp.bfloat16), resnet20(width=1 / 8)
    params, state = fill(model)
    x = jnp.asarray(draw(9, 8, 8, 8, 3), jnp.float32)
    logits, new = jax.jit(model.apply, static_argnums=3)(params, state, x, True)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, new, logits))} == {jnp.dtype("float32")}
    expected, _ = jax.jit(exact.apply, static_argnums=3)(params, state, x, True)
    assert 0 < np.abs(logits - expected).max() < 0.1 * np.abs(expected).max() + 0.1


def test_params_of_another_network_are_refused():
    params, state = fill(resnet20(width=0.25))
    with pytest.raises(
        ValueError,
        match=r"another network: expected the structure of this one's, got one without (\S+ ){4}and \d+ more$",
    ):
        resnet32(width=0.25).apply(params, state, jnp.ones((1, 8, 8, 3)), False)
