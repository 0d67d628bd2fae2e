"""GEM-MINER without knobs: its steps against a replay in NumPy, its rounds against sorting, its numbers by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks
from rare_gems.phase import Context, Ticket
from rare_gems.pruners import gem_miner_auto as auto
from rare_gems.training import trainer

KEY = jax.random.key(0)
SHAPES = {"a": (6, 10), "b": (4, 10)}
GIVEN = {"sparsity": 0.9, "num_epochs": 4, "steps_per_epoch": 3}
COUNTS = auto.numbers_on(100, 10, [step / 12 for step in range(1, 13)])


def make_ticket(seed=0, score=None):
    rng = np.random.default_rng(seed)
    params = {name: jnp.float32(rng.normal(size=shape)) for name, shape in SHAPES.items()} | {"bias": jnp.ones(3)}
    draw = rng.random if score is None else lambda shape: np.full(shape, score)
    scores = {name: jnp.float32(draw(shape)) for name, shape in SHAPES.items()} | {"bias": None}
    mask = {name: jnp.ones(shape, bool) for name, shape in SHAPES.items()} | {"bias": None}
    return Ticket(params, scores, mask)


def loss_fn(params, state, batch, key):
    """(sum of w x - 1)^2 / 2 times the scale in the state: its gradient is the residual times x."""
    del key
    output = sum(jnp.sum(params[name] * batch[name]) for name in SHAPES)
    return state * 0.5 * jnp.square(output - 1), (state, jnp.float32(0))


def make_batches():
    """A few of the inputs are zero at a time: their weights have no gradient then, and are dropped."""
    rng = np.random.default_rng(1)
    zero = np.random.default_rng(2)
    return [
        {name: jnp.float32(rng.normal(size=shape) * (zero.random(shape) > 0.1)) for name, shape in SHAPES.items()}
        for _ in range(12)
    ]


def searched(phase, ticket, scale=1.0):
    """The ticket after each step, rounds included, and after the phase."""
    carry, step = trainer.begin(phase, ticket, jnp.float32(scale), KEY), jax.jit(trainer.make_step(loss_fn, phase))
    tickets = []
    for batch in make_batches():
        carry = step(carry, batch)
        tickets.append(carry.ticket)
    return [*tickets, trainer.finish(phase, carry)]


@pytest.fixture(scope="module")
def found():
    ticket = make_ticket()
    (phase,) = auto.gem_miner_auto(ticket.mask, **GIVEN)
    return phase, searched(phase, ticket)


def flat(tree):
    return np.concatenate([np.ravel(tree[name]) for name in SHAPES]).astype(np.float64)


def test_twelve_steps_by_numpy(found):
    """Nothing of the library in it: gradients, their size and mean, the step, the clip, the round after each step."""
    num_dropped = 0
    ticket = make_ticket()
    w, p = flat(ticket.params), flat(ticket.scores)
    v, m = 0.0, np.zeros(100)
    for t, (batch, count, after) in enumerate(zip(make_batches(), COUNTS, found[1], strict=False)):
        x = flat(batch)
        g = ((w * (p >= 0.5) * x).sum() - 1) * x * w
        v = 0.9 * v + 0.1 * np.sqrt((g**2).mean())
        fresh = 1 - 0.9 ** (t + 1)
        m = 0.9 * m + 0.1 * g / (v / fresh)
        p = np.clip(p - 8 / 12 * (1 + np.cos(np.pi * t / 12)) * m / fresh, 0, 1)
        num_dropped += (x == 0).sum()
        p = np.where(x == 0, 0, p)
        on = np.zeros(100, bool)
        on[np.argsort(-p, kind="stable")[:count]] = True
        p = p + 0.5 - p[~on].max()
        p = np.where(on, np.maximum(p, 0.5), np.minimum(p, 0.5 - 2**-25))
        np.testing.assert_allclose(flat(after.scores), p, atol=2e-5)
        p = flat(after.scores)  # lest the two drift apart
        np.testing.assert_array_equal(p >= 0.5, on)
    np.testing.assert_array_equal(flat(found[1][-1].mask), on)
    assert num_dropped > 50


def test_as_many_are_on_as_the_table_says_and_all_may_come_back(found):
    _, tickets = found
    on = [jax.tree.map(lambda p: p >= 0.5, ticket.scores) for ticket in tickets]
    assert [masks.num_kept(mask) for mask in on] == [*COUNTS, 10]
    assert {masks.num_kept(ticket.mask) for ticket in tickets[:-1]} == {100}
    assert any(masks.overlap(new, old) < 1 for old, new in itertools.pairwise(on))
    masks.check(tickets[-1].mask, 10)


def test_the_scale_of_the_loss_does_not_matter(found):
    phase, tickets = found
    for one, other in zip(searched(phase, make_ticket(), scale=2.0**-80), tickets, strict=True):
        np.testing.assert_allclose(flat(one.scores), flat(other.scores), atol=1e-5)


def test_numbers_by_hand():
    assert auto.numbers_on(1000, 100, [0.35, 0.7, 0.9]) == [round(500 * 0.2**0.5), 100, 100]
    assert auto.numbers_on(1000, 600, [0.35, 1.0]) == [548, 600]  # below one half they rise from the 500 at first
    assert auto.round_steps(12) == tuple(range(1, 13))
    assert (auto.round_steps(600)[:2], len(auto.round_steps(601)), auto.round_steps(601)[-1]) == ((10, 20), 60, 601)
    mask = make_ticket().mask
    assert [auto.floor_of(mask, count) for count in (1, 2, 39, 40, 60)] == [0, 1, 1, 2, 3]


@pytest.mark.parametrize("freeze", [False, True])
def test_a_round_where_all_tie(freeze):
    """The front of the first layer is on, and the floor of the second; nothing else is."""
    ticket, rounding = make_ticket(score=0.75), auto.round_up_given(freeze)
    context = Context(0, KEY, None, None, given={"count": jnp.int32(10), "at_least": jnp.int32(3)})
    after, _ = jax.jit(lambda t: rounding.update(t, (), context))(ticket)
    on = jax.tree.map(lambda p: p >= 0.5, after.scores)
    assert [kept for kept, _ in masks.layer_counts(on).values()] == [7, 3]
    assert bool(on["a"].reshape(-1)[:7].all())
    assert masks.num_kept(after.mask) == (10 if freeze else 100)


def test_a_round_moves_all_scores_alike():
    ticket = make_ticket()
    context = Context(0, KEY, None, None, given={"count": jnp.int32(30), "at_least": jnp.int32(1)})
    after, _ = auto.round_up_given().update(ticket, (), context)
    moved = flat(after.scores) - flat(ticket.scores)
    order = np.argsort(-flat(ticket.scores))
    np.testing.assert_allclose(moved, moved[0], atol=1e-6)
    np.testing.assert_allclose(moved[0], 0.5 - flat(ticket.scores)[order[30]], atol=1e-6)


def test_inverted_is_the_same_search_and_keeps_the_lowest(found):
    _, tickets = found
    (phase,) = auto.gem_miner_auto(make_ticket().mask, invert=True, **GIVEN)
    lowest = phase.after.update(tickets[-2], phase.after.init(tickets[-2]), Context(12, KEY, None, None))[0].mask
    masks.check(lowest, 10)
    assert masks.overlap(lowest, tickets[-1].mask) == 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sparsity": 1.0}, r"sparsity: expected a fraction removed in \[0, 1\), got 1.0"),
        ({"sparsity": 0.999}, r"0.999 keeps none of 100 weights"),
        ({"num_epochs": 0}, r"num_epochs: expected 1 or more, got 0"),
        ({"steps_per_epoch": 0}, r"steps_per_epoch: expected 1 or more, got 0"),
        ({"unit": "row"}, r"unit: expected one of network, layer, weight, got 'row'"),
    ],
)
def test_errors(changes, match):
    with pytest.raises(ValueError, match=match):
        auto.gem_miner_auto(make_ticket().mask, **{**GIVEN, **changes})
