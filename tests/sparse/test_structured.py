"""sparse.structured beside loops in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import sparse

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("n", "m", "axis"), [(2, 4, -2), (1, 4, -1), (3, 8, 0), (4, 4, -2)])
def test_n_of_m(n, m, axis):
    scores = RNG.integers(0, 4, (8, 8, 8)).astype(np.float32)  # many ties
    mask = np.asarray(sparse.keep_n_of_m([jnp.asarray(scores), None], n, m, axis=axis)[0])
    for group, chosen in zip(
        np.moveaxis(scores, axis, -1).reshape(-1, m), np.moveaxis(mask, axis, -1).reshape(-1, m), strict=True
    ):
        order = sorted(range(m), key=lambda i: (-group[i], i))
        assert np.flatnonzero(chosen).tolist() == sorted(order[:n])


@pytest.mark.parametrize(("block", "sparsity"), [((2, 2), 0.5), ((3, 2), 0.75), ((-1, 1), 0.4), ((1, -1), 0.5)])
def test_blocks(block, sparsity):
    scores = RNG.random((3, 7, 5)).astype(np.float32)
    (mask,) = sparse.keep_blocks([jnp.asarray(scores)], sparsity, block)
    rows, columns = (size if b == -1 else b for b, size in zip(block, scores.shape[1:], strict=True))
    blocks = [
        np.s_[a, i : i + rows, j : j + columns]
        for a in range(3)
        for i in range(0, 7, rows)
        for j in range(0, 5, columns)
    ]
    num_kept = len(blocks) - round(len(blocks) * sparsity)
    expected = np.zeros(scores.shape, bool)
    for index in sorted(blocks, key=lambda b: -scores[b].sum(dtype=np.float64))[:num_kept]:
        expected[index] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("axis", [-1, -2, 0])
def test_channels(axis):
    scores = RNG.random((3, 4, 7, 5)).astype(np.float32)
    mask = np.asarray(sparse.keep_channels([jnp.asarray(scores), None], 0.4, axis=axis)[0])
    first, chosen = np.moveaxis(scores, axis, 0), np.moveaxis(mask, axis, 0)
    order = np.argsort(-first.reshape(len(first), -1).sum(1, dtype=np.float64))
    kept = len(first) - round(0.4 * len(first))
    for place, channel in enumerate(order):
        assert chosen[channel].all() == chosen[channel].any() == (place < kept)


@pytest.mark.parametrize(
    ("dtype", "rows", "values"), [(jnp.float16, 1000, [90, 91, 92, 89]), (jnp.bfloat16, 300, [1] * 4)]
)
def test_blocks_are_ranked_by_sums_of_32_bits(dtype, rows, values):
    """In 16 bits the first would be infinite, and neighbours of 300 differ by 2."""
    scores = np.repeat(np.array([values], np.float32), rows, 0)
    scores[0] += [0.0, 0.5, 1.0, 0.0]
    kept = sparse.keep_blocks([jnp.array(scores, dtype)], 0.5, (-1, 1))[0]
    assert kept[0].tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: sparse.keep_n_of_m(s, 3, 2), "expected 1 <= n <= m"),
        (lambda s: sparse.keep_n_of_m(s, 1, 4), r"of kernel: expected an axis -2 that 4 divides, got shape \(6, 2\)"),
        (lambda s: sparse.keep_n_of_m(s, 1, 2, axis=2), "expected an axis 2"),
        (lambda s: sparse.keep_blocks(s, 0.5, (0, 1)), "block: expected sizes"),
        (lambda s: sparse.keep_blocks(s, 0.99, (2, 2)), "keeps none of 3 blocks of kernel"),
        (lambda s: sparse.keep_channels(s, 0.99), "sparsity: 0.99 keeps none of 2 channels of kernel"),
        (lambda s: sparse.keep_channels(s, 0.5, axis=2), r"of kernel: expected an axis 2, got shape \(6, 2\)"),
        (lambda s: sparse.keep_blocks({"b": jnp.ones(3)}, 0.5, (2, 2)), "expected two axes"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make({"kernel": jnp.ones((6, 2))})
