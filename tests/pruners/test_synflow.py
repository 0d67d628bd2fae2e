"""SynFlow against stored rounds, in networks too deep for float32, and where its rivals lose a layer."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rare_gems import masks
from rare_gems.pruners.snip import snip
from rare_gems.pruners.synflow import log_flow, synflow
from tests.pruners.test_snip import GOLDEN, KEY, batch_norm_case, close, kernels, make_ticket, same, searched


def with_biases(params, state, images, train):
    assert train is False
    x = images
    for i in range(0, len(params), 2):
        x = x @ params[i] + params[i + 1][None]
        x = jax.nn.relu(x) if i + 2 < len(params) else x
    return x, state


def chain(params, state, images, train):
    assert train is False
    x = images
    for i, w in enumerate(params):
        x = x @ w
        x = jax.nn.relu(x) if i + 1 < len(params) else x
    return x, state


def draw(widths, gain=2**0.5, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.float32(rng.normal(size=s) * gain / s[0] ** 0.5) for s in itertools.pairwise(widths)]


def no_batch(_):
    return jnp.full((4, 3), jnp.nan)


def test_golden():
    ticket = make_ticket()
    shapes = jax.eval_shape(lambda: ticket.mask)
    (phase,) = synflow(shapes, sparsity=0.9, apply=with_biases, image_shape=(6,), rounds=3)
    *rounds, end = searched(phase, ticket, [no_batch(0)])
    before = ticket.mask
    for got, want in zip(rounds, GOLDEN["synflow"], strict=True):
        # The ticket's params are unmasked: scores of weights already gone mean nothing, nor are they looked at.
        kept = [np.where(q, s, 0) for q, s in zip(kernels(before), kernels(got.scores), strict=True)]
        close(kept, want["scores"], rtol=1e-5)
        same(kernels(got.mask), [np.array(q, bool) for q in want["mask"]])
        before = got.mask
    assert [masks.num_kept(t.mask) for t in rounds] == [80, 37, 17]  # 172 * 0.1^(r / 3)
    same(end.mask, rounds[-1].mask)


def test_every_layer_of_a_chain_carries_the_whole_flow():
    ticket = make_ticket(draw((8, 24, 24, 24, 4)))
    (phase,) = synflow(ticket.mask, sparsity=0.9, apply=chain, image_shape=(8,), rounds=5)
    before = ticket.mask
    for now in searched(phase, ticket, [no_batch(0)])[:-1]:
        for q, s in zip(kernels(before), kernels(now.scores), strict=True):
            np.testing.assert_allclose(np.where(q, s, 0).sum(dtype=np.float64), 1, rtol=1e-5)
        before = now.mask


@pytest.mark.parametrize("decades", [100, -100, 40])
def test_deep_networks(decades):
    """100 layers whose flow no float32 holds, against float64 NumPy."""
    widths = (6,) * 101
    params = [np.float64(w) for w in draw(widths)]
    logs = 0.0
    x = np.ones(6)
    for w in params:
        x = x @ np.abs(w)
        logs, x = logs + np.log10(x.sum()), x / x.sum()
    scale = 10 ** ((decades - logs) / 100)
    params = [np.float64(np.float32(w * scale)) for w in params]
    forward, backward = [np.ones(6)], [np.ones(6)]
    for w in params:
        forward.append(forward[-1] @ np.abs(w))
    for w in params[::-1]:
        backward.append(np.abs(w) @ backward[-1])
    total = forward[-1].sum()
    assert abs(np.log10(total) - decades) < 1e-3
    flow = jax.jit(jax.value_and_grad(log_flow(chain, (6,)), has_aux=True))
    floats = [jnp.float32(w) for w in params]
    (value, (state, _)), grads = flow(floats, {}, None, KEY)
    assert state == {}
    np.testing.assert_allclose(value, np.log(total), rtol=1e-6)
    assert all(g.dtype == jnp.float32 for g in grads)
    got = np.stack([np.asarray(g) * np.asarray(w) for g, w in zip(grads, floats, strict=True)])
    want = np.stack([np.abs(w) * np.outer(forward[i], backward[99 - i]) / total for i, w in enumerate(params)])
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_dead_network_scores_zero():
    params = draw((4, 6, 6, 3))
    params[1] = jnp.zeros((6, 6))
    (value, _), grads = jax.jit(jax.value_and_grad(log_flow(chain, (4,)), has_aux=True))(params, {}, None, KEY)
    assert np.isfinite(value)
    assert all(np.isfinite(np.asarray(g)).all() for g in grads)
    ticket = make_ticket(params)
    (phase,) = synflow(ticket.mask, sparsity=0.8, apply=chain, image_shape=(4,), rounds=4)
    *rounds, end = searched(phase, ticket, [no_batch(0)])
    assert not any(np.asarray(s).any() for s in rounds[0].scores)
    masks.check(end.mask, 16)  # 78 - 62.4


def test_under_vmap_and_scan():
    """A flow of 1e60, under every order of vmap, jit and scan that would trace it again in 32 bits."""
    stacks = [jnp.stack(pair) * 1e20 for pair in zip(draw((5, 7, 6, 3)), draw((5, 7, 6, 3), seed=1), strict=True)]
    flow = jax.jit(lambda params: jax.grad(log_flow(chain, (5,)), has_aux=True)(params, {}, None, KEY)[0])
    scan = lambda params: jax.lax.scan(lambda c, p: (c, flow(p)), 0, params)[1]  # noqa: E731
    got = [jax.jit(jax.vmap(flow))(stacks), scan(stacks)]
    nested = [jnp.stack([w, w]) for w in stacks]
    got += [[w[1] for w in many] for many in (jax.jit(jax.vmap(scan))(nested), jax.vmap(jax.vmap(flow))(nested))]
    for i in range(2):
        alone = kernels(flow([w[i] for w in stacks]))
        assert all(np.isfinite(w).all() and w.any() for w in alone)
        for many in got:
            close([w[i] for w in many], alone, rtol=1e-6)


def test_no_layer_collapses_where_one_shot_and_snip_lose_one():
    ticket = make_ticket(draw((64, 96, 96, 8, 96, 4), gain=1.0))
    options = {"sparsity": 0.997, "apply": chain, "image_shape": (64,)}
    rng = np.random.default_rng(4)
    batch = jnp.float32(rng.normal(size=(16, 64))), jnp.int32(rng.integers(0, 4, size=16))

    def loss_fn(params, state, batch, key):
        logits = chain(params, state, batch[0], False)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean(), (state, jnp.float32(0))

    phases = {
        "snip": snip(ticket.mask, sparsity=0.997, loss_fn=loss_fn),
        "once": synflow(ticket.mask, rounds=1, **options),
        "often": synflow(ticket.mask, **options),
    }
    ends = {name: searched(phase, ticket, [batch], loss_fn=loss_fn)[-1] for name, (phase,) in phases.items()}
    fewest = {name: min(kept for kept, _ in masks.layer_counts(end.mask).values()) for name, end in ends.items()}
    assert len({masks.num_kept(end.mask) for end in ends.values()}) == 1
    assert fewest["snip"] == fewest["once"] == 0 < fewest["often"]
    flows = [np.abs(w) for w in kernels(masks.apply(ticket.params, ends["often"].mask))]
    assert np.linalg.multi_dot(flows).any()  # some path is whole


def test_batch_norm_and_integers_in_the_state():
    model, ticket, state, loss_fn, batch = batch_norm_case()
    state = {"network": state, "steps": np.int32(-3)}

    def apply(params, state, images, train):
        assert state["steps"].dtype == jnp.int32  # as it is, whatever the floats
        return model.apply(params, state["network"], images, train)[0], state

    (phase,) = synflow(ticket.mask, sparsity=0.98, apply=apply, image_shape=(8, 8, 3), rounds=20)
    one, *_, end = searched(phase, ticket, [batch], state, loss_fn)
    counts = masks.layer_counts(end.mask)
    assert sum(kept for kept, _ in counts.values()) == masks.count_for(masks.num_prunable(end.mask), 0.98)
    assert min(kept for kept, _ in counts.values()) > 0
    np.testing.assert_allclose(float(np.asarray(one.scores["linear"]["kernel"]).sum()), 1, rtol=1e-5)


def test_inverted_keeps_the_lowest():
    ticket = make_ticket()
    options = {"sparsity": 0.5, "apply": with_biases, "image_shape": (6,), "rounds": 1}
    high, low = (
        searched(synflow(ticket.mask, invert=invert, **options)[0], ticket, [no_batch(0)])[-1]
        for invert in (False, True)
    )
    assert masks.overlap(high.mask, low.mask) == 0


def test_errors():
    for changes, match in [
        ({"sparsity": 0.999}, r"0.999 keeps none of 172 weights"),
        ({"rounds": 0}, r"rounds: expected 1 or more, got 0"),
        ({"image_shape": ()}, r"image_shape: expected positive integers, got \(\)"),
        ({"image_shape": (32, -1)}, r"image_shape: expected positive integers, got \(32, -1\)"),
    ]:
        with pytest.raises(ValueError, match=match):
            synflow(make_ticket().mask, **{"sparsity": 0.9, "apply": chain, "image_shape": (6,), **changes})
