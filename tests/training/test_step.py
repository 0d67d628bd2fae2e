"""What a scan carries of the weights that the network sees, and that a step takes it for its own."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from rare_gems import transforms, views
from rare_gems.phase import Phase, Ticket
from rare_gems.training import step as steps
from rare_gems.training.carry import begin

IDENTITY = transforms.identity()


def _begun(view):
    ticket = Ticket(
        {"w": jnp.array([1.0, -2.0, 3.0]), "b": jnp.array([0.5]), "n": jnp.array([7])},
        {"w": jnp.array([0.3, 0.6, 0.9]), "b": None, "n": None},
        {"w": jnp.array([True, False, True]), "b": None, "n": None},
    )
    phase = Phase(view, "params", optax.sgd(0.5), IDENTITY, IDENTITY, 4)
    return phase, begin(phase, ticket, jnp.int32(0), jax.random.key(0))


def _loss(params, state, batch, key):
    return batch * jnp.square(params["w"]).sum() + jnp.square(params["b"]).sum(), (state, jnp.float32(0))


def test_only_what_is_not_the_tickets_own_is_carried():
    phase, carry = _begun(views.masked)
    got = jax.jit(lambda carry: steps.seen(phase, carry))(carry)
    chex.assert_trees_all_equal(got, {"w": jnp.array([1.0, 0.0, 3.0]), "b": None, "n": None})
    phase, carry = _begun(lambda ticket, step, key: ticket.params)
    assert jax.tree.leaves(steps.seen(phase, carry)) == []


@pytest.mark.parametrize("view", [views.masked, lambda ticket, step, key: ticket.params], ids=["masked", "dense"])
def test_a_step_with_it_is_the_step_without(view):
    phase, carry = _begun(view)
    descend, _ = steps.step_parts(_loss, phase)
    alone = jax.jit(lambda carry: descend(carry, jnp.float32(2))[0])(carry)
    known = jax.jit(lambda carry: descend(carry, jnp.float32(2), steps.seen(phase, carry))[0])(carry)
    chex.assert_trees_all_equal(*(c._replace(key=None) for c in (alone, known)))
    assert alone.ticket.params["b"].item() == 0  # 0.5 - 0.5 * 2 * 0.5


def test_what_is_known_is_what_the_network_sees():
    phase, carry = _begun(views.masked)
    descend, _ = steps.step_parts(_loss, phase)
    other = {"w": jnp.array([10.0, 0.0, 0.0]), "b": None, "n": None}
    after, _ = descend(carry, jnp.float32(2), other)
    assert after.totals.loss.item() == 2 * 100 + 0.25
