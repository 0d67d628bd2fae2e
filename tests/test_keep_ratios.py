"""rare_gems.keep_ratios against exact fractions."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rare_gems import keep_ratios, masks
from rare_gems.models.resnet import resnet20


def by_quotients(total, sizes):
    """One after the other to the largest size / (2 share + 1), the earlier entry first: all totals up to one."""
    shares, history = [0] * len(sizes), []
    for _ in range(total):
        history.append(list(shares))
        best = max(range(len(sizes)), key=lambda i: (Fraction(sizes[i], 2 * shares[i] + 1), -i))
        shares[best] += 1
    return [*history, shares]


@given(sizes=st.lists(st.integers(0, 40_000), min_size=1, max_size=12), part=st.floats(0, 1))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_apportion(sizes, part):
    total = int(part * sum(sizes))
    shares = keep_ratios.apportion(total, sizes)
    assert sum(shares) == total
    for share, size in zip(shares, sizes, strict=True):
        assert 0 <= share <= size
        assert abs(share - Fraction(total * size, max(sum(sizes), 1))) <= len(sizes)
    fewer = keep_ratios.apportion(max(total - 1, 0), sizes)
    assert all(a <= b for a, b in zip(fewer, shares, strict=True))


def test_apportion_every_small_case():
    for sizes in itertools.product(range(1, 6), repeat=3):
        for total, expected in enumerate(by_quotients(sum(sizes), sizes)):
            assert keep_ratios.apportion(total, list(sizes)) == expected


def test_apportion_by_hand():
    # Largest remainders would give [4, 4, 2] and then [5, 5, 1]: more in all, fewer for the last.
    assert keep_ratios.apportion(10, [6, 6, 2]) == [5, 4, 1]
    assert keep_ratios.apportion(11, [6, 6, 2]) == [5, 5, 1]
    assert keep_ratios.apportion(2, [1, 1, 1, 1]) == [1, 1, 0, 0]
    assert keep_ratios.apportion(0, [0, 0]) == [0, 0]
    assert keep_ratios.apportion(0, []) == []


@pytest.mark.parametrize(("total", "sizes"), [(-1, [3]), (4, [3]), (1, []), (1, [0, 0])])
def test_apportion_errors(total, sizes):
    with pytest.raises(ValueError, match=rf"expected an integer from 0 to {sum(sizes)}, got {total}"):
        keep_ratios.apportion(total, sizes)


def test_uniform():
    mask = {
        "a": jax.ShapeDtypeStruct((3, 3, 2, 5), bool), "b": None,
        "c": [jnp.ones((10, 1), bool), jnp.ones(100, bool)],
    }  # fmt: skip
    assert keep_ratios.uniform(mask, 20) == {"a": 9, "b": None, "c": [1, 10]}
    assert keep_ratios.uniform(mask, 200) == {"a": 90, "b": None, "c": [10, 100]}
    counts = keep_ratios.uniform(mask, 29)  # quotas 13.05, 1.45, 14.5: quotients 90 / 27 < 100 / 29
    assert counts == {"a": 13, "b": None, "c": [1, 15]}
    with pytest.raises(ValueError, match=r"leave none of the 10 in c/0"):
        keep_ratios.uniform(mask, 9)  # quotas 4.05, 0.45, 4.5
    with pytest.raises(ValueError, match=r"expected an integer from 0 to 200, got 201"):
        keep_ratios.uniform(mask, 201)


def by_bisection(total, sizes, weights):
    """The real-valued shares min(size, t weight) that sum to `total`."""
    sizes, weights = np.float64(sizes), np.float64(weights)
    low, high = 0.0, float(np.max(sizes / np.maximum(weights, 1e-9)))
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(sizes, middle * weights).sum() < total else (low, middle)
    return np.minimum(sizes, high * weights)


@given(
    layers=st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 200)), min_size=1, max_size=12),
    part=st.floats(0, 1),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_apportion_with_weights(layers, part):
    sizes, weights = map(list, zip(*layers, strict=True))
    total = int(part * sum(sizes))
    shares = keep_ratios.apportion(total, sizes, weights)
    assert sum(shares) == total
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    assert np.abs(shares - by_bisection(total, sizes, weights)).max() <= len(sizes)
    fewer = keep_ratios.apportion(max(total - 1, 0), sizes, weights)
    assert all(a <= b for a, b in zip(fewer, shares, strict=True))


def test_apportion_with_weights_one_by_one():
    some = [(1, 1, 1), (2, 1, 1), (0, 1, 2), (1, 2, 0), (2, 1, 2), (0, 0, 1), (3, 1, 2)]
    for sizes, weights in itertools.product(itertools.product((1, 2, 5), repeat=3), some):
        shares = [0, 0, 0]
        for total in range(sum(s for s, w in zip(sizes, weights, strict=True) if w) + 1):
            assert keep_ratios.apportion(total, list(sizes), weights) == shares
            open_ = [i for i in range(3) if shares[i] < sizes[i] and weights[i]]
            if open_:
                shares[max(open_, key=lambda i: (Fraction(weights[i], 2 * shares[i] + 1), -i))] += 1


def resnet20_mask():
    params, _ = jax.eval_shape(resnet20().init, jax.random.key(0))
    return jax.eval_shape(masks.ones, params)


@pytest.mark.parametrize("num_kept", [26834, 3864, 100_000, 268_336])
def test_erk_of_resnet20(num_kept):
    mask = resnet20_mask()
    counts = jax.tree.leaves(keep_ratios.erk(mask, num_kept))
    shapes = [leaf.shape for leaf in jax.tree.leaves(mask)]
    sizes, sums = [np.prod(s) for s in shapes], [sum(s) for s in shapes]
    want = by_bisection(num_kept, sizes, sums)
    assert sum(counts) == num_kept
    assert np.abs(counts - want).max() < 1
    assert [c == s for c, s in zip(counts, sizes, strict=True)] == list(np.isclose(want, sizes))
    if num_kept == 100_000:  # the narrow layers are dense, the wide ones not
        assert counts[0] == 432
        assert 0 < sum(c < s for c, s in zip(counts, sizes, strict=True)) < 20


def test_erk_by_hand():
    mask = {"a": jax.ShapeDtypeStruct((2, 2), bool), "b": None, "c": jax.ShapeDtypeStruct((4, 16), bool)}
    assert keep_ratios.erk(mask, 12) == {"a": 2, "b": None, "c": 10}  # 4 : 20
    assert keep_ratios.erk(mask, 30) == {"a": 4, "b": None, "c": 26}  # 5 : 25, but a has only 4
    with pytest.raises(ValueError, match=r"ERK keep ratios: 2 of 68 weights leave none of the 4 in a; keep more"):
        keep_ratios.erk(mask, 2)
    with pytest.raises(ValueError, match=r"expected an integer from 0 to 68, got 69"):
        keep_ratios.erk(mask, 69)


TICKET = {"a": (3, 10), "b/c": (40, 40), "d": (7, 100)}
COPY_TO = {
    "a": jax.ShapeDtypeStruct((2, 5), bool),
    "b": {"c": jax.ShapeDtypeStruct((40,), bool), "bias": None},
    "d": jax.ShapeDtypeStruct((10, 10), bool),
}


def test_copied():
    assert jax.tree.leaves(keep_ratios.copied(COPY_TO, 50, TICKET)) == [3, 40, 7]
    assert jax.tree.leaves(keep_ratios.copied(COPY_TO, 25, TICKET)) == [2, 20, 3]  # 1.5 rounds up first, 3.5 last
    # Twice as many: b/c is full, and 60 go to a and d as 3 : 7, of which a holds 10
    assert jax.tree.leaves(keep_ratios.copied(COPY_TO, 100, TICKET)) == [10, 40, 50]
    assert jax.tree.leaves(keep_ratios.copied(COPY_TO, 43, TICKET | {"a": (0, 10)})) == [0, 37, 6]


@pytest.mark.parametrize(
    ("counts", "kept", "match"),
    [
        ({"a": (3, 10), "d": (7, 100)}, 10, r"of b/c it has no weights where the network has 40$"),
        (TICKET | {"e": (1, 2)}, 10, r"of e it has 2 weights where the network has no such layer$"),
        (TICKET | {"d": (7, 99)}, 10, r"of d it has 99 weights where the network has 100$"),
        (TICKET, 2, r"copied keep ratios: 2 of 150 weights leave none of the 10 in a; keep more"),
        (TICKET | {"b/c": (0, 40)}, 111, r"expected an integer from 0 to 110, got 111"),
    ],
)
def test_copied_errors(counts, kept, match):
    with pytest.raises(ValueError, match=match):
        keep_ratios.copied(COPY_TO, kept, counts)


def test_empty_and_scalar_leaves():
    shapes = {"a": (0, 3), "b": (10,), "c": ()}
    mask = {name: jax.ShapeDtypeStruct(shape, bool) for name, shape in shapes.items()}
    assert keep_ratios.uniform(mask, 11) == keep_ratios.erk(mask, 11) == {"a": 0, "b": 10, "c": 1}
    assert keep_ratios.copied(mask, 6, {"a": (0, 0), "b": (5, 10), "c": (1, 1)}) == {"a": 0, "b": 5, "c": 1}
