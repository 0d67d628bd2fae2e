"""rare_gems.sanity: the edits between search and finetuning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks, sanity, transforms
from rare_gems.phase import Context, Ticket


def make_ticket():
    rng = np.random.default_rng(0)
    mask = {"a": jnp.asarray(rng.random((6, 8)) < 0.5), "b": None, "c": jnp.asarray(rng.random((5, 5)) < 0.2)}
    params = {
        "a": jnp.float32(rng.normal(size=(6, 8))),
        "b": jnp.ones(3),
        "c": jnp.float32(rng.normal(size=(5, 5))),
    }
    return Ticket(params, masks.map_kept(jnp.abs, params, mask), mask)


def context(seed):
    return Context(jnp.int32(0), jax.random.key(seed), None, None)


def same(a, b):
    return jax.tree.all(jax.tree.map(jnp.array_equal, a, b))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_shuffle(scope):
    ticket = make_ticket()
    (phase,) = (transforms.edit(sanity.shuffle(scope)),)
    state = phase.after.init(ticket)
    outs = [jax.jit(phase.after.update)(ticket, state, context(seed))[0] for seed in range(6)]
    before = masks.layer_counts(ticket.mask)
    for out in outs:
        assert same((out.params, out.scores), (ticket.params, ticket.scores))
        assert jax.tree.structure(out.mask) == jax.tree.structure(ticket.mask)
        masks.check(out.mask, masks.num_kept(ticket.mask))
        assert not same(out.mask, ticket.mask)
    assert not same(outs[0].mask, outs[1].mask)
    kept = [masks.layer_counts(out.mask) == before for out in outs]
    assert all(kept) if scope == "layer" else not all(kept)
    again, _ = phase.after.update(ticket, state, context(0))
    assert same(again, outs[0])


def test_shuffle_scope_is_checked():
    with pytest.raises(ValueError, match=r"expected 'global' or 'layer', got 'rows'"):
        sanity.shuffle("rows").update(make_ticket(), (), context(0))
