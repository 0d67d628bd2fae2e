"""rare_gems.ste: discrete values forward, the identity backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import ste

BELOW_HALF = {
    "float32": np.nextafter(np.float32(0.5), np.float32(0)),
    "float16": 0.5 - 2.0**-12,
    "bfloat16": 0.5 - 2.0**-9,
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_round_half_values(dtype):
    scores = jnp.array([0.0, float(BELOW_HALF[dtype]), 0.5, 1.0, 0.49, 0.51, -3.0, 7.0], dtype)
    assert float(scores[1]) < 0.5  # not rounded up by the dtype
    out = ste.round_half(scores)
    assert out.dtype == dtype
    assert out.astype(jnp.float32).tolist() == [0, 0, 1, 1, 0, 1, 0, 1]


def test_round_half_gradient_is_the_identity():
    scores = jnp.array([[0.0, 0.5, 1.0], [0.2, 0.9, -1.0]])
    cotangent = jnp.array([[3.0, -2.0, 0.5], [0.0, 7.0, 1.0]])
    out, pull = jax.vjp(ste.round_half, scores)
    np.testing.assert_array_equal(pull(cotangent)[0], cotangent)
    same, tangent = jax.jvp(jax.jit(ste.round_half), (scores,), (cotangent,))
    np.testing.assert_array_equal(out, same)
    np.testing.assert_array_equal(tangent, cotangent)


def test_drawn_values():
    scores = jnp.array([0.0, 0.3, 0.3, 0.3, 1.0, 1.0])
    noise = jnp.array([0.0, 0.25, 0.3, 0.9, 0.0, 1 - 2.0**-24])
    out = ste.drawn(scores, noise)
    assert out.dtype == jnp.float32
    assert out.tolist() == [0, 1, 0, 0, 1, 1]
    assert ste.drawn(scores.astype(jnp.bfloat16), noise.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_drawn_gradient_is_the_identity():
    scores, noise = jnp.array([0.0, 0.3, 0.5, 1.0]), jnp.array([0.5, 0.1, 0.9, 0.2])
    cotangent = jnp.array([1.0, -2.0, 3.0, -4.0])
    _, pull = jax.vjp(lambda p: ste.drawn(p, noise), scores)
    np.testing.assert_array_equal(pull(cotangent)[0], cotangent)


def test_mask_of():
    scores = jnp.array([2.0, -2.0, 0.1, -0.1, 0.0])
    mask = jnp.array([True, True, False, False, True])
    cotangent = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])
    out, pull = jax.vjp(lambda s: ste.mask_of(s, mask), scores)
    assert out.tolist() == [1, 1, 0, 0, 1]
    assert out.dtype == jnp.float32
    assert pull(cotangent)[0].tolist() == [1, -2, 3, -4, 0]  # also where the mask is False
    assert ste.mask_of(scores.astype(jnp.float16), mask).dtype == jnp.float16


# L(m) = mean (tanh(x (W1 * m1)) (W2 * m2) - y)^2, in float64 with a continuous mask.
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(5, 4)), RNG.normal(size=(5, 2))
W = [RNG.normal(size=(4, 3)), RNG.normal(size=(3, 2))]


def loss_numpy(m):
    return np.mean((np.tanh(X @ (W[0] * m[0])) @ (W[1] * m[1]) - Y) ** 2)


def differences(m, eps=1e-6):
    """Central differences of the loss in every entry of the mask."""
    grads = [np.zeros_like(w) for w in W]
    for layer, grad in enumerate(grads):
        for index in np.ndindex(grad.shape):
            up, down = [x.copy() for x in m], [x.copy() for x in m]
            up[layer][index] += eps
            down[layer][index] -= eps
            grad[index] = (loss_numpy(up) - loss_numpy(down)) / (2 * eps)
    return grads


def loss_jax(m):
    w = [jnp.float32(x) for x in W]
    return jnp.mean((jnp.tanh(jnp.float32(X) @ (w[0] * m[0])) @ (w[1] * m[1]) - jnp.float32(Y)) ** 2)


def check_close(got, want):
    for a, b in zip(got, want, strict=True):
        assert np.abs(b).max() > 1e-2
        np.testing.assert_allclose(np.asarray(a), b, rtol=1e-4, atol=1e-5)


def draw_scores(low, high):
    rng = np.random.default_rng(7)
    return [rng.uniform(low, high, size=w.shape).astype(np.float32) for w in W]


def test_rounded_gradient_is_the_derivative_in_the_mask():
    scores = draw_scores(0, 1)
    grads = jax.grad(lambda p: loss_jax([ste.round_half(x) for x in p]))([jnp.array(p) for p in scores])
    check_close(grads, differences([(p >= 0.5).astype(float) for p in scores]))


def test_drawn_gradient_is_the_derivative_in_the_mask():
    scores, noise = draw_scores(0, 1), [np.float32(np.random.default_rng(9).random(w.shape)) for w in W]
    grads = jax.grad(lambda p: loss_jax([ste.drawn(x, u) for x, u in zip(p, noise, strict=True)]))(
        [jnp.array(p) for p in scores]
    )
    check_close(grads, differences([(u < p).astype(float) for p, u in zip(scores, noise, strict=True)]))


def test_mask_of_gradient_is_the_derivative_times_the_sign():
    scores = draw_scores(-1, 1)
    tops = [np.abs(s) > 0.4 for s in scores]
    grads = jax.grad(lambda s: loss_jax([ste.mask_of(x, jnp.array(t)) for x, t in zip(s, tops, strict=True)]))(
        [jnp.array(s) for s in scores]
    )
    slopes = differences([t.astype(float) for t in tops])
    check_close(grads, [d * np.sign(s) for d, s in zip(slopes, scores, strict=True)])
