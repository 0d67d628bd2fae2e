"""rare_gems.schedules against the paper's figures, formulas in float64 and hand-made tables."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import schedules
from rare_gems.masks import count_for

RESNET20 = 268_336  # prunable weights


@pytest.mark.parametrize(
    ("num_epochs", "period", "rounds"),
    [(150, 5, 29), (150, 8, 18), (150, 10, 14), (200, 5, 39), (300, 5, 59), (3000, 150, 19), (11, 2, 5),
     (11, 5, 2), (11, 10, 1), (2, 1, 1), (10, 4, 2)],
)  # fmt: skip
def test_num_rounds(num_epochs, period, rounds):
    assert schedules.num_rounds(num_epochs, period) == rounds
    assert rounds == sum(e % period == 0 and e > 0 for e in range(num_epochs))  # the epochs after which it happens


@pytest.mark.parametrize(("num_epochs", "period"), [(0, 1), (-3, 1), (5, 0), (5, -1), (5, 5), (1, 1), (10, 20)])
def test_num_rounds_errors(num_epochs, period):
    with pytest.raises(ValueError, match=r"expected"):
        schedules.num_rounds(num_epochs, period)


@pytest.mark.parametrize(
    ("num_epochs", "period", "percent_kept", "rate"),
    [
        (150, 5, 20, 0.053986), (150, 5, 3.72, 0.107294), (150, 5, 1.44, 0.136037), (150, 5, 0.59, 0.162215),
        (150, 8, 50, 0.037776), (150, 8, 0.59, 0.248103), (300, 5, 1.4, 0.069795), (200, 5, 1.4, 0.103676),
        (150, 10, 1.4, 0.262808), (3000, 150, 1.44, 0.20003),
    ],
)  # fmt: skip
def test_counts_fall_at_the_published_rates(num_epochs, period, percent_kept, rate):
    size = 10**8
    rounds = schedules.num_rounds(num_epochs, period)
    counts = np.array(schedules.exponential_counts(size, round(1 - percent_kept / 100, 6), rounds))
    assert len(counts) == rounds
    ratios = counts / np.array([size, *counts[:-1]])
    np.testing.assert_allclose(1 - ratios, rate, atol=6e-6 if rate == 0.20003 else 2e-6)


@pytest.mark.parametrize(
    ("sparsity", "period", "published", "by_ceilings"),
    [(0.5, 8, 134_161, 134_161), (0.9628, 5, 9976, 9977), (0.9856, 5, 3860, 3861), (0.9941, 5, 1580, 1580)],
)
def test_survivors_of_resnet20(sparsity, period, published, by_ceilings):
    """The published masks come from removing ceil(share) at each round, a little more than asked for."""
    rounds = schedules.num_rounds(150, period)
    counts = schedules.exponential_counts(RESNET20, sparsity, rounds)
    assert counts[-1] == count_for(RESNET20, sparsity)
    assert abs(counts[-1] / published - 1) < 0.002
    left, rate = RESNET20, 1 - (1 - sparsity) ** (1 / rounds)
    for count in counts:
        left -= math.ceil(rate * left)
        assert 0 <= count - left <= rounds
    assert abs(left - by_ceilings) <= 1


@pytest.mark.parametrize("sparsity", [0, 0.1, 0.5, 0.9, 0.9856, 0.99999])
@pytest.mark.parametrize("rounds", [1, 2, 7, 29])
def test_exponential_counts(sparsity, rounds):
    for size in (1, 10, 1000, 268_336, 25_502_912):
        counts = schedules.exponential_counts(size, sparsity, rounds)
        assert len(counts) == rounds
        assert all(type(count) is int for count in counts)
        assert counts[-1] == count_for(size, sparsity)
        assert all(a >= b for a, b in zip((size, *counts), counts, strict=False))
        for r, count in enumerate(counts, 1):
            assert abs(count - size * math.exp(math.log1p(-sparsity) * r / rounds)) < 0.501


def test_exponential_counts_by_hand():
    assert schedules.exponential_counts(100, 0.9, 5) == (63, 40, 25, 16, 10)
    assert schedules.exponential_counts(16, 0.75, 2) == (8, 4)


@pytest.mark.parametrize(("sparsity", "rounds"), [(0.5, 0), (0.5, -1), (1.0, 3), (-0.1, 3)])
def test_exponential_counts_errors(sparsity, rounds):
    with pytest.raises(ValueError, match=r"expected"):
        schedules.exponential_counts(100, sparsity, rounds)


def test_sparsity_bound():
    assert schedules.sparsity_bound(0, 150, 0.9856) == 0
    np.testing.assert_allclose(schedules.sparsity_bound(150, 150, 0.9856), 0.9856, rtol=1e-12)
    np.testing.assert_allclose(schedules.sparsity_bound(75, 150, 0.99), 0.9, rtol=1e-12)
    for epoch in (1, 33.5, 149):
        c = np.log(1 / (1 - 0.9856)) / 150
        np.testing.assert_allclose(schedules.sparsity_bound(epoch, 150, 0.9856), 1 - np.exp(-c * epoch), rtol=1e-12)


def test_every():
    fires = jax.jit(schedules.every(4))
    assert [step for step in range(12) if fires(jnp.int32(step))] == [3, 7, 11]
    assert all(schedules.every(1)(step) for step in range(3))
    with pytest.raises(ValueError, match=r"expected 1 or more steps, got 0"):
        schedules.every(0)


@pytest.mark.parametrize(("rate", "num_epochs", "steps_per_epoch"), [(0.1, 150, 3), (0.05, 7, 1), (2.0, 1, 4)])
def test_cosine(rate, num_epochs, steps_per_epoch):
    schedule = jax.jit(schedules.cosine(rate, num_epochs, steps_per_epoch))
    steps = np.arange(num_epochs * steps_per_epoch)
    got = np.array([schedule(jnp.int32(step)) for step in steps])
    want = 0.5 * rate * (1 + np.cos(np.pi * (steps // steps_per_epoch) / num_epochs))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7 * rate)
    assert got.min() > 0
    assert got[0] == np.float32(rate)
    assert float(schedules.cosine(rate, num_epochs, steps_per_epoch)(0)) == np.float32(rate)  # plain integers too


def test_cosine_at_the_steps_of_cifar():
    schedule = schedules.cosine(0.1, 150, 391)
    for step, epoch in [(390, 0), (391, 1), (391 * 75 - 1, 74), (391 * 75, 75), (391 * 150 - 1, 149)]:
        np.testing.assert_allclose(
            schedule(jnp.int32(step)), 0.05 * (1 + np.cos(np.pi * epoch / 150)), rtol=1e-4, atol=1e-8
        )


def test_multi_step():
    schedule = jax.jit(schedules.multi_step(0.1, (2, 3), 5))
    got = [float(schedule(jnp.int32(step))) for step in (0, 9, 10, 14, 15, 100)]
    np.testing.assert_allclose(got, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)
    halves = schedules.multi_step(1.0, [1], 2, factor=0.5)
    assert [float(halves(step)) for step in range(4)] == [1, 1, 0.5, 0.5]
    constant = schedules.multi_step(0.3, (), 5)
    assert [float(constant(jnp.int32(step))) for step in (0, 1000)] == [np.float32(0.3)] * 2
    assert constant(0).dtype == jnp.float32


@pytest.mark.parametrize(
    ("num_epochs", "milestones"),
    [(100, (50, 80)), (150, (80, 120)), (160, (80, 120)), (200, (100, 150)), (300, (150, 250)),
     (50, (25, 33)), (6, (3, 4)), (3000, (1500, 2000)), (4, (2,)), (3, (1, 2)), (2, (1,)), (1, ())],
)  # fmt: skip
def test_milestones_for(num_epochs, milestones):
    assert schedules.milestones_for(num_epochs) == milestones


def test_a_kind_of_fall_that_there_is_not():
    with pytest.raises(ValueError, match="kind: expected linear, exponential or cosine, got 'step'"):
        schedules.falling("step", 4)
