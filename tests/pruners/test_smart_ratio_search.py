"""Tuned ratios: SGD on Eq. 1 against float64 NumPy, the choice among candidates, exact counts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rare_gems import init, masks
from rare_gems.phase import Context, Ticket
from rare_gems.pruners import smart_ratio_search as tuned
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.pruners.parts.ratio_candidates import candidates
from rare_gems.training import trainer
from tests.golden.make_gem_miner import gradient
from tests.pruners.parts.test_ratio_candidates import SIZES, fitted


def make_ticket(seed=0, shapes=((6, 10), (10, 4))):
    rng = np.random.default_rng(seed)
    weights = [jnp.float32(rng.normal(size=shape)) for shape in shapes]
    return Ticket(weights, [jnp.zeros(shape) for shape in shapes], masks.ones(weights))


def run(recipe, ticket, loss_fn, batches, key):
    """The carries of the last phase, one a step, and the ticket at the end."""
    carries = []
    for index, phase in enumerate(recipe):
        carry = trainer.begin(phase, ticket, {}, jax.random.fold_in(key, index))
        step = jax.jit(trainer.make_step(loss_fn, phase))
        carries = [carry]
        for i in range(phase.num_steps):
            carry = step(carry, batches[i % len(batches)])
            carries.append(jax.tree.map(jnp.copy, carry))
        ticket = trainer.finish(phase, carry)
    return carries, ticket


def cross_entropy(params, state, batch, key):
    images, labels = batch
    logits = jax.nn.relu(images @ params[0]) @ params[1]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), (state, jnp.float32(0))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_on_the_ratios_by_hand(momentum):
    """The same draws of Bern(p), everything else in float64."""
    ticket, rng, key = make_ticket(), np.random.default_rng(1), jax.random.key(4)
    batches = [(rng.normal(size=(8, 6)), rng.integers(0, 4, 8)) for _ in range(3)]
    recipe = tuned.smart_ratio_search(
        ticket.mask, sparsity=0.7, ratios=[0.2, 0.6], version="v5", num_steps=12, learning_rate=2.0, momentum=momentum
    )
    as_jax = [(jnp.float32(x), jnp.int32(y)) for x, y in batches]
    carries, end = run(recipe, ticket, cross_entropy, as_jax, key)

    weights = [np.float64(w) for w in ticket.params]
    p, v, moves = fitted(np.array([0.2, 0.6]), SIZES, 30), np.zeros(2), []
    for step in range(12):
        np.testing.assert_allclose([s[0, 0] for s in carries[step].ticket.scores], p, rtol=2e-4)
        view_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 1), step), 3)[0]
        noise = [np.asarray(u) for u in init.uniform_scores(view_key, ticket.mask)]
        seen = [w * (u < q) for w, u, q in zip(weights, noise, p, strict=True)]
        slopes = gradient(seen, *batches[step % 3])
        v = momentum * v + [(g * w).mean() for g, w in zip(slopes, weights, strict=True)]
        moved = fitted(np.clip(p - 2.0 * v, 1e-4, 1), SIZES, 30)
        moves.append(np.abs(moved - p).max())
        p = moved
    assert max(moves) > 0.02  # the ratios do move
    for scores, ratio in zip(carries[-1].ticket.scores, p, strict=True):
        np.testing.assert_allclose(scores, np.full(scores.shape, ratio), rtol=2e-4)
        assert len(np.unique(scores)) == 1  # equal to the bit within a layer
    shares = p * SIZES
    want = np.floor(shares)
    want[np.argmax(shares - want)] += 30 - want.sum()
    assert [kept for kept, _ in masks.layer_counts(end.mask).values()] == want.tolist()
    np.testing.assert_array_equal(end.params[0], ticket.params[0])


def needs_a_hurts_b(params, state, batch, key):
    """Every missing weight of a costs, and so does every weight of b that is there."""
    loss = (jnp.sum(jnp.square(params[0] - 1)) + jnp.sum(jnp.square(params[1]))) * batch
    return loss, ({}, jnp.float32(0))


def ones(shapes=((6, 10), (10, 4))):
    ticket = make_ticket(shapes=shapes)
    return ticket._replace(params=[jnp.ones_like(w) for w in ticket.params])


@pytest.mark.parametrize("sparsity", [0.7, 0.3])
def test_the_layer_that_matters_wins(sparsity):
    ticket = ones()
    kept = masks.count_for(100, sparsity)
    recipe = tuned.smart_ratio_search(
        ticket.mask, sparsity=sparsity, ratios=[0.3, 0.3], version="v5", num_steps=150, learning_rate=0.02
    )
    carries, end = run(recipe, ticket, needs_a_hurts_b, [jnp.float32(1)], jax.random.key(0))
    ratios = np.array([[float(s[0, 0]) for s in carry.ticket.scores] for carry in carries])
    np.testing.assert_allclose(ratios @ SIZES, kept, rtol=1e-5)  # on target after every step
    assert ratios[-1, 0] > ratios[0, 0] + 0.15
    masks.check(end.mask, kept)
    counts = [k for k, _ in masks.layer_counts(end.mask).values()]
    assert counts[0] > (25 if sparsity == 0.7 else 58)
    assert counts[1] >= 1


def test_the_best_candidate_is_chosen():
    ticket, ratios = ones(), [0.3, 0.3]
    table = candidates(ticket.mask, 0.7, ratios, 6, 1.0, seed=3)
    expected = (1 - table[:, 0]) * 60 + table[:, 1] * 40  # E L
    best = int(np.argmin(expected))
    assert best > 0
    assert np.sort(expected)[1] - expected[best] > 0.5
    phase = tuned.choose(ticket.mask, 0.7, ratios, 6, 1.0, candidate_steps=50, seed=3)
    assert phase.num_steps == 300
    carries, end = run((phase,), ticket, needs_a_hurts_b, [jnp.float32(1)], jax.random.key(1))
    np.testing.assert_allclose(np.asarray(carries[-1].during) / 50, expected, atol=2.5)
    assert int(np.argmin(carries[-1].during)) == best
    for scores, ratio in zip(end.scores, table[best], strict=True):
        np.testing.assert_array_equal(scores, np.full(scores.shape, np.float32(ratio)))
    masks.check(end.mask, 100)  # the phase alone only sets the scores
    (v4,) = tuned.smart_ratio_search(
        ticket.mask, sparsity=0.7, ratios=ratios, version="v4", num_candidates=6, radius=1.0, candidate_steps=50, seed=3
    )
    _, end = run((v4,), ticket, needs_a_hurts_b, [jnp.float32(1)], jax.random.key(1))
    masks.check(end.mask, 30)
    first = masks.layer_counts(end.mask)["0"][0]
    assert abs(first - table[best, 0] * 60) < 1


def test_a_candidate_without_a_number_loses():
    ticket = ones()
    phase = tuned.choose(ticket.mask, 0.7, [0.3, 0.3], 3, candidate_steps=1)
    losses = [jnp.float32(np.nan), jnp.float32(2), jnp.float32(3)]
    state = phase.during.init(ticket)
    for step, loss in enumerate(losses):
        context = Context(jnp.int32(step), jax.random.key(0), None, None, loss)
        ticket, state = phase.during.update(ticket, state, context)
    want = candidates(ticket.mask, 0.7, [0.3, 0.3], 3)[1]
    np.testing.assert_allclose([s[0, 0] for s in ticket.scores], want, rtol=1e-6)


@pytest.mark.parametrize("kept", [2, 3, 50, 99, 100])
@pytest.mark.parametrize("ratios", [(0.31, 0.05), (1e-4, 1e-4), (1.0, 1.0), (0.999, 1e-3)])
def test_masks_are_exact_at_any_ratios(kept, ratios):
    """Also at ratios that are far from the target, where weights are given or taken one by one."""
    ticket = make_ticket()
    ticket = ticket._replace(scores=[jnp.full_like(s, p) for s, p in zip(ticket.scores, ratios, strict=True)])
    draw = tuned.draw_mask(ticket.mask, 1 - kept / 100)
    state = draw.init(ticket)
    out = jax.jit(lambda key: draw.update(ticket, state, Context(jnp.int32(0), key, None, None))[0])(jax.random.key(0))
    masks.check(out.mask, kept)
    counts = [k for k, _ in masks.layer_counts(out.mask).values()]
    assert min(counts) >= 1
    np.testing.assert_array_equal(out.scores[0], ticket.scores[0])
    if kept == 50 and ratios == (0.31, 0.05):  # 18.6 and 2: both go up together, then b, which is nearer
        assert counts[0] > counts[1]


def test_v6_tunes_what_v4_found():
    ticket = ones()
    recipe = tuned.smart_ratio_search(
        ticket.mask, sparsity=0.7, ratios=[0.3, 0.3], version="v6", num_steps=20, learning_rate=0.02,
        num_candidates=3, radius=1.0, candidate_steps=10,
    )  # fmt: skip
    table = candidates(ticket.mask, 0.7, [0.3, 0.3], 3, 1.0)
    carries, end = run(recipe, ticket, needs_a_hurts_b, [jnp.float32(1)], jax.random.key(1))
    best = np.argmax(table[:, 0])
    np.testing.assert_allclose([s[0, 0] for s in carries[0].ticket.scores], table[best], rtol=1e-6)
    assert float(carries[-1].ticket.scores[0][0, 0]) > table[best, 0]
    masks.check(end.mask, 30)
    last = finetune(num_epochs=1, steps_per_epoch=1, learning_rate=0.1)
    options = {"sparsity": 0.7, "ratios": [0.3, 0.3], "num_steps": 1, "finetune": last}
    recipes = {v: tuned.smart_ratio_search(ticket.mask, version=v, **options) for v in ("v4", "v5", "v6")}
    assert {v: len(recipe) for v, recipe in recipes.items()} == {"v4": 2, "v5": 3, "v6": 3}
    assert all(recipe[-1] is last for recipe in recipes.values())
    assert all(recipe[-2].rewind_state for recipe in recipes.values())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"version": "v3"}, r"tuned ratio version: expected one of v4, v5, v6, got 'v3'"),
        ({"num_steps": 0}, r"ratio tuning steps: expected 1 or more, got 0"),
        ({"learning_rate": 0.0}, r"ratio tuning learning rate: expected a positive number, got 0.0"),
        ({"momentum": 1.0}, r"ratio tuning momentum: expected a number in \[0, 1\), got 1.0"),
        ({"ratios": [0.1]}, r"ratios: expected 2 numbers in \[0, 1\], one a layer, got \[0.1\]"),
        ({"ratios": [0.1, 1.5]}, r"ratios: expected 2 numbers"),
        ({"ratios": [0.0, 0.0]}, r"ratios: expected 2 numbers"),
        ({"version": "v4", "num_candidates": 0}, r"candidates: expected 1 or more .* got 0 at 0.3"),
        ({"version": "v4", "radius": -1.0}, r"candidates: expected .* got 8 at -1.0"),
        ({"version": "v4", "candidate_steps": 0}, r"candidate steps: expected 1 or more, got 0"),
        ({"sparsity": 0.99}, r"0.99 keeps 1 of 100 weights; expected one or more in each of 2 layers"),
    ],
)
def test_errors(options, match):
    options = {"sparsity": 0.7, "ratios": [0.3, 0.3], "version": "v5", "num_steps": 3} | options
    with pytest.raises(ValueError, match=match):
        tuned.smart_ratio_search(make_ticket().mask, **options)
