"""RigL and SET: a mask that moves, of one size in every layer."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks
from rare_gems.phase import Context, Ticket
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.pruners.rigl import cosine_fraction, rigl
from rare_gems.pruners.sparse_evolutionary_training import sparse_evolutionary_training
from rare_gems.rounds import each_step
from rare_gems.training import trainer

SHAPES = {"a": (6, 10), "b": (5, 8)}  # 100 weights
OPTIONS = {"sparsity": 0.5, "num_epochs": 4, "steps_per_epoch": 5, "ratios": "uniform"}  # 20 steps
KEY = jax.random.key(0)
LAW = {"a": 30, "b": 20}


def dense_mask():
    return {name: jnp.ones(shape, bool) for name, shape in SHAPES.items()} | {"bias": None}


def make_ticket():
    rng = np.random.default_rng(0)
    params = {name: jnp.float32(rng.normal(size=shape)) for name, shape in SHAPES.items()} | {"bias": jnp.ones(3)}
    return Ticket(params, jax.tree.map(lambda m: jnp.zeros(m.shape), dense_mask()), dense_mask())


def start(edit):
    return trainer.finish(edit, trainer.begin(edit, make_ticket(), {}, KEY))


def simulate(phase, ticket):
    """The tickets before and after each step; the weights train at random, on a dense gradient of the step's own."""
    update = jax.jit(
        lambda t, step, key, grads: each_step(phase).update(
            t, each_step(phase).init(t), Context(step, key, None, grads)
        )[0]
    )
    for step in range(phase.num_steps):
        rng = np.random.default_rng(step)
        grads = {name: jnp.float32(rng.normal(size=shape)) for name, shape in SHAPES.items()} | {"bias": jnp.ones(3)}
        noise = {name: jnp.float32(rng.normal(scale=0.1, size=shape)) for name, shape in SHAPES.items()}
        moved = {name: ticket.params[name] + noise[name] for name in SHAPES} | {"bias": jnp.ones(3)}
        before = ticket._replace(params=masks.apply(moved, ticket.mask))
        ticket = update(before, jnp.int32(step), jax.random.fold_in(KEY, step), grads)
        yield before, ticket, grads


def kept_in(mask):
    return {name: int(np.count_nonzero(mask[name])) for name in SHAPES}


@pytest.mark.parametrize(("method", "moves"), [(rigl, [4, 8, 12]), (sparse_evolutionary_training, [4, 8, 12, 16])])
def test_when_it_moves_and_how_much(method, moves):
    edit, search = method(dense_mask(), every=4, **OPTIONS)
    ticket = start(edit)
    assert kept_in(ticket.mask) == LAW
    got = []
    for i, (before, after, grads) in enumerate(simulate(search, ticket)):
        assert kept_in(after.mask) == LAW
        gone = {name: np.asarray(before.mask[name] & ~after.mask[name]) for name in SHAPES}
        born = {name: np.asarray(after.mask[name] & ~before.mask[name]) for name in SHAPES}
        if any(mask.any() for mask in gone.values()):
            got.append(i + 1)
        share = 0.15 * (1 + np.cos(np.pi * (i + 1) / 15)) if method is rigl else 0.3
        for name, kept in LAW.items():
            if i + 1 not in moves:
                assert not gone[name].any()
                continue
            size, at = np.abs(np.asarray(before.params[name])), np.asarray(before.mask[name])
            dropped = round(share * kept)
            lowest = np.sort(size[at])[dropped - 1]
            assert (size[gone[name]] <= lowest).all()  # only those; some may have grown again
            stay = at & (size > lowest)
            assert gone[name].sum() == born[name].sum() > 0
            older = at & np.asarray(after.mask[name])  # what comes back at once keeps its value
            np.testing.assert_array_equal(after.params[name], np.where(older, before.params[name], 0))
            if method is rigl:
                slope = np.where(stay, -1, np.abs(np.asarray(grads[name])))
                want = np.zeros(slope.size, bool)
                want[np.argsort(-slope, axis=None)[:dropped]] = True
                np.testing.assert_array_equal(np.asarray(after.mask[name]) & ~stay, want.reshape(slope.shape))
    assert got == moves


