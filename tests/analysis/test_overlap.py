"""Three measures of overlap against sets, and those by chance against all pairs of masks."""

import itertools

import jax
import numpy as np
import pytest

from rare_gems import masks
from rare_gems.analysis import overlap


def random_mask(seed, ratio=0.3):
    rng = np.random.default_rng(seed)
    return {"a": {"kernel": rng.random((4, 5)) < ratio, "bias": None}, "b": rng.random((3, 2, 2)) < ratio}


def expected(a, b):
    """From sets of positions."""
    leaves = [jax.tree.leaves(tree) for tree in (a, b)]
    one, other = ({(i, int(j)) for i, leaf in enumerate(of) for j in np.flatnonzero(leaf)} for of in leaves)
    size = sum(leaf.size for leaf in leaves[0])
    return len(one & other) / len(one), len(one & other) / len(one | other), 1 - len(one ^ other) / size


def test_measures_are_those_of_sets():
    a, b = random_mask(0), random_mask(1, 0.5)
    np.testing.assert_allclose(overlap.between(a, b), expected(a, b), rtol=1e-15)
    np.testing.assert_allclose(overlap.between(b, a), expected(b, a), rtol=1e-15)
    assert overlap.between(a, b).shared == masks.overlap(a, b)
    layers = overlap.per_layer(a, b)
    assert list(layers) == ["a/kernel", "b"]
    np.testing.assert_allclose(layers["b"], expected({"b": a["b"]}, {"b": b["b"]}), rtol=1e-15)
    assert overlap.between(a, a) == (1, 1, 1)


def test_what_table_4_of_lottery_jackpots_means_by_97_percent():
    """At 90 % sparsity 85.7 % of the kept weights in common are 97.1 % by Eq. 7, and by chance it gives 82 %."""
    index = np.arange(70_000)
    a, b = index < 7_000, (index >= 1_000) & (index < 8_000)
    got = overlap.between([a], [b])
    assert (round(got.shared, 3), round(got.eq7, 3)) == (0.857, 0.971)
    assert got.eq7 == pytest.approx(1 - 2 * (1 - 0.9) * (1 - got.shared))
    chance = overlap.by_chance([a], [b])
    assert (chance.shared, round(chance.eq7, 12)) == (0.1, 0.82)


def _all_masks(size, kept):
    return [np.isin(np.arange(size), chosen) for chosen in itertools.combinations(range(size), kept)]


def test_chance_is_the_mean_over_all_pairs_of_masks():
    sizes, kept = (4, 3), ((2, 1), (1, 2))  # of each layer: what a and b keep
    layers = [[_all_masks(n, k) for n, k in zip(sizes, of, strict=True)] for of in zip(*kept, strict=True)]
    all_a, all_b = ([list(pair) for pair in itertools.product(*of)] for of in layers)
    every = np.array([overlap.between(a, b) for a in all_a for b in all_b])
    chance = overlap.by_chance(all_a[0], all_b[0])
    np.testing.assert_allclose([chance.shared, chance.eq7], every.mean(0)[[0, 2]], rtol=1e-14)
    num_a, num_b = masks.num_kept(all_a[0]), masks.num_kept(all_b[0])
    both = every[:, 0] * num_a
    np.testing.assert_allclose(chance.jaccard, both.mean() / (num_a + num_b - both).mean(), rtol=1e-14)
    assert chance.jaccard < every[:, 1].mean() < chance.jaccard + 1 / (num_a + num_b)  # as the docstring says
    alone = overlap.by_chance_per_layer(all_a[0], all_b[0])
    assert alone["0"] == overlap.by_chance(all_a[0][:1], all_b[0][:1])


def test_chance_is_what_shuffling_gives():
    a, b = random_mask(0), random_mask(1, 0.5)
    rng = np.random.default_rng(2)
    drawn = []
    for _ in range(200):
        other = jax.tree.map(lambda m: rng.permutation(m.ravel()).reshape(m.shape), b)
        drawn.append(sum(int((x & y).sum()) for x, y in zip(*map(jax.tree.leaves, (a, other)), strict=True)))
    expected = overlap.by_chance(a, b).shared * masks.num_kept(a)
    assert abs(np.mean(drawn) - expected) < 4 * np.std(drawn) / np.sqrt(200)


def test_nothing_kept_and_nothing_to_keep():
    none, some = [np.zeros(3, bool)], [np.array([True, False, False])]
    assert overlap.between(none, some) == (1, 0, pytest.approx(2 / 3))
    assert overlap.between(none, none) == overlap.by_chance(none, none) == (1, 1, 1)
    assert overlap.between([None], [None]) == overlap.by_chance([np.zeros(0, bool)], [np.zeros(0, bool)]) == (1, 1, 1)


def test_common_masks():
    a, b = random_mask(0), random_mask(1)
    both, either = (jax.tree.leaves(overlap.common(a, b, where)) for where in ("both", "either"))
    for x, y, p, q in zip(*map(jax.tree.leaves, (a, b)), both, either, strict=True):
        np.testing.assert_array_equal(p, x & y)
        np.testing.assert_array_equal(q, x | y)
    same = overlap.common(a, a)
    assert all(map(np.array_equal, jax.tree.leaves(same), jax.tree.leaves(a)))
    with pytest.raises(
        ValueError, match=r"got masks that differ in 2 layers, a/kernel first \(of what the first keeps"
    ):
        overlap.common(a, b)
    with pytest.raises(ValueError, match="got masks that differ in b "):
        overlap.common(a, a | {"b": ~a["b"]})
    with pytest.raises(ValueError, match="expected 'equal', 'both' or 'either', got 'all'"):
        overlap.common(a, b, "all")
    with pytest.raises(ValueError, match="b: expected the structure of a"):
        overlap.between(a, {"a": a["a"]})
