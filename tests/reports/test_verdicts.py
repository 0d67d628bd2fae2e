"""Paired statistics, against SciPy's own paired test and by hand."""

import math

import numpy as np
import pytest
import scipy.stats

from rare_gems.reports import verdicts
from rare_gems.reports.verdicts import Drop


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_interval_against_scipy(n, confidence):
    rng = np.random.default_rng(n)
    real, checked = 0.8 + 0.02 * rng.normal(size=n), 0.75 + 0.02 * rng.normal(size=n)
    expected = scipy.stats.ttest_rel(real, checked).confidence_interval(confidence)
    drop = verdicts.paired_drop(real.tolist(), checked.tolist(), confidence)
    assert drop.n == n
    np.testing.assert_allclose(drop[:3], [np.mean(real - checked), expected.low, expected.high], rtol=1e-9)


def test_by_hand():
    # Drops 0.1, 0.2, 0.3: standard error 0.1 / sqrt(3), t(0.975, 2) = 4.302653.
    drop = verdicts.paired_drop([0.5, 0.6, 0.7], [0.4, 0.4, 0.4])
    reach = 4.302653 * 0.1 / math.sqrt(3)
    np.testing.assert_allclose(drop[:3], [0.2, 0.2 - reach, 0.2 + reach], rtol=1e-6)


def test_seeds_are_paired():
    real, checked = [0.6, 0.7, 0.8], [0.55, 0.65, 0.76]  # a drop of 5 points within seeds that differ by 10
    assert verdicts.verdict(verdicts.paired_drop(real, checked)) == "passes"
    assert verdicts.verdict(verdicts.paired_drop(real, checked[::-1])) == "undecided"


def test_one_seed_and_equal_drops():
    assert verdicts.paired_drop([0.75], [0.5]) == Drop(0.25, None, None, 1)
    assert verdicts.paired_drop([0.75, 0.5], [0.5, 0.25]) == Drop(0.25, 0.25, 0.25, 2)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.001, 0.2, "passes"), (0.0, 0.2, "undecided"), (-0.1, 0.01, "undecided"), (-0.1, 0.0099, "fails"),
     (0.001, 0.005, "passes"), (-0.2, -0.1, "fails"), (0.0, 0.0, "fails"), (None, None, "undecided")],
)  # fmt: skip
def test_verdict(low, high, expected):
    assert verdicts.verdict(Drop(0.0, low, high, 1 if low is None else 3)) == expected


def test_margin():
    drop = Drop(0.0, -0.03, 0.03, 3)
    assert [verdicts.verdict(drop, margin) for margin in (0, 0.03, 0.04)] == ["undecided", "undecided", "fails"]


def test_mistakes():
    with pytest.raises(ValueError, match="at least one, got 2 and 1"):
        verdicts.paired_drop([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        verdicts.paired_drop([], [])
    with pytest.raises(ValueError, match=r"finite accuracies, got \[0.1, nan\]"):
        verdicts.paired_drop([0.1, math.nan], [0.1, 0.2])
    with pytest.raises(ValueError, match=r"confidence: expected a fraction in \(0, 1\), got 95"):
        verdicts.paired_drop([0.1, 0.2], [0.1, 0.2], 95)
    with pytest.raises(ValueError, match="margin: expected a fraction of 0 or more, got -1"):
        verdicts.verdict(Drop(0.0, 0.0, 0.0, 2), -1)


def test_runs_are_checked():
    row = {"pruner": "random", "sparsity": 0.95, "seed": 0}
    verdicts.check_runs([row, row | {"seed": 1}, row | {"pruner": "dense", "sparsity": None}])
    with pytest.raises(ValueError, match=r"got more of \[\('random', 0.95, 0\)\]"):
        verdicts.check_runs([row, row | {"seed": 1}, row])
    for rows in ([], [row | {"pruner": "dense"}]):
        with pytest.raises(ValueError, match=f"beside 'dense', got {len(rows)} rows"):
            verdicts.check_runs(rows)
    with pytest.raises(ValueError, match=r"sparsities in \[0, 1\), got \[\('random', 1.0, 0\)\]"):
        verdicts.check_runs([row | {"sparsity": 1.0}])