def test_set_grows_anywhere_and_differently_by_key():
    edit, search = sparse_evolutionary_training(dense_mask(), **OPTIONS)
    ticket = start(edit)
    counts = np.zeros(60)
    state = each_step(search).init(ticket)
    update = jax.jit(
        lambda key: each_step(search).update(ticket, state, Context(jnp.int32(4), key, None, None))[0].mask["a"]
    )
    for key in jax.random.split(KEY, 400):
        counts += np.asarray(update(key)).reshape(-1)
    size = np.abs(np.asarray(ticket.params["a"])).reshape(-1)
    at = np.asarray(ticket.mask["a"]).reshape(-1)
    stay = at & (size > np.sort(size[at])[8])  # round(0.3 * 30) = 9 go
    assert (counts[stay] == 400).all()
    # 9 of the 39 others: 92 of 400 each, standard deviation 8.4
    assert counts[~stay].min() > 92 - 42
    assert counts[~stay].max() < 92 + 42


def test_cosine_fraction():
    fraction = cosine_fraction(0.3, 8)
    got = [float(fraction(jnp.int32(step))) for step in (-1, 1, 3, 7, 9)]
    np.testing.assert_allclose(got, [0.3, 0.15 * (1 + 0.5**0.5), 0.15, 0, 0], atol=1e-7)


def test_set_moves_after_every_epoch_but_the_last():
    edit, search = sparse_evolutionary_training(dense_mask(), **OPTIONS)
    tickets = [start(edit), *(after for _, after, _ in simulate(search, start(edit)))]
    moved = [i + 1 for i, (a, b) in enumerate(itertools.pairwise(tickets)) if masks.overlap(a.mask, b.mask) < 1]
    assert moved == [5, 10, 15]


@pytest.mark.parametrize("method", [rigl, sparse_evolutionary_training])
def test_counts_are_an_argument(method):
    edit, search = method(dense_mask(), counts={"a": 15, "b": 35, "bias": None}, every=6, **OPTIONS)
    ticket = start(edit)
    assert kept_in(ticket.mask) == {"a": 15, "b": 35}
    for _, after, _ in simulate(search, ticket):
        assert kept_in(after.mask) == {"a": 15, "b": 35}
    last = finetune(num_epochs=1, steps_per_epoch=5, learning_rate=0.1)
    recipe = method(jax.eval_shape(dense_mask), every=6, finetune=last, **OPTIONS)
    assert [(p.name, p.trains, p.num_steps) for p in recipe] == [
        ("edit", "params", 0), ("search", "params", 20), ("finetune", "params", 5)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sparsity": 0.999}, r"0.999 keeps none of 100 weights; expected a lower one"),
        ({"sparsity": 0.99}, r"leave none of the 40 in b"),
        ({"counts": {"a": 30, "b": 21, "bias": None}}, r"counts: expected a sum of 50 for sparsity 0.5, got 51"),
        ({"counts": {"a": 9, "b": 41, "bias": None}}, r"counts of b: expected an integer from 1 to 40, got 41"),
        ({"counts": {"a": 50}}, r"counts: expected the structure of mask"),
        ({"drop_fraction": 1.0}, r"drop_fraction: expected a fraction in \(0, 1\), got 1.0"),
        ({"every": 0}, r"every: expected a number of steps from 1 to below"),
        ({"every": 30}, r"every: expected a number of steps from 1 to below"),
        ({"stop": 0.0}, r"stop: expected a fraction in \(0, 1\], got 0.0"),
        ({"num_epochs": 0}, r"expected 1 or more, got 0 and 5"),
        ({"learning_rate": 0.0}, r"learning rate: expected a positive number"),
    ],
)
@pytest.mark.parametrize("method", [rigl, sparse_evolutionary_training])
def test_errors(method, changes, match):
    with pytest.raises(ValueError, match=match):
        method(dense_mask(), **{"every": 4, **OPTIONS, **changes})


@pytest.mark.parametrize("method", [rigl, sparse_evolutionary_training])
def test_moves_come_after_whole_numbers_of_steps(method):
    """2.5 was taken, and the mask moved after every fifth step."""
    mask = [jax.ShapeDtypeStruct((100, 10), bool)]
    with pytest.raises(ValueError, match=r"every: expected an integer of 0 or more, got 2.5"):
        method(mask, sparsity=0.9, num_epochs=10, steps_per_epoch=5, every=2.5, learning_rate=0.1)
