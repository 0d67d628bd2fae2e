"""What is said to depend on the images, or to be needed, against what changes when each number is changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rare_gems.analysis.operands import Operand
from rare_gems.analysis.signals import follow, needed

X, W = (1, 4, 4, 2), (6, 4)  # of the images and of the weights, some of which are zero


def rows(x):
    return x.reshape(16, 2)[:, 0][:6] + 0.0


def _grouped(w, x):
    kernel = w[:4, :2].reshape(2, 2, 1, 2)
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 2), "SAME", dimension_numbers=dimensions, feature_group_count=2)


def _moves(w, x):
    top = jnp.concatenate([w[::2], jnp.flip(w[:1], 1), x[0, :2, :, 1]], 0)
    a, b = jnp.split(lax.pad(top.T, np.float32(0), ((0, 1, 0), (2, -1, 1))), [2])
    moved = jnp.roll(a, 1, 1).reshape(-1), jnp.take(b, jnp.array([2, 0, 0]), axis=1).reshape(-1)
    shifted = lax.dynamic_slice(w, (jnp.int32(2), jnp.int32(1)), (2, 2)).reshape(-1)
    return jnp.concatenate([*moved, shifted, jnp.broadcast_to(x[0, 0, 0, :1], (3,))])


def _writes(w, x):
    into = jnp.zeros(8).at[jnp.array([1, 3, 3, 0, 7, 1])].add(w[:, 0] * rows(x))
    return into.at[2:4].set(x[0, 1, 1]), lax.dynamic_update_slice(w, w[:2, :2] * 2, (jnp.int32(4), jnp.int32(2)))


def _choices(w, x):
    chosen = jnp.where(x[0, 0] > 0, w[:4, :2], w[2:, :2])
    clipped = jnp.clip(x[0, 1] * w[:4, 1:3], -9.0, 9.0)
    known = jnp.where(jnp.arange(4)[:, None] < jnp.full((4, 2), 2), x[0, 2], w[:4, 2:])
    return (
        chosen,
        jnp.maximum(clipped, w[:4, 2:] * x[0, 3]),
        known,
        x[0, 3] / (1 + w[:4, :2] ** 2),
        w[:4, :2] / (2 + x[0, 3]),
    )


def _reductions(w, x):
    y = x[0, 0] * w[:4, :2]
    return y.sum(0), y.max(1), (y + 2).prod(0), lax.cumsum(y, 0), lax.cummax(y, 1, reverse=True), y.mean()


def _activations(w, x):
    y = rows(x)[:, None] * w
    return jax.nn.gelu(y), jax.nn.silu(y), jax.nn.sigmoid(y), jax.nn.elu(y), jax.nn.leaky_relu(y), jax.nn.relu6(y)


def _attention(w, x):
    q, k, v = x[0, :, :, 0] @ w[:4], x[0, :, :, 1] @ w[:4], x[0, 1:] @ w[2:4]
    return jax.nn.softmax(q @ k.T) @ v[0]


def _scan(w, x):
    def one(carry, kernel):
        carry = jnp.tanh(carry @ kernel.reshape(2, 2)) * 2
        return carry, carry * 2

    return lax.scan(one, x[0, 0, :1], w, reverse=True)


def _branches(w, x):
    picked = lax.switch(jnp.int32(1), [lambda: w[0] * 2, lambda: w[1] * x[0, 0, 0, 0]])
    return picked, jax.checkpoint(lambda y: y * w[2, 0])(x[0, 0, 0])


def _calls(w, x):
    twice = jax.custom_vjp(lambda y: y * 2)
    twice.defvjp(lambda y: (y * 2, None), lambda _, g: (g * 2,))
    return jax.jit(twice)(w[:2] @ x[0, 0]), lax.optimization_barrier((w[0], x[0, 0])), jax.vmap(jnp.dot)(w, w[::-1])


def _pooling(w, x):
    return lax.reduce_window(x * w[None, None, :4, :2], -jnp.inf, lax.max, (1, 2, 1, 1), (1, 2, 1, 1), "SAME")


def _loop(w, x):
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * w[0, 0]), (0, x[0, 0]))


# Function of weights and images; whether what is said is exactly what changes, or may be more.
CASES = {
    "dense": (lambda w, x: jax.nn.relu(rows(x) @ w) @ w[:4, :2], True),
    "grouped": (_grouped, True),
    "moves": (_moves, True),
    "writes": (_writes, True),
    "choices": (_choices, True),
    "reductions": (_reductions, True),
    "activations": (_activations, True),
    "pooling": (_pooling, True),
    "attention": (_attention, True),
    "scan": (_scan, True),
    "branches": (_branches, True),
    "calls": (_calls, True),
    "loop": (_loop, False),
    "sort": (lambda w, x: jnp.sort(x[0, 0, :, 0] * w[0]), False),
}  # fmt: skip


def flat(fn):
    return lambda w, x: jnp.concatenate([jnp.ravel(out).astype(jnp.float32) for out in jax.tree.leaves(fn(w, x))])


def changes(fn, w, draws):
    """[numbers of w, results] and [numbers of x, results]: which results change with which numbers, in any draw."""

    def of(w, x):
        out = fn(w, x)
        moved_w = jax.vmap(lambda e: fn(w + e.reshape(W), x))(jnp.eye(w.size) * 0.7)
        moved_x = jax.vmap(lambda e: fn(w, x + e.reshape(X)))(jnp.eye(x.size) * 0.7)
        return abs(moved_w - out[None]) > 1e-5, abs(moved_x - out[None]) > 1e-5

    return (np.asarray(one).any(0) for one in jax.jit(jax.vmap(of, (None, 0)))(w, draws))


@pytest.mark.parametrize("name", CASES)
def test_signals_are_what_changes(name):
    made, is_exact = CASES[name]
    fn, rng = flat(made), np.random.default_rng(0)
    w = rng.normal(size=W).astype(np.float32) * (rng.random(W) < 0.7)
    by_w, by_x = changes(fn, w, (2 * rng.normal(size=(60, *X))).astype(np.float32))
    program = jax.make_jaxpr(fn)(w, np.zeros(X, np.float32))
    live_x = rng.random(X) < 0.5
    x = np.where(live_x, 0, rng.normal(size=X)).astype(np.float32)
    everywhere = follow(program, [Operand(w, np.zeros(W, bool)), Operand(x, np.ones(X, bool))], [True, True], True)
    live = everywhere.outs[0].live
    assert live[by_x.any(0)].all()
    for i in rng.choice(len(live), min(len(live), 6), replace=False):
        need = np.arange(len(live)) == i
        found = needed(everywhere, [need])
        for number, changed in zip(everywhere.inputs, (by_w, by_x), strict=True):
            said = found.get(number, np.zeros(1, bool)).ravel() | np.zeros(len(changed), bool)
            assert said[changed[:, i]].all()
            if is_exact:
                np.testing.assert_array_equal(said, changed[:, i], err_msg=f"{number}, {i}")
    if is_exact:
        np.testing.assert_array_equal(live, by_x.any(0))
