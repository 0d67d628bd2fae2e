"""The rule by which our number agrees with a paper's, by hand and against SciPy."""

import math

import numpy as np
import pytest
import scipy.stats

from rare_gems.reports import verdicts
from rare_gems.reports.agreement import agreement


def spread(middle, std, n):
    """n values with exactly that mean and sample standard deviation."""
    values = np.linspace(-1, 1, n)
    return (middle + std * values / values.std(ddof=1)).tolist()


@pytest.mark.parametrize(
    ("difference", "std", "n", "error", "expected"),
    [
        (0.0, 0.1, 3, None, "reproduced"), (0.5, 0.0, 2, None, "reproduced"), (-0.5, 0.1, 3, None, "reproduced"),
        (0.51, 0.0, 2, None, "above"), (-0.51, 0.0, 2, None, "below"),
        (0.9, 1.0, 3, None, "reproduced"),  # within our noise, beyond half a point
        (1.1, 1.0, 3, None, "undecided"), (2.4, 1.0, 3, None, "undecided"),  # the interval reaches 2.48
        (2.5, 1.0, 3, None, "above"), (-2.5, 1.0, 3, None, "below"), (-1.1, 1.0, 12, None, "below"),
        (1.1, 1.0, 3, 0.5, "reproduced"), (1.4, 1.0, 12, 1.0, "reproduced"), (1.5, 1.0, 12, 1.0, "above"),
        (2.5, 1.0, 3, 0.5, "undecided"), (2.54, 1.0, 3, 0.5, "above"), (0.7, 0.0, 2, 0.8, "reproduced"),
        (0.1, 3.0, 3, None, "undecided"),  # our mean is open to 7 points: no reproduction
        (-30.0, 3.0, 3, None, "below"), (0.1, 3.0, 8, None, "reproduced"),
        (0.0, 0.0, 1, None, "undecided"), (30.0, 0.0, 1, 0.3, "undecided"),
    ],
)  # fmt: skip
def test_verdict(difference, std, n, error, expected):
    ours = [70 + difference] if n == 1 else spread(70 + difference, std, n)
    found = agreement(70.0, ours, error)
    assert found.verdict == expected
    mirrored = {"above": "below", "below": "above"}.get(expected, expected)
    assert agreement(-70.0, [-value for value in ours], error).verdict == mirrored


def test_numbers_against_scipy():
    rng = np.random.default_rng(0)
    ours = (66 + rng.normal(size=5)).tolist()
    found = agreement(66.15, ours, error=0.4)
    np.testing.assert_allclose(found[:4], [np.mean(ours), np.std(ours, ddof=1), 5, np.mean(ours) - 66.15])
    np.testing.assert_allclose(found.noise, math.sqrt(np.var(ours, ddof=1) + 0.16))
    np.testing.assert_allclose(found.in_noise, found.difference / found.noise)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_undecided_ends_where_students_interval_ends(n):
    ours = spread(0.0, 1.0, n)
    reach = float(scipy.stats.ttest_1samp(ours, 0).confidence_interval().high)
    assert agreement(-0.999 * reach, ours, margin=1).verdict == ("undecided" if reach > 1 else "reproduced")
    assert agreement(-1.001 * reach, ours, margin=1).verdict == "above"
    narrower = float(scipy.stats.ttest_1samp(ours, 0).confidence_interval(0.8).high)
    narrower = max(narrower, 1.0)
    assert agreement(-1.001 * narrower, ours, margin=1, confidence=0.8).verdict == "above"


def test_what_is_missing():
    assert agreement(70.0, [])[:7] == (None, None, 0, None, None, None, "undecided")
    assert (agreement(70.0, []).why, agreement(70.0, [None, None]).why) == ("no runs", "no run has this number")
    assert agreement(70.0, [71.0, None]) == agreement(70.0, [71.0])
    assert agreement(70.0, [71.0]).why == "1 seed, not within 0.5"
    assert agreement(70.0, [71.0])[:6] == (71.0, None, 1, 1.0, None, None)
    curve = agreement(None, [70.0, 72.0])
    assert (curve.mean, curve.difference, curve.verdict, curve.why) == (71.0, None, None, "the paper prints no number")


def test_exact_numbers_need_one_value_and_have_no_margin():
    found = [agreement(2850, [value], exact=True).verdict for value in (2850, 2851, 2849)]
    assert found == ["reproduced", "above", "below"]
    assert [agreement(1e-8, [ours], exact=True).verdict for ours in (1e-8, 9.1e-9)] == ["reproduced", "below"]
    assert agreement(0.0, [9e-10], exact=True).verdict == "above"


def test_mistakes():
    with pytest.raises(ValueError, match=r"finite numbers, got paper nan, error None, margin 0.5, ours \[1.0\]"):
        agreement(math.nan, [1.0])
    with pytest.raises(ValueError, match="expected finite"):
        agreement(1.0, [math.inf])
    with pytest.raises(ValueError, match=r"0 or more, got -0.1 and 0.5"):
        agreement(1.0, [1.0], error=-0.1)
    with pytest.raises(ValueError, match="0 or more, got None and -1"):
        agreement(1.0, [1.0], margin=-1)
    with pytest.raises(ValueError, match=r"confidence: expected a fraction in \(0, 1\), got 95"):
        agreement(1.0, [1.0, 2.0], confidence=95)


def test_equal_numbers_have_no_noise():
    """The mean of three times 1.44 is not 1.44, and what it is off by is no noise to measure a difference with."""
    assert sum([1.44] * 3) / 3 != 1.44
    for exact in (False, True):
        found = agreement(1.47, [1.44] * 3, exact=exact, margin=0.01)
        assert (found.mean, found.std, found.in_noise, found.verdict) == (1.44, 0.0, None, "below")
    assert agreement(3, [2, 4], exact=True).in_noise is None
    assert verdicts.interval([1.44] * 3) == (1.44, 1.44, 1.44, 3)


def test_an_exact_number_is_reproduced_by_equal_ones_alone():
    assert agreement(100, [100, 100], exact=True).verdict == "reproduced"
    assert agreement(100, [99, 101], exact=True).verdict == "undecided"
    assert agreement(100, [100, 101], exact=True).verdict == "above"
