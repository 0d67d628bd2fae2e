"""Gradual magnitude pruning: the cubic table, when it prunes, and what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks
from rare_gems.phase import Context, Ticket
from rare_gems.pruners.gmp import cubic_counts, gmp
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.rounds import each_step
from rare_gems.training import trainer

SHAPES = {"a": (6, 10), "b": (5, 8)}  # 100 weights
OPTIONS = {"sparsity": 0.9, "num_epochs": 5, "steps_per_epoch": 8}  # 40 steps
KEY = jax.random.key(0)


def dense_mask():
    return {name: jnp.ones(shape, bool) for name, shape in SHAPES.items()} | {"bias": None}


def make_ticket():
    rng = np.random.default_rng(0)
    params = {name: jnp.float32(rng.normal(size=shape)) for name, shape in SHAPES.items()} | {"bias": jnp.ones(3)}
    return Ticket(params, jax.tree.map(lambda m: jnp.zeros(m.shape), dense_mask()), dense_mask())


def simulate(phase, ticket):
    """The masks after each step, if the weights never move."""
    edits = each_step(phase)
    state = edits.init(ticket)
    update = jax.jit(lambda t, s, step: edits.update(t, s, Context(step, KEY, None, None)))
    for step in range(phase.num_steps):
        ticket, state = update(ticket, state, jnp.int32(step))
        yield ticket.mask


def test_cubic_counts():
    # 100 + 900 (1 - r / 3)^3 = 366.7, 133.3; from half: 100 + 400 (...)
    assert cubic_counts(1000, 0.9, 3) == (1000, 367, 133, 100)
    assert cubic_counts(1000, 0.9, 3, 0.5) == (500, 219, 115, 100)
    assert cubic_counts(1000, 0.9, 1) == (1000, 100)
    for rounds in (1, 7, 200):
        counts = cubic_counts(268_336, 0.9856, rounds)
        assert counts[-1] == 3864
        assert len(counts) == rounds + 1
        for r, count in enumerate(counts):
            sparsity = 0.9856 * (1 - (1 - r / rounds) ** 3)
            assert abs(count - 268_336 * (1 - sparsity)) < 1


@pytest.mark.parametrize(
    ("options", "rounds"),
    [
        # after step: kept. until 0.75 of 40 steps: 30, four rounds of seven: 10 + 90 (1 - r / 4)^3
        ({"every": 7}, {7: 48, 14: 21, 21: 11, 28: 10}),
        ({"every": 30}, {30: 10}),
        ({"every": 10, "stop": 1.0, "start": 0.5}, {30: 21, 40: 10}),
        ({"every": 10, "stop": 1.0, "start": 0.5, "initial_sparsity": 0.5}, {20: 50, 30: 15, 40: 10}),
    ],
)
def test_prunes_by_the_table(options, rounds):
    (search,) = gmp(dense_mask(), **OPTIONS, **options)
    want, kept, before = [], 100, dense_mask()
    for done in range(1, 41):
        kept = rounds.get(done, kept)
        want.append(kept)
    got = []
    for mask in simulate(search, make_ticket()):
        got.append(masks.num_kept(mask))
        assert masks.overlap(mask, before) == 1  # nested
        before = mask
    assert got == want


@pytest.mark.parametrize("invert", [False, True])
def test_what_stays(invert):
    (search,) = gmp(dense_mask(), every=30, invert=invert, **OPTIONS)
    ticket = make_ticket()
    *_, mask = simulate(search, ticket)
    size = np.concatenate([np.abs(np.asarray(ticket.params[name])).ravel() for name in SHAPES])
    want = np.argsort(size)[:10] if invert else np.argsort(size)[-10:]
    assert set(np.flatnonzero(np.concatenate([np.asarray(mask[n]).ravel() for n in SHAPES]))) == set(want)


def test_layers_at_equal_ratios():
    (search,) = gmp(dense_mask(), every=15, scope="layer", **OPTIONS)
    layers = {tuple(kept for kept, _ in masks.layer_counts(mask).values()) for mask in simulate(search, make_ticket())}
    assert layers == {(60, 40), (13, 8), (6, 4)}  # 100, 10 + 90 / 8 = 21, 10


def test_an_initial_sparsity_at_step_0_is_an_edit():
    edit, search = gmp(dense_mask(), every=30, initial_sparsity=0.5, **OPTIONS)
    ticket = trainer.finish(edit, trainer.begin(edit, make_ticket(), {}, KEY))
    assert masks.num_kept(ticket.mask) == 50
    assert [masks.num_kept(mask) for mask in simulate(search, ticket)][28:30] == [50, 10]


def test_recipe_and_training():
    last = finetune(num_epochs=1, steps_per_epoch=8, learning_rate=0.1)
    search, tail = gmp(dense_mask(), every=5, finetune=last, milestones=[1], weight_decay=0.0, momentum=0.0, **OPTIONS)
    assert tail is last
    assert (search.name, search.trains, search.num_steps, search.hold_dead) == ("search", "params", 40, True)
    ones = {"w": jnp.ones(2)}
    state = search.optimizer.init(ones)
    moves = []
    for _ in range(9):
        updates, state = search.optimizer.update(ones, state, ones)
        moves.append(float(updates["w"][0]))
    np.testing.assert_allclose(moves, [-0.1] * 8 + [-0.01], rtol=1e-6)


def test_works_on_shapes():
    (search,) = gmp(jax.eval_shape(dense_mask), every=7, **OPTIONS)
    assert [masks.num_kept(mask) for mask in simulate(search, make_ticket())][-1] == 10


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"every": 2.5}, r"every: expected an integer of 0 or more, got 2.5"),
        ({"every": 31}, r"every: expected 1 to 30 steps, for a pruning between the steps 0 and 30 of 40, got 31"),
        ({"every": 0}, r"every: expected 1 to 30 steps"),
        ({"start": 0.8}, r"expected 0 <= start < stop <= 1, got 0.8 and 0.75"),
        ({"stop": 1.5}, r"expected 0 <= start < stop <= 1, got 0.0 and 1.5"),
        ({"sparsity": 0.999}, r"0.999 keeps none of 100 weights; expected a lower one"),
        ({"initial_sparsity": 0.95}, r"initial_sparsity: expected a number from 0 to 0.9, got 0.95"),
        ({"sparsity": 0.99, "scope": "layer"}, r"leave none of the 40 in b"),
        ({"scope": "network"}, r"scope: expected 'global' or 'layer', got 'network'"),
        ({"num_epochs": 0}, r"search epochs and steps an epoch: expected 1 or more, got 0 and 8"),
        ({"learning_rate": 0.0}, r"search learning rate: expected a positive number, got 0"),
    ],
)
def test_errors(changes, match):
    with pytest.raises(ValueError, match=match):
        gmp(dense_mask(), **{"every": 5, **OPTIONS, **changes})
