"""`conv2d` against `lax.conv_general_dilated` and a float64 NumPy convolution, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rare_gems.models import onednn
from rare_gems.models.fast_conv import conv2d

CASES = [
    # height, width, inputs, outputs, size, stride
    (8, 8, 16, 16, 3, 1),
    (6, 4, 3, 16, 3, 1),
    (5, 7, 4, 4, 3, 1),
    (8, 6, 4, 32, 3, 1),
    (8, 8, 16, 8, 3, 2),
    (7, 5, 3, 6, 3, 2),
    (6, 6, 5, 7, 1, 1),
    (6, 6, 5, 7, 1, 2),
    (2, 2, 2, 3, 3, 1),
    (1, 2, 20, 18, 3, 1),
    (9, 7, 3, 5, 5, 1),
    (9, 8, 3, 5, 7, 2),
    (7, 7, 4, 5, 3, 3),
]


def draw(case, batch=2):
    height, width, inputs, outputs, size, stride = case
    rng = np.random.default_rng(0)
    out = (batch, -(-height // stride), -(-width // stride), outputs)
    return (
        rng.standard_normal((batch, height, width, inputs)),
        rng.standard_normal((size, size, inputs, outputs)),
        rng.standard_normal(out),
        stride,
        size // 2,
    )


def single(*arrays):
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


def plain(x, kernel, stride, padding):
    pads = ((padding, padding), (padding, padding))
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def numpy_conv_and_gradients(x, kernel, g, stride, padding):
    """Float64, by the definition: each output adds its window times the kernel, each gradient the reverse."""
    size = kernel.shape[0]
    wide = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    y, dx, dk = np.zeros(g.shape), np.zeros(wide.shape), np.zeros(kernel.shape)
    for i in range(g.shape[1]):
        for j in range(g.shape[2]):
            at = (slice(None), slice(i * stride, i * stride + size), slice(j * stride, j * stride + size))
            y[:, i, j] = np.einsum("nhwc,hwco->no", wide[at], kernel)
            dx[at] += np.einsum("no,hwco->nhwc", g[:, i, j], kernel)
            dk += np.einsum("nhwc,no->hwco", wide[at], g[:, i, j])
    return y, dx[:, padding : padding + x.shape[1], padding : padding + x.shape[2]], dk


@pytest.fixture(params=["xla", "onednn"])
def _library(request, monkeypatch, _keep_nothing):
    """The suite's eight devices rule oneDNN out; what one device would do is asked for."""
    if request.param == "onednn":
        if not onednn.works():
            pytest.skip("this jaxlib has no oneDNN")
        monkeypatch.setattr(onednn, "is_usable", lambda dtype, products: dtype == np.float32)


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case):
    x, kernel, g, stride, padding = draw(case)

    def both(conv):
        def run(x, kernel, g):
            y, pull = jax.vjp(lambda x, k: conv(x, k, stride, padding), x, kernel)
            return y, *pull(g)

        return jax.jit(run)(*single(x, kernel, g))

    got, same = both(conv2d), both(plain)
    expected = numpy_conv_and_gradients(x, kernel, g, stride, padding)
    for a, b, c in zip(got, same, expected, strict=True):
        scale = np.abs(c).max()
        assert a.shape == c.shape
        np.testing.assert_allclose(a, c, atol=2e-6 * scale)
        np.testing.assert_allclose(a, b, atol=2e-6 * scale)


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("case", [CASES[0], CASES[4]], ids=str)
@pytest.mark.parametrize("over_kernels", [False, True])
def test_vmap_equals_a_loop(case, over_kernels):
    x, kernel, g, stride, padding = draw(case)
    x, kernel, g = single(np.stack([x, 2 * x[::-1]]), np.stack([kernel, kernel[::-1]]), np.stack([g, g[:, ::-1]]))

    def grads(x, kernel, g):
        y, pull = jax.vjp(lambda x, k: conv2d(x, k, stride, padding), x, kernel)
        return y, *pull(g)

    together = jax.jit(jax.vmap(grads, in_axes=(0, 0 if over_kernels else None, 0)))(
        x, kernel if over_kernels else kernel[0], g
    )
    for i in (0, 1):
        alone = jax.jit(grads)(x[i], kernel[i if over_kernels else 0], g[i])
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-5 * np.abs(b).max())


