"""rare_gems.keep_ratios against exact fractions."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rare_gems import keep_ratios


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
