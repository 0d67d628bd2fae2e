"""The kernel's gradient against its definition in float64, and what it is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.models.kernel_gradient import kernel_gradient

CASES = {
    "same size": ((5, 6), (3, 3), 1, (1, 1)),
    "one pixel": ((1, 1), (3, 3), 1, (1, 1)),
    "one row": ((1, 4), (5, 3), 1, (2, 1)),
    "rectangle": ((4, 5), (1, 3), 1, (0, 1)),
    "smaller": ((5, 6), (3, 2), 1, (0, 1)),
    "strides": ((7, 6), (3, 3), 2, (1, 1)),
}


def _drawn(case):
    (height, width), (rows, columns), stride, (top, left) = case
    rng = np.random.default_rng(0)
    out = (height + 2 * top - rows) // stride + 1, (width + 2 * left - columns) // stride + 1
    return rng.standard_normal((2, height, width, 3)), rng.standard_normal((2, *out, 4))


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_it_is_the_definition(case):
    _, (rows, columns), stride, (top, left) = case
    x, g = _drawn(case)
    wide, expected = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0))), np.zeros((rows, columns, 3, 4))
    for u, v, i, j in np.ndindex(rows, columns, *g.shape[1:3]):
        expected[u, v] += wide[:, i * stride + u, j * stride + v].T @ g[:, i, j]
    got = kernel_gradient(*(jnp.asarray(a, jnp.float32) for a in (x, g)), (rows, columns), stride, (top, left))
    np.testing.assert_allclose(got, expected, atol=2e-6 * np.abs(expected).max())


def test_of_equal_sizes_nothing_is_padded_and_there_is_one_product():
    x, g = (jnp.ones((2, 8, 8, n)) for n in (16, 24))
    text = str(jax.make_jaxpr(lambda x, g: kernel_gradient(x, g, (3, 3), 1, (1, 1)))(x, g))
    assert text.count("dot_general[") == 1
    assert " pad[" not in text
    assert "f32[48,72]" in text
