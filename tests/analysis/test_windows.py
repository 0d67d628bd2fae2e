"""Convolutions and pooling in NumPy against XLA's, forwards and transposed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rare_gems.analysis import windows

RNG = np.random.default_rng(0)
CASES = {
    "same": ((2, 5, 6, 3), (3, 3, 3, 4), (1, 1), [(1, 1), (1, 1)], {}),
    "strided": ((1, 6, 5, 2), (3, 2, 2, 3), (2, 3), [(0, 2), (1, 0)], {}),
    "dilated": ((1, 5, 4, 2), (2, 3, 2, 2), (1, 2), [(2, 3), (-1, 2)],
                {"lhs_dilation": (2, 3), "rhs_dilation": (2, 1)}),
    "cut": ((1, 6, 6, 1), (2, 2, 1, 2), (1, 1), [(-1, -2), (0, -1)], {}),
    "grouped": ((2, 4, 4, 6), (3, 3, 2, 9), (2, 2), [(1, 1), (1, 1)], {"feature_group_count": 3}),
    "channels first": ((2, 3, 5), (4, 3, 2), (1,), [(1, 1)], {"dimension_numbers": ("NCH", "OIH", "NCH")}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_convolutions(name):
    image_shape, kernel_shape, strides, padding, options = CASES[name]
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")} | options
    image, kernel = (RNG.integers(-3, 4, shape).astype(np.float32) for shape in (image_shape, kernel_shape))

    def conv(image, kernel):
        return lax.conv_general_dilated(image, kernel, strides, padding, **options)

    [eqn] = jax.make_jaxpr(conv)(image, kernel).jaxpr.eqns

    @jax.jit
    def expected(image, kernel, seed):
        out, pull = jax.vjp(conv, image, kernel)
        need = jax.random.randint(seed, out.shape, 0, 3).astype(jnp.float32)
        return out, need, *pull(need)

    out, need, to_image, to_kernel = map(np.asarray, expected(image, kernel, jax.random.key(0)))
    np.testing.assert_array_equal(windows.convolve(eqn.params, image, kernel), out)
    np.testing.assert_array_equal(windows.pull_image(eqn.params, need, kernel, image.shape), to_image)
    np.testing.assert_array_equal(windows.pull_kernel(eqn.params, need, image, kernel.shape), to_kernel)


@pytest.mark.parametrize(
    "options",
    [{"padding": [(0, 0), (1, 1), (1, 0), (0, 0)], "window_strides": (1, 2, 2, 1)},
     {"padding": "VALID", "window_dilation": (1, 2, 1, 1), "base_dilation": (1, 1, 2, 1)}],
    ids=["strided", "dilated"],
)  # fmt: skip
def test_pooling(options):
    live = RNG.random((1, 6, 5, 2)) < 0.3

    def total(x):
        return lax.reduce_window(
            x, np.float32(0), lax.add, (1, 3, 2, 1), **({"window_strides": (1, 1, 1, 1)} | options)
        )

    [eqn] = [e for e in jax.make_jaxpr(total)(live.astype(np.float32)).jaxpr.eqns if "window" in e.primitive.name]
    out, pull = jax.vjp(total, live.astype(np.float32))
    np.testing.assert_array_equal(windows.pool(eqn.params, live), np.asarray(out) > 0)
    need = RNG.random(out.shape) < 0.2
    [expected] = pull(need.astype(np.float32))
    np.testing.assert_array_equal(windows.pull_pool(eqn.params, need, live.shape), np.asarray(expected) > 0)
