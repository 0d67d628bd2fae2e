"""Distances and angles against NumPy in float64, and what counts in them."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks
from rare_gems.analysis import distance, overlap

RNG = np.random.default_rng(0)
SHAPES = {"conv": (3, 3, 2, 4), "dense": (8, 5)}
MASK = {name: {"kernel": RNG.random(shape) < 0.4, "bias": None} for name, shape in SHAPES.items()}


def draw(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        name: {
            "kernel": rng.normal(size=shape).astype(dtype),
            "bias": rng.normal(size=shape[-1]).astype(dtype),
        }
        for name, shape in SHAPES.items()
    }


def kept_of(params, names=tuple(SHAPES)):
    return np.concatenate([params[name]["kernel"][MASK[name]["kernel"]].astype(np.float64) for name in names])


def expected(x, y):
    cosine = x @ y / math.sqrt((x @ x) * (y @ y))
    return math.sqrt(((x - y) ** 2).sum()), math.degrees(math.acos(cosine))


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_distance_and_angle_are_those_of_the_kept_weights(convert):
    a, b = draw(1), draw(2)
    got = distance.between(*(jax.tree.map(convert, tree) for tree in (a, b, MASK)))
    np.testing.assert_allclose(got, expected(kept_of(a), kept_of(b)), rtol=1e-13)
    layers = distance.per_layer(a, b, MASK)
    assert list(layers) == ["conv/kernel", "dense/kernel"]
    for name in SHAPES:
        want = expected(kept_of(a, [name]), kept_of(b, [name]))
        np.testing.assert_allclose(layers[f"{name}/kernel"], want, rtol=1e-13)
    np.testing.assert_allclose(math.hypot(*(layer.l2 for layer in layers.values())), got.l2, rtol=1e-13)


def test_removed_weights_and_biases_do_not_count():
    a, b = draw(1), draw(2)
    other = jax.tree.map(lambda leaf: leaf.copy(), a)
    for name in SHAPES:
        other[name]["kernel"][~MASK[name]["kernel"]] = np.nan
        other[name]["bias"][:] = 7
    assert distance.between(other, b, MASK) == distance.between(a, b, MASK)
    assert distance.stability_to_pruning(other, b, MASK) == distance.between(a, b, MASK)
    whole = distance.between(a, b, MASK, others=True)
    vectors = [np.concatenate([kept_of(p), *(p[name]["bias"] for name in SHAPES)]) for p in (a, b)]
    np.testing.assert_allclose(whole, expected(*vectors), rtol=1e-13)


def test_small_and_large_angles_keep_their_digits():
    mask = [np.ones(2, bool)]
    for angle in (1e-9, 1e-5, 1.0, 179.999999):
        turned = np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
        got = distance.between([np.array([3.0, 0.0])], [5 * turned], mask).angle
        np.testing.assert_allclose(got, angle, rtol=1e-7)  # arccos of the cosine would give 0 for the first
    assert distance.between([np.ones(2)], [2 * np.ones(2)], mask).angle == 0
    assert math.isnan(distance.between([np.zeros(2)], [np.ones(2)], mask).angle)


def test_pairs_of_trainings():
    samples = [draw(seed) for seed in range(4)]
    got = distance.pairs(samples, MASK)
    assert got == tuple(distance.between(a, b, MASK) for a, b in itertools.combinations(samples, 2))
    assert len(got) == 6
    with pytest.raises(ValueError, match="expected two trainings or more, got 1"):
        distance.pairs(samples[:1], MASK)


def test_masks_that_differ():
    a, b = draw(1), draw(2)
    other = jax.tree.map(lambda m: RNG.random(m.shape) < 0.5, MASK)
    both, either = (overlap.common(MASK, other, where) for where in ("both", "either"))
    flat = [np.concatenate([np.asarray(m["kernel"]).ravel() for m in tree.values()]) for tree in (MASK, other)]
    x, y = (np.concatenate([p[name]["kernel"].ravel() for name in SHAPES]).astype(float) for p in (a, b))
    got = distance.between(a, b, both)
    np.testing.assert_allclose(got.l2, np.linalg.norm((x - y)[flat[0] & flat[1]]), rtol=1e-13)
    own = distance.between(masks.apply(a, MASK), masks.apply(b, other), either)
    np.testing.assert_allclose(own.l2, np.linalg.norm(x * flat[0] - y * flat[1]), rtol=1e-13)


def test_other_trees_are_refused():
    a, b = draw(1), draw(2)
    b["dense"]["kernel"] = b["dense"]["kernel"].T
    with pytest.raises(ValueError, match=r"b of dense/kernel: expected shape \(8, 5\) as its mask has, got \(5, 8\)"):
        distance.between(a, b, MASK)
    with pytest.raises(ValueError, match="b: expected params in the structure of the mask"):
        distance.per_layer(a, {"conv": b["conv"]}, MASK)
    with pytest.raises(ValueError, match="expected dtype bool"):
        distance.between(a, a, a)


def test_two_leaves_of_one_name():
    mask = {"a": {"b": np.ones(3, bool)}, "a/b": np.ones(5, bool)}
    a, b = ({"a": {"b": np.full(3, x)}, "a/b": np.full(5, x)} for x in (0.0, 1.0))
    assert distance.between(a, b, mask).l2 == pytest.approx(math.sqrt(8))
    assert overlap.between(mask, mask).shared == overlap.by_chance(mask, mask).eq7 == 1
    for by_name in (
        lambda: distance.per_layer(a, b, mask), lambda: overlap.per_layer(mask, mask), lambda: masks.layer_counts(mask)
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected leaves of different names, got two that are called a/b"):
            by_name()