@pytest.mark.usefixtures("_library")
def test_forward_over_reverse_matches_the_plain_convolution():
    x, kernel, g, stride, padding = draw(CASES[0])
    x, kernel, g = single(x, kernel, g)

    def product(conv):
        def loss(k):
            return jnp.vdot(jnp.square(conv(x, k, stride, padding)), g)

        return jax.jit(lambda k: jax.jvp(jax.grad(loss), (k,), (jnp.cos(k),))[1])(kernel)

    expected = product(plain)
    np.testing.assert_allclose(product(conv2d), expected, atol=1e-5 * np.abs(expected).max())


def test_sharded_batch_needs_no_more_than_sums():
    x, kernel, g, stride, padding = draw(CASES[0], batch=8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    put = [jax.device_put(a, NamedSharding(mesh, PartitionSpec("data"))) for a in single(x, g)]

    def gradient(x, g, kernel):
        return jax.vjp(lambda k: conv2d(x, k, stride, padding), kernel)[1](g)[0]

    compiled = jax.jit(gradient).lower(*put, *single(kernel)).compile()
    assert "all-gather" not in compiled.as_text()
    expected = numpy_conv_and_gradients(x, kernel, g, stride, padding)[2]
    np.testing.assert_allclose(compiled(*put, *single(kernel)), expected, atol=1e-5 * np.abs(expected).max())


def test_few_channels_on_cpu_are_convolved_in_pairs_and_other_backends_get_the_plain_operation(monkeypatch):
    def text():
        return str(jax.make_jaxpr(lambda x, k: conv2d(x, k, 1, 1))(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))))

    assert "custom_vjp" in text()
    assert "3,2,4,4" in text()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "custom_vjp" not in text()
    assert "3,2,4,4" not in text()


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize(("size", "padding"), [((1, 3), (0, 1)), ((3, 1), (1, 0)), ((2, 3), (1, 2)), ((2, 2), (0, 0))])
def test_rectangles_and_any_padding(size, padding):
    rng = np.random.default_rng(4)
    x, kernel = single(rng.standard_normal((2, 5, 6, 3)), rng.standard_normal((*size, 3, 4)))
    pads = [(p, p) for p in padding]

    def expected(x, k):
        return lax.conv_general_dilated(x, k, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    y, pull = jax.vjp(jax.jit(lambda x, k: conv2d(x, k, 1, padding)), x, kernel)
    same, pull_same = jax.vjp(jax.jit(expected), x, kernel)
    for a, b in zip((y, *pull(jnp.sin(y))), (same, *pull_same(jnp.sin(same))), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_windows_that_are_not_square_and_groups():
    rng = np.random.default_rng(3)
    x, kernel = rng.standard_normal((2, 5, 6, 4)), rng.standard_normal((1, 3, 2, 6))
    y = conv2d(*(jnp.asarray(v, jnp.float32) for v in (x, kernel)), stride=1, padding=(0, 1))
    padded, expected = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0))), np.zeros((2, 5, 6, 6))
    for column in range(6):
        for out in range(6):
            group = out // 3  # two groups of two inputs and three outputs
            window = padded[:, :, column : column + 3, 2 * group : 2 * group + 2]
            expected[:, :, column, out] = np.einsum("nhwc,wc->nh", window, kernel[0, :, :, out])
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 3, 3, 4\)"):
        conv2d(jnp.ones((1, 4, 4, 4)), jnp.ones((3, 3, 3, 4)))
    with pytest.raises(ValueError, match=r"\(1, 4, 4, 3\)"):
        conv2d(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 4, 4)))
    with pytest.raises(ValueError, match=r"\(3, 3, 2, 5\)"):  # two groups cannot share five outputs
        conv2d(jnp.ones((1, 4, 4, 4)), jnp.ones((3, 3, 2, 5)))


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize(("size", "stride", "padding"), [(5, 1, 0), (3, 2, 0), (1, 1, -1), (2, 1, 3)])
def test_windows_that_do_not_fit_and_padding_below_zero_are_left_to_xla(size, stride, padding):
    x, kernel = jnp.ones((2, 2, 2, 3)), jnp.ones((size, size, 3, 4))
    pads = [(padding, padding)] * 2
    same = lambda x, k: lax.conv_general_dilated(x, k, (stride,) * 2, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))  # noqa: E731
    for got, expected in zip(
        *(
            jax.tree.leaves((f(x, kernel), jax.grad(lambda *a, f=f: f(*a).sum(), (0, 1))(x, kernel)))
            for f in (lambda x, k: conv2d(x, k, stride, padding), same)
        ),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected)


@pytest.mark.usefixtures("_library")
def test_two_dtypes_are_refused():
    with pytest.raises(TypeError, match="bfloat16"):
        conv2d(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 4), jnp.bfloat16), 1, 1)
