"""rare_gems.sanity: the edits between search and finetuning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import init, masks, sanity, transforms
from rare_gems.phase import Context, Ticket
from rare_gems.pruners.parts.random_scores import random_scores
from tests.toy import make_toy


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


def test_random_ticket_is_a_layerwise_shuffle_of_another_draw():
    ticket = make_ticket()
    update = jax.jit(sanity.random_ticket().update)
    out, _ = update(ticket, (), context(0))
    assert same((out.params, out.scores), (ticket.params, ticket.scores))
    assert masks.layer_counts(out.mask) == masks.layer_counts(ticket.mask)
    assert not same(out.mask, sanity.shuffle("layer").update(ticket, (), context(0))[0].mask)
    assert not same(out.mask, update(ticket, (), context(1))[0].mask)


def test_random_ticket_is_uniform():
    ticket = make_ticket()
    keys = jax.random.split(jax.random.key(0), 4000)
    update = sanity.random_ticket().update
    drawn = jax.jit(jax.vmap(lambda k: update(ticket, (), Context(0, k, None, None))[0].mask))(keys)
    for name in ("a", "c"):
        share = float(np.mean(np.asarray(ticket.mask[name])))
        spread = (share * (1 - share) / 4000) ** 0.5
        np.testing.assert_allclose(np.mean(np.asarray(drawn[name]), 0), share, atol=4.5 * spread)


@pytest.mark.parametrize("draw", [init.signed_constant, init.kaiming_normal])
def test_reinit(draw):
    ticket = make_ticket()
    out, _ = jax.jit(sanity.reinit(draw).update)(ticket, (), context(3))
    assert same((out.mask, out.scores), (ticket.mask, ticket.scores))
    assert same(out.params["b"], ticket.params["b"])
    key = jax.random.fold_in(context(3).key, 2)
    assert same(out.params, jax.jit(draw)(key, ticket.params, ticket.mask))
    for name, fan_in in (("a", 6), ("c", 5)):
        assert not np.any(np.asarray(out.params[name]) == np.asarray(ticket.params[name]))
        if draw is init.signed_constant:
            np.testing.assert_allclose(np.abs(out.params[name]), (2 / fan_in) ** 0.5, rtol=1e-6)


def bits(x):
    return np.sort(np.asarray(x).reshape(-1).view(np.uint16 if x.dtype == jnp.bfloat16 else np.uint32))


def odd_ticket():
    """Values whose bits are easily lost (NaN with a payload, -0, denormal, infinite), and layers of two dtypes."""
    odd = np.array([0x7FC12345, 0x80000000, 0x00000001, 0x7F800000, 0x3F800000, 0x3F800000], np.uint32)
    ticket = make_ticket()
    params = dict(ticket.params)
    params["a"] = jnp.asarray(np.concatenate([odd.view(np.float32), np.arange(42, dtype=np.float32)]).reshape(6, 8))
    params["c"] = params["c"].astype(jnp.bfloat16)
    mask = dict(ticket.mask)
    mask["d"] = jnp.zeros((2, 3), bool)
    mask["e"] = jnp.ones((7, 1), bool)
    mask["f"] = jnp.ones((0, 4), bool)
    params |= {"d": jnp.arange(6.0).reshape(2, 3), "e": jnp.arange(7.0).reshape(7, 1), "f": jnp.zeros((0, 4))}
    return Ticket(params, jax.tree.map(lambda m: m.astype(jnp.float32), mask), mask)


@pytest.mark.parametrize("within", ["kept", "all"])
@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f])
def test_shuffle_weights_moves_every_bit(within, wrap):
    ticket = odd_ticket()
    update = wrap(sanity.shuffle_weights(within).update)
    out, _ = update(ticket, (), context(0))
    assert same((out.mask, out.scores), (ticket.mask, ticket.scores))
    assert same(out.params["b"], ticket.params["b"])
    for name, m in ticket.mask.items():
        if m is None:
            continue
        old, new, kept = (np.asarray(x) for x in (ticket.params[name], out.params[name], m))
        assert (new.dtype, new.shape) == (old.dtype, old.shape)
        np.testing.assert_array_equal(bits(new), bits(old))
        if within == "kept":
            np.testing.assert_array_equal(bits(new[kept]), bits(old[kept]))
            unsigned = f"u{old.dtype.itemsize}"
            np.testing.assert_array_equal(new[~kept].view(unsigned), old[~kept].view(unsigned))
        if name in ("a", "c", "e") or (name == "d" and within == "all"):
            assert new.tobytes() != old.tobytes()
    assert update(ticket, (), context(1))[0].params["e"].tolist() != out.params["e"].tolist()


@pytest.mark.parametrize("within", ["kept", "all"])
def test_shuffle_weights_is_uniform_and_each_layer_for_itself(within):
    mask = {"a": jnp.array([True, False, True, True]), "b": jnp.array([True, True])}
    ticket = Ticket({"a": jnp.arange(4.0), "b": jnp.arange(2.0)}, mask, mask)
    update = sanity.shuffle_weights(within).update
    keys = jax.random.split(jax.random.key(1), 6000)
    out = jax.jit(jax.vmap(lambda k: update(ticket, (), Context(0, k, None, None))[0].params))(keys)
    orders, counts = np.unique(np.concatenate([out["a"], out["b"]], 1), axis=0, return_counts=True)
    expected = 12 if within == "kept" else 48  # 3! 2! and 4! 2!
    assert len(orders) == expected
    mean = 6000 / expected
    assert np.sum((counts - mean) ** 2 / mean) < expected + 4.5 * (2 * expected) ** 0.5  # chi squared


def test_shuffle_weights_is_checked():
    with pytest.raises(ValueError, match=r"within: expected 'kept' or 'all', got 'layer'"):
        sanity.shuffle_weights("layer")


@pytest.mark.parametrize(
    "transform",
    [sanity.random_ticket(), sanity.reinit(init.kaiming_normal), sanity.shuffle_weights("kept"),
     sanity.shuffle_weights("all")],
)  # fmt: skip
def test_edits_under_vmap_and_sharded(transform):
    ticket = make_toy().ticket
    ticket = ticket._replace(mask=masks.keep_top(ticket.scores, 60))
    phase = transforms.edit(transform)

    def run(ticket, key):
        return phase.after.update(ticket, phase.after.init(ticket), Context(jnp.int32(0), key, None, None))[0]

    keys = jax.random.split(jax.random.key(0), 3)
    singles = [jax.jit(run)(ticket, key) for key in keys]
    assert not same(singles[0], singles[1])
    batched = jax.jit(jax.vmap(run, (None, 0)))(ticket, keys)
    for i, single in enumerate(singles):
        assert same(jax.tree.map(lambda x, i=i: x[i], batched), single)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    placed = jax.tree.map(lambda x: jax.device_put(x, spread if x.shape[0] % 8 == 0 else whole), ticket)
    assert same(jax.jit(run)(placed, keys[0]), singles[0])


@pytest.mark.parametrize("draw", [init.signed_constant, init.kaiming_normal])
def test_a_redrawn_weight_owes_nothing_to_a_mask_that_was_drawn_from_the_same_key(draw):
    """The mask of `random` and the edit are both phase 0 of a run: the same key, and once the same bits."""
    params = {"kernel": jnp.zeros((100, 200))}
    mask = masks.ones(params)
    ticket = Ticket(params, random_scores(Ticket(params, None, mask), context(7)), mask)
    ticket = ticket._replace(mask=masks.keep_top(ticket.scores, 10_000))
    weights = sanity.reinit(draw).update(ticket, (), context(7))[0].params["kernel"]
    kept = np.asarray(weights)[np.asarray(ticket.mask["kernel"])]
    assert abs(np.mean(kept > 0) - 0.5) < 0.025  # five standard deviations


@pytest.mark.parametrize("edit", [sanity.reinit(init.kaiming_normal), sanity.shuffle_weights()])
def test_a_mask_of_another_shape_than_its_parameter_is_refused(edit):
    """Weights came in the shape of the mask, or were permuted by place."""
    ticket = Ticket({"w": jnp.ones((3, 2))}, {"w": None}, {"w": jnp.ones((2, 3), bool)})
    with pytest.raises(ValueError, match=r"mask of w: expected shape \(3, 2\), got \(2, 3\)"):
        edit.update(ticket, (), context(0))
