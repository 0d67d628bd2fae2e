"""Whole shares of a traced total, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems.pruners.parts.shares import share_out
from tests.golden.make_trained_scores import shared_out


def test_shares_are_exact_proportional_and_never_above_the_room():
    rng = np.random.default_rng(3)
    share = jax.jit(share_out)
    for _ in range(200):
        room = rng.integers(0, 60, size=5)
        total, weights = int(rng.integers(0, room.sum() + 1)), rng.uniform(0.05, 1, size=5)
        got = np.asarray(share(jnp.int32(total), jnp.float32(weights), jnp.int32(room)))
        assert got.sum() == total
        assert (got >= 0).all()
        assert (got <= room).all()
        if total < room.sum():
            np.testing.assert_array_equal(got, shared_out(total, np.float64(np.float32(weights)), room))


def test_extremes():
    share = jax.jit(share_out)
    cases = [
        (9, [0, 0, 0, 0, 0], [3, 3, 3, 3, 3], None),  # nothing tells: by room
        (4, [1, 0, 0, 0, 0], [5, 9, 9, 9, 9], [4, 0, 0, 0, 0]),
        (7, [1, 0, 0, 0, 0], [5, 2, 0, 0, 0], [5, 2, 0, 0, 0]),  # no weight, but all others are full
        (99, [1, 1, 1, 1, 1], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),
        (0, [1, 1, 1, 1, 1], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0]),
        (5_000_001, [3, 1, 1e-20, 1, 1], [20_000_000] * 5, None),  # beyond what float32 counts
    ]
    for total, weights, room, wanted in cases:
        got = np.asarray(
            share(jnp.int32(total), jnp.float32(jnp.array(weights, jnp.float32)), jnp.int32(np.array(room)))
        )
        assert got.sum() == min(total, sum(room))
        assert (got <= room).all()
        assert wanted is None or got.tolist() == wanted
