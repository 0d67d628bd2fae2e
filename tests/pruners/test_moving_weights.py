"""Sparse momentum, DSR and Deep R: what the replays in test_golden_trained_scores do not reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks
from rare_gems.phase import Context, Ticket
from rare_gems.pruners.deep_r import deep_r
from rare_gems.pruners.dsr import dsr
from rare_gems.pruners.snfs import snfs
from rare_gems.rounds import each_step
from rare_gems.training import trainer

SHAPES = {"a": (6, 10), "b": (5, 8)}  # 100 weights
OPTIONS = {"sparsity": 0.5, "num_epochs": 4, "steps_per_epoch": 5}  # 20 steps
KEY = jax.random.key(0)
MASK = {name: jnp.ones(shape, bool) for name, shape in SHAPES.items()} | {"bias": None}
PARAMS = {name: jnp.float32(np.random.default_rng(1).normal(size=shape)) for name, shape in SHAPES.items()}
TICKET = Ticket(
    PARAMS | {"bias": jnp.ones(3)}, {name: jnp.zeros(s) for name, s in SHAPES.items()} | {"bias": None}, MASK
)


def start(edit, ticket=TICKET):
    return trainer.finish(edit, trainer.begin(edit, ticket, {}, KEY))


def edited(search, ticket, grads, step):
    """The ticket after the transform of that step, and how its state began and ended."""
    before = each_step(search).init(ticket)
    ticket = ticket._replace(params=masks.apply(ticket.params, ticket.mask))
    context = Context(jnp.int32(step), KEY, None, grads)
    return ticket, *jax.jit(each_step(search).update)(ticket, before, context)


def counts(mask):
    return {name: int(np.count_nonzero(mask[name])) for name in SHAPES}


def test_momentum_draws_weights_to_its_layer_and_leaves_each_a_last_one():
    edit, search = snfs(MASK, counts={"a": 49, "b": 1, "bias": None}, every=2, drop_fraction=0.9, **OPTIONS)
    first = start(edit)
    assert counts(first.mask) == {"a": 49, "b": 1}
    assert not np.any(first.scores["a"])
    grads = {"a": jnp.full((6, 10), 1e-6), "b": jnp.ones((5, 8)), "bias": jnp.ones(3)}
    _, ticket, _ = edited(search, first, grads, 1)
    np.testing.assert_allclose(ticket.scores["b"], 0.1, rtol=1e-6)
    assert counts(ticket.mask) == {"a": 50 - 40, "b": 40}  # b is full: what is left comes back to a
    still, same, _ = edited(search, first, grads, 0)  # no move is due
    assert counts(same.mask) == counts(still.mask)


def test_dsr_adapts_its_threshold_and_never_empties_a_layer():
    _, search = dsr(MASK, every=2, threshold=100.0, moved=0.1, **OPTIONS)
    edit, _ = dsr(MASK, every=2, **OPTIONS)
    before, ticket, state = edited(search, start(edit), None, 1)
    assert sum(counts(ticket.mask).values()) == 50
    assert min(counts(ticket.mask).values()) >= 1
    for name in SHAPES:  # the largest stays, and keeps its value
        at = np.argmax(np.abs(before.params[name]))
        assert np.asarray(ticket.mask[name]).flat[at]
        assert np.asarray(ticket.params[name]).flat[at] == np.asarray(before.params[name]).flat[at]
    assert [float(x) for x in jax.tree.leaves(state)][-1] == 50.0  # 48 moved where 5 were wanted: half of it
    low = dsr(MASK, every=2, threshold=1e-6, moved=0.1, **OPTIONS)[1]
    _, ticket, state = edited(low, start(edit), None, 1)
    assert [float(x) for x in jax.tree.leaves(state)][-1] == pytest.approx(2e-6)
    assert masks.overlap(ticket.mask, start(edit).mask) == 1


def test_the_period_of_dsr_doubles():
    options = OPTIONS | {"num_epochs": 8}  # 40 steps
    edit, search = dsr(MASK, every=2, doublings=3, stop=0.95, threshold=0.5, **options)
    ticket = start(edit)
    update = jax.jit(
        lambda step: each_step(search).update(ticket, each_step(search).init(ticket), Context(step, KEY, None, None))
    )
    moves = [i + 1 for i in range(40) if masks.overlap(update(jnp.int32(i))[0].mask, ticket.mask) < 1]
    assert moves == [2, 4, 6, 8, 12, 16, 24, 32]


def test_deep_r_drops_what_would_change_its_sign_and_nothing_else():
    edit, search = deep_r(MASK, ratios="uniform", l1=10.0, temperature=0.0, stop=0.5, **OPTIONS)  # eta alpha = 1
    first = start(edit)
    assert counts(first.mask) == {"a": 30, "b": 20}
    before, ticket, _ = edited(search, first, None, 3)
    for name in SHAPES:
        weight, kept = np.asarray(before.params[name]), np.asarray(first.mask[name])
        np.testing.assert_array_equal(first.scores[name], np.where(np.asarray(PARAMS[name]) >= 0, 1, -1))
        stays = kept & (np.abs(weight) >= 1)
        shrunk = np.sign(weight) * (np.abs(weight) - 1)
        np.testing.assert_allclose(ticket.params[name], np.where(stays, shrunk, 0), atol=1e-6)
        assert (np.asarray(ticket.mask[name]) >= stays).all()
    assert counts(ticket.mask) == {"a": 30, "b": 20}
    _, same, _ = edited(search, first, None, 9)  # from half of the steps on the mask stays
    assert masks.overlap(same.mask, first.mask) == 1


@pytest.mark.parametrize(
    ("method", "changes", "match"),
    [
        *((method, {"sparsity": 0.999}, "0.999 keeps none of 100 weights") for method in (snfs, dsr, deep_r)),
        *((method, {"stop": 0.0}, r"stop: expected a fraction in \(0, 1\], got 0.0") for method in (snfs, dsr, deep_r)),
        *(
            (method, {"counts": {"a": 9, "b": 9, "bias": None}}, "counts: expected a sum of 50")
            for method in (snfs, dsr, deep_r)
        ),
        *((method, {"every": 30}, "every: expected a number of steps from 1 to below") for method in (snfs, dsr)),
        (snfs, {"smoothing": 1.0}, r"smoothing: expected a number in \[0, 1\), got 1.0"),
        (snfs, {"drop_fraction": 0.0}, r"drop_fraction: expected a fraction in \(0, 1\), got 0.0"),
        (dsr, {"every": 4, "threshold": 0.0}, "threshold: expected a positive number, got 0.0"),
        (dsr, {"every": 4, "moved": 1.0}, r"moved: expected a fraction in \(0, 1\), got 1.0"),
        (dsr, {"every": 4, "tolerance": 0.0}, r"tolerance: expected a fraction in \(0, 1\), got 0.0"),
        (dsr, {"every": 4, "doublings": -1}, "doublings: expected an integer of 0 or more, got -1"),
        (deep_r, {"l1": -1.0}, "l1: expected a finite number of 0 or more, got -1.0"),
        (deep_r, {"temperature": float("inf")}, "temperature: expected a finite number"),
        (deep_r, {"cooling": -1.0}, "cooling: expected a finite number of 0 or more, got -1.0"),
        (deep_r, {"scope": "all"}, "scope: expected 'global' or 'layer', got 'all'"),
    ],
)
def test_errors(method, changes, match):
    with pytest.raises(ValueError, match=match):
        method(MASK, **{**OPTIONS, **changes})
