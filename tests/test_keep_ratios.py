"""rare_gems.keep_ratios against exact fractions."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rare_gems import keep_ratios


def by_fractions(total, sizes):
    """Floors of the exact quotas, then one more each by largest remainder, the earlier entry first."""
    quotas = [Fraction(total * size, sum(sizes)) for size in sizes]
    shares = [int(quota) for quota in quotas]
    while sum(shares) < total:
        best = max(range(len(sizes)), key=lambda i: (quotas[i] - shares[i], -i))
        shares[best] += 1
    return shares


@given(sizes=st.lists(st.integers(0, 40_000), min_size=1, max_size=12), part=st.floats(0, 1))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_apportion(sizes, part):
    total = int(part * sum(sizes))
    shares = keep_ratios.apportion(total, sizes)
    assert sum(shares) == total
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    if sum(sizes):
        assert shares == by_fractions(total, sizes)


def test_apportion_every_small_case():
    for sizes in itertools.product(range(1, 5), repeat=3):
        for total in range(sum(sizes) + 1):
            assert keep_ratios.apportion(total, list(sizes)) == by_fractions(total, sizes)


def test_apportion_by_hand():
    assert keep_ratios.apportion(10, [6, 6, 2]) == [4, 4, 2]  # quotas 4.29, 4.29, 1.43
    assert keep_ratios.apportion(11, [6, 6, 2]) == [
        5,
        5,
        1,
    ]  # 4.71, 4.71, 1.57: more in all, fewer for the last
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
    counts = keep_ratios.uniform(mask, 29)  # quotas 13.05, 1.45, 14.5
    assert counts == {"a": 13, "b": None, "c": [1, 15]}
    with pytest.raises(ValueError, match=r"leave none of the 10 in c/0"):
        keep_ratios.uniform(mask, 9)  # quotas 4.05, 0.45, 4.5
    with pytest.raises(ValueError, match=r"expected an integer from 0 to 200, got 201"):
        keep_ratios.uniform(mask, 201)
