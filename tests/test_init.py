"""rare_gems.init: the distributions by their moments, the fan by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import init, masks

DRAWS = [init.signed_constant, init.kaiming_normal, init.uniform]
PARAMS = {
    "conv": {"kernel": jnp.zeros((3, 3, 8, 64)), "bias": jnp.arange(64.0)},
    "head": [jnp.zeros((50, 80)), jnp.ones(80)],
    "twin": jnp.zeros((50, 80)),
}
MASK = masks.ones(PARAMS)
FANS = [("conv", 72), ("head", 50)]


def kernels(tree):
    return {"conv": np.float64(tree["conv"]["kernel"]), "head": np.float64(tree["head"][0])}


@pytest.mark.parametrize("draw", DRAWS)
def test_variance_is_two_over_fan_in(draw):
    out = draw(jax.random.key(0), PARAMS, MASK)
    assert jax.tree.structure(out) == jax.tree.structure(PARAMS)
    for name, fan in FANS:
        w = kernels(out)[name]
        std = np.sqrt(2 / fan)
        assert abs(w.mean()) < 5 * std / np.sqrt(w.size)
        np.testing.assert_allclose(w.std(), std, rtol=5 / np.sqrt(2 * w.size))


@pytest.mark.parametrize("draw", DRAWS)
def test_draws_only_what_is_prunable_and_each_leaf_anew(draw):
    out = draw(jax.random.key(0), PARAMS, MASK)
    assert out["conv"]["bias"] is PARAMS["conv"]["bias"]
    assert out["head"][1] is PARAMS["head"][1]
    assert not jnp.array_equal(out["twin"], out["head"][0])
    again, other = draw(jax.random.key(0), PARAMS, MASK), draw(jax.random.key(1), PARAMS, MASK)
    assert jnp.array_equal(out["twin"], again["twin"])
    assert not jnp.array_equal(out["twin"], other["twin"])
    assert all(not leaf.any() for leaf in kernels(PARAMS).values())  # the input is left alone


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_keeps_the_dtype(draw, dtype):
    params = [jnp.zeros((8, 100), dtype), None]
    out = draw(jax.random.key(0), params, masks.ones(params))
    assert out[0].dtype == dtype
    np.testing.assert_allclose(np.float64(out[0].astype(jnp.float32)).std(), 0.5, rtol=0.13)


@pytest.mark.parametrize("draw", DRAWS)
def test_empty_leaves(draw):
    params = {"empty": jnp.zeros((0, 3)), "full": jnp.zeros((2, 3))}
    out = draw(jax.random.key(0), params, masks.ones(params))
    assert out["empty"].shape == (0, 3)
    assert jnp.all(out["full"] != 0)


def test_signed_constant_takes_two_values():
    out = kernels(init.signed_constant(jax.random.key(3), PARAMS, MASK))
    for name, fan in FANS:
        values, counts = np.unique(out[name], return_counts=True)
        np.testing.assert_allclose(values, [-np.sqrt(2 / fan), np.sqrt(2 / fan)], rtol=1e-6)
        assert abs(counts[0] - counts[1]) < 5 * np.sqrt(counts.sum())


def test_kaiming_normal_is_normal():
    w = kernels(init.kaiming_normal(jax.random.key(4), PARAMS, MASK))["head"] / np.sqrt(2 / 50)
    np.testing.assert_allclose((w**4).mean(), 3, rtol=0.3)
    np.testing.assert_allclose((np.abs(w) < 1).mean(), 0.6827, atol=0.04)


def test_uniform_is_uniform():
    w = kernels(init.uniform(jax.random.key(5), PARAMS, MASK))["head"] / np.sqrt(6 / 50)
    assert np.abs(w).max() <= 1
    assert np.abs(w).max() > 0.99
    hits, _ = np.histogram(w, bins=10, range=(-1, 1))
    assert ((hits - 400) ** 2 / 400).sum() < 30  # chi-square with 9 degrees of freedom: 1 in 2000


def test_works_abstractly():
    out = jax.eval_shape(lambda key: init.kaiming_normal(key, PARAMS, MASK), jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, out) == jax.tree.map(lambda x: x.shape, PARAMS)


def test_uniform_scores():
    scores = init.uniform_scores(jax.random.key(6), MASK)
    assert jax.tree.structure(scores) == jax.tree.structure(MASK)
    assert scores["conv"]["bias"] is None
    flat = np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(scores)])
    assert flat.dtype == np.float32
    assert flat.min() >= 0
    assert flat.max() < 1
    hits, _ = np.histogram(flat, bins=10, range=(0, 1))
    expected = flat.size / 10
    assert ((hits - expected) ** 2 / expected).sum() < 30
    assert not jnp.array_equal(scores["twin"], scores["head"][0])

    shapes = jax.eval_shape(lambda: MASK)
    assert jnp.array_equal(init.uniform_scores(jax.random.key(6), shapes)["twin"], scores["twin"])
    assert init.uniform_scores(jax.random.key(6), {"a": None}) == {"a": None}
    with jax.enable_x64(True):
        again = init.uniform_scores(jax.random.key(6), MASK)["twin"]
    assert (again.dtype, again.tolist()) == (jnp.float32, scores["twin"].tolist())


@pytest.mark.parametrize("draw", [init.signed_constant, init.kaiming_normal, init.uniform])
def test_a_scaled_fan_counts_what_is_kept(draw):
    params, mask, key = {"kernel": jnp.zeros((8, 4))}, {"kernel": jnp.ones((8, 4), bool)}, jax.random.key(0)
    whole, quarter = (np.asarray(draw(key, params, mask, k)["kernel"]) for k in (1.0, 0.25))
    np.testing.assert_allclose(quarter, 2 * whole, rtol=1e-6)
    with pytest.raises(ValueError, match="keep_ratio: expected a number in"):
        draw(key, params, mask, 0.0)
