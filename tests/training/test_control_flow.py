"""What counts as control flow, at any depth."""

import jax
import jax.numpy as jnp
import pytest

from rare_gems import masks
from rare_gems.training import control_flow


@pytest.mark.parametrize(
    ("fn", "found"),
    [
        (lambda x: x + 1, set()),
        (lambda x: jnp.clip(x, 0, 1), set()),
        (lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), {"cond"}),
        (jax.jit(lambda x: jnp.sort(jnp.sin(x))), {"sort"}),
        (lambda x: jax.lax.fori_loop(0, x[0].astype(int), lambda i, y: y + i, x), {"while"}),
        (lambda x: jax.lax.cond(x[0] > 0, jnp.sort, jnp.cos, x), {"cond", "sort"}),
    ],
)
def test_names(fn, found):
    assert control_flow.names(fn, jnp.ones(3)) == found


def test_a_selection_has_a_loop():
    assert control_flow.names(lambda x: masks.keep_top([x], 1), jnp.ones(3)) & {"while", "scan"}
