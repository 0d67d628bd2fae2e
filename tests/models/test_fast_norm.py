"""Batch normalization with its own gradient against float64 NumPy and against autodiff of the definition."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.models.fast_norm import batch_normalize, normalize
from rare_gems.models.platforms import plain_operations

CASES = list(itertools.product([False, True], [False, True], [False, True]))  # shortcut, affine, relu


def draw(shortcut, affine):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 4, 2, 5)) * 2 + 1
    return (
        x,
        rng.standard_normal(x.shape) if shortcut else None,
        rng.standard_normal(5) if affine else None,
        rng.standard_normal(5) if affine else None,
    )


def single(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


def definition(x, shortcut, scale, bias, relu):
    """Two-pass normalization, differentiated by JAX."""
    mean = x.mean((0, 1, 2), keepdims=True)
    y = (x - mean) / jnp.sqrt(jnp.square(x - mean).mean((0, 1, 2), keepdims=True) + 1e-5)
    y = y if scale is None else y * scale[None, None, None] + bias[None, None, None]
    y = y if shortcut is None else y + shortcut
    return jax.nn.relu(y) if relu else y


@pytest.mark.parametrize(("shortcut", "affine", "relu"), CASES)
def test_values_match_float64_numpy(shortcut, affine, relu):
    x, extra, scale, bias = draw(shortcut, affine)
    y, mean, var = jax.jit(batch_normalize, static_argnums=(4, 5))(*single((x, extra, scale, bias)), 1e-5, relu)
    expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    expected = expected * scale + bias if affine else expected
    expected = expected + extra if shortcut else expected
    np.testing.assert_allclose(y, np.maximum(expected, 0) if relu else expected, atol=5e-6)
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var, x.var((0, 1, 2)), rtol=1e-5)
    again = normalize(*single((x, extra)), mean, var, *single((scale, bias)), 1e-5, relu)
    np.testing.assert_allclose(again, y, atol=1e-6)


@pytest.mark.parametrize(("shortcut", "affine", "relu"), CASES)
def test_gradients_match_autodiff_of_the_definition(shortcut, affine, relu):
    arguments = single(draw(shortcut, affine))
    weight = single(np.random.default_rng(2).standard_normal((3, 4, 2, 5)))

    def gradients(fn):
        return jax.jit(jax.grad(lambda args: jnp.vdot(jnp.sin(fn(*args)), weight)))(arguments)

    got = gradients(lambda *args: batch_normalize(*args, 1e-5, relu)[0])
    expected = gradients(lambda *args: definition(*args, relu))
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1, np.abs(b).max()))


def test_second_derivatives_match_autodiff_of_the_definition():
    x, extra, scale, bias = single(draw(True, True))
    weight = single(np.random.default_rng(2).standard_normal((3, 4, 2, 5)))

    def product(fn):
        gradient = jax.grad(lambda x: jnp.vdot(jnp.sin(fn(x)), weight))
        return jax.jit(lambda x: jax.jvp(gradient, (x,), (jnp.cos(x),))[1])(x)

    got = product(lambda x: batch_normalize(x, extra, scale, bias, 1e-5, True)[0])
    expected = product(lambda x: definition(x, extra, scale, bias, True))
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_on_gpus_values_gradients_and_second_derivatives_are_the_same():
    """There sums over places come before those over images, of both moments together."""
    x, extra, scale, bias = single(draw(True, True))
    weight = single(np.random.default_rng(2).standard_normal((3, 4, 2, 5)))

    def everything(x):
        def loss(x):
            y, mean, var = batch_normalize(x, extra, scale, bias, 1e-5, True)
            return jnp.vdot(jnp.sin(y), weight), (y, mean, var)

        gradient, values = jax.grad(loss, has_aux=True)(x)
        return values, gradient, jax.jvp(lambda x: jax.grad(loss, has_aux=True)(x)[0], (x,), (jnp.cos(x),))[1]

    here = jax.jit(everything)(x)
    with plain_operations("gpu"):
        traced = jax.jit(lambda x: everything(x))
        lowered, there = traced.lower(x).as_text(), traced(x)
    assert lowered.count("dimensions = [1, 2]") >= 4
    for a, b in zip(jax.tree.leaves(there), jax.tree.leaves(here), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_a_constant_channel_stays_finite():
    x = jnp.full((2, 2, 2, 1), 0.1)
    y, _, var = batch_normalize(x, None, None, None, 1e-5, True)
    gradient = jax.grad(lambda x: batch_normalize(x, None, None, None, 1e-5, False)[0].sum())(x)
    assert 0 <= float(var[0]) < 1e-6
    assert np.abs(y).max() < 1e-3
    assert np.isfinite(gradient).all()


def test_bfloat16_in_bfloat16_out_with_float32_statistics():
    x, extra, _, _ = draw(True, False)
    x, extra = jnp.asarray(x, jnp.bfloat16), jnp.asarray(extra, jnp.bfloat16)
    y, mean, var = batch_normalize(x, extra, None, None, 1e-5, True)
    assert (y.dtype, mean.dtype, var.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    dx, dextra = jax.grad(lambda *a: batch_normalize(*a, None, None, 1e-5, True)[0].sum(), argnums=(0, 1))(x, extra)
    assert (dx.dtype, dextra.dtype) == (jnp.bfloat16, jnp.bfloat16)
    np.testing.assert_allclose(mean, np.float64(x).mean((0, 1, 2)), rtol=1e-5)
