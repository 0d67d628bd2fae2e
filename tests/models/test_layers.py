"""The pools of `models.layers`, beside loops in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.models.layers import max_pool


@pytest.mark.parametrize(
    ("n", "size", "stride", "padding"), [(3, 2, 2, 1), (6, 3, 2, 0), (7, 3, 2, 1), (5, 2, 3, 1), (7, 2, 4, 0)]
)
def test_a_last_window_that_is_cut_off_begins_in_the_image(n, size, stride, padding):
    """As torch's ceil_mode: windows that lie in the padding behind alone would be -inf."""
    x = np.random.default_rng(0).normal(size=(1, n, n, 1)).astype(np.float32)
    starts = [at for at in range(-padding, n, stride) if at + size - stride < n + padding]
    expected = [[x[0, max(0, i) : i + size, max(0, j) : j + size].max() for j in starts] for i in starts]
    found = max_pool(jnp.array(x), size, stride, padding, ceil=True)[0, :, :, 0]
    assert found.tolist() == np.array(expected).tolist()
