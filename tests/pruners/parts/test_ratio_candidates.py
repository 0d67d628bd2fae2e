"""Candidates around given ratios, and the factor that keeps a number of weights, beside float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems.pruners.parts.ratio_candidates import candidates, fit

SIZES = np.array([60.0, 40.0])


def fitted(p, sizes, total):
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        kept = (sizes * np.clip(middle * p, 1 / sizes, 1)).sum()
        low, high = (middle, high) if kept < total else (low, middle)
    return np.clip(high * p, 1 / sizes, 1)


def test_candidates():
    mask = [jax.ShapeDtypeStruct(shape, bool) for shape in ((6, 10), (10, 4))]
    table = candidates(mask, 0.7, [0.1, 0.6], 5, 0.5, seed=1)
    assert table.shape == (5, 2)
    np.testing.assert_allclose(table @ SIZES, 30)
    np.testing.assert_allclose(table[0], [0.1, 0.6])
    assert len(np.unique(table[:, 0])) == 5
    np.testing.assert_array_equal(table, candidates(mask, 0.7, [0.1, 0.6], 5, 0.5, seed=1))
    assert not np.array_equal(table[1:], candidates(mask, 0.7, [0.1, 0.6], 5, 0.5, seed=2)[1:])
    noise = np.log((table[:, 0] / table[:, 1]) / (0.1 / 0.6)) / 0.5
    draws = np.array(jax.random.normal(jax.random.key(1), (5, 2)), np.float64)
    draws[0] = 0
    np.testing.assert_allclose(noise, draws[:, 0] - draws[:, 1], atol=1e-6)
    np.testing.assert_allclose(candidates(mask, 0.9, [0.0, 0.5], 1), [[1 / 60, 9 / 40]])  # a weight at least


def test_fit():
    rng = np.random.default_rng(2)
    for _ in range(30):
        sizes = rng.integers(1, 40_000, 20).astype(float)
        ratios = np.clip(np.exp(rng.normal(-3, 2, 20)), 1e-4, 1)
        total = int(rng.integers(len(sizes), sizes.sum() + 1))
        want = fitted(ratios, sizes, total)
        np.testing.assert_allclose(fit(ratios, sizes, total, np), want, rtol=1e-9)
        np.testing.assert_allclose(fit(jnp.float32(ratios), sizes, total), want, rtol=3e-4)
