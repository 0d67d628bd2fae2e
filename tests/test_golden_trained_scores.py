"""Runs replayed against an independent float64 implementation (golden/make_trained_scores.py)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import init, masks
from rare_gems.phase import Ticket
from rare_gems.pruners.continuous_sparsification import continuous_sparsification
from rare_gems.pruners.deep_r import deep_r
from rare_gems.pruners.dsr import dsr
from rare_gems.pruners.edge_popup import edge_popup
from rare_gems.pruners.gmp import gmp
from rare_gems.pruners.jackpot import jackpot
from rare_gems.pruners.rigl import rigl
from rare_gems.pruners.snfs import snfs
from rare_gems.pruners.supermask import supermask
from rare_gems.training import trainer
from tests.golden import make_trained_scores as made
from tests.test_golden import loss_fn

GOLDEN = json.loads((Path(__file__).parent / "golden" / "trained_scores.json").read_text())
START = GOLDEN["start"]
WEIGHTS = [jnp.array(w, jnp.float32) for w in START["weights"]]
MASK = masks.ones(WEIGHTS)
KEY = jax.random.key(3)
LENGTH = {"sparsity": 0.8, "num_epochs": made.EPOCHS, "steps_per_epoch": made.STEPS}
POPUP = LENGTH | {"learning_rate": made.EDGE_POPUP_RATE, "weight_decay": made.DECAY}
TRAINING = LENGTH | {"learning_rate": made.WEIGHTS_RATE, "weight_decay": made.DECAY, "milestones": [2], "every": 2}


def replay(phase, ticket):
    """The ticket after each step, and in the end."""
    carry = trainer.begin(phase, ticket, {}, KEY)
    step, after = jax.jit(trainer.make_step(loss_fn, phase)), []
    for i in range(phase.num_steps):
        images, labels = START["images"][i % made.STEPS], START["labels"][i % made.STEPS]
        carry = step(carry, (jnp.array(images, jnp.float32), jnp.array(labels, jnp.int32)))
        after.append(carry.ticket)
    return after, trainer.finish(phase, carry)


def begin(edit, scores=None):
    scores = jax.tree.map(jnp.zeros_like, WEIGHTS) if scores is None else scores
    return trainer.finish(edit, trainer.begin(edit, Ticket(WEIGHTS, scores, MASK), {}, KEY))


def assert_scores(phase, ticket, golden, atol=1e-5):
    after, end = replay(phase, ticket)
    for got, wanted in zip(after[made.STEPS - 1 :: made.STEPS], golden["epochs"], strict=True):
        for a, b in zip(got.scores, wanted, strict=True):
            np.testing.assert_allclose(a, np.array(b), rtol=1e-4, atol=atol)
    for a, b in zip(end.mask, golden["mask"], strict=True):
        np.testing.assert_array_equal(a, np.array(b, bool))
    assert masks.num_kept(end.mask) == 20
    for a, b in zip(end.params, WEIGHTS, strict=True):
        np.testing.assert_array_equal(a, b)  # bit for bit


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("layer", {}),
        ("global", {"scope": "global"}),
        ("gradual", {"scope": "global", "gradual": True, "period": 1, "l2": 1e-2}),
    ],
)
def test_edge_popup(name, options):
    _, search = edge_popup(MASK, **POPUP, **options)
    scores = [jnp.array(s, jnp.float32) for s in START["scores"]]
    assert_scores(search, Ticket(WEIGHTS, scores, MASK), GOLDEN[name])


def test_jackpot():
    edit, search = jackpot(MASK, **LENGTH, learning_rate=made.JACKPOT_RATE, weight_decay=made.DECAY)
    ticket = begin(edit)
    golden = GOLDEN["jackpot"]
    for m, s, initial in zip(ticket.mask, ticket.scores, golden["initial"], strict=True):
        np.testing.assert_array_equal(m, np.array(initial, bool))
        np.testing.assert_array_equal(s, np.where(np.array(initial, bool), np.float32(1), np.float32(0.99)))
    assert golden["initial"] != golden["mask"]  # the search went somewhere
    assert_scores(search, ticket, golden)


def test_continuous_sparsification():
    edit, search = continuous_sparsification(MASK, **LENGTH, learning_rate=made.SOFT_RATE, penalty=1e-2)
    assert_scores(search, begin(edit), GOLDEN["continuous_sparsification"])


def test_supermask():
    edit, search = supermask(MASK, **LENGTH, learning_rate=made.SUPERMASK_RATE)
    noise = []
    for step in range(search.num_steps):
        key, *_ = jax.random.split(jax.random.fold_in(KEY, step), 3)
        noise.append([np.float64(u) for u in init.uniform_scores(key, MASK)])
    start = {name: [np.array(part) for part in parts] for name, parts in START.items()}
    assert_scores(search, begin(edit), made.supermask(start, noise))


@pytest.mark.parametrize(("name", "counts"), [("gmp", [100, 54, 54, 30, 30, 21, 21, *[20] * 5]), ("rigl", [20] * 12)])
def test_training_under_a_moving_mask(name, counts):
    if name == "gmp":
        (search,), mask = gmp(MASK, **TRAINING), MASK
    else:
        (_, search), mask = rigl(MASK, ratios="uniform", **TRAINING), [jnp.array(m, bool) for m in START["random"]]
    after, end = replay(search, Ticket(WEIGHTS, jax.tree.map(jnp.zeros_like, WEIGHTS), mask))
    for got, wanted in zip(after, GOLDEN[name]["steps"], strict=True):
        for a, b in zip(got.mask, wanted, strict=True):
            np.testing.assert_array_equal(a, np.array(b, bool))
    assert [masks.num_kept(ticket.mask) for ticket in after] == counts
    for a, b in zip(end.params, GOLDEN[name]["weights"], strict=True):
        np.testing.assert_allclose(a, np.array(b), rtol=1e-4, atol=1e-5)
    moves = [i for i in range(1, 12) if masks.overlap(after[i].mask, after[i - 1].mask) < 1]
    assert moves == ([] if name == "gmp" else [1, 3, 5])  # after step 8 the share has fallen to 0.9 %


def as_numpy(trees):
    return [[np.float64(leaf) for leaf in tree] for tree in trees]


def keys_of_edits(num_steps=12):
    return [jax.random.split(jax.random.fold_in(KEY, step), 3)[2] for step in range(num_steps)]


def deep_r_options(scope):
    return {"scope": scope, "l1": 1.0, "temperature": 0.02, "cooling": 0.6}


def replayed(name):
    """The search of a method whose weights move between layers, its first scores, and the run in NumPy."""
    start = {name: [np.array(part) for part in parts] for name, parts in START.items()}
    start["random"] = [np.array(m, bool) for m in START["random"]]
    zeros, keys = jax.tree.map(jnp.zeros_like, WEIGHTS), keys_of_edits()
    if name == "snfs":
        return snfs(MASK, **TRAINING)[1], zeros, GOLDEN["snfs"]
    if name == "dsr":
        _, search = dsr(MASK, **TRAINING, threshold=0.2, moved=0.15, doublings=1, stop=0.9)
        return search, zeros, made.dsr(start, as_numpy(init.uniform_scores(key, MASK) for key in keys))
    options, training = deep_r_options(name.partition(" ")[2]), {k: v for k, v in TRAINING.items() if k != "every"}
    _, search = deep_r(MASK, **training, **options, stop=0.75)
    signs = [jnp.where(w >= 0, 1.0, -1.0) for w in WEIGHTS]
    pairs = [jax.random.split(key) for key in keys]
    shapes = [w.shape for w in WEIGHTS]
    normal = [list(map(jax.random.normal, jax.random.split(one), shapes)) for one, _ in pairs]
    uniform = [init.uniform_scores(other, MASK) for _, other in pairs]
    return search, signs, made.deep_r(start, as_numpy(normal), as_numpy(uniform), **options)


@pytest.mark.parametrize("name", ["snfs", "dsr", "deep_r layer", "deep_r global"])
def test_weights_that_move_between_layers(name):
    search, scores, golden = replayed(name)
    after, end = replay(search, Ticket(WEIGHTS, scores, [jnp.array(m, bool) for m in START["random"]]))
    for got, wanted in zip(after, golden["steps"], strict=True):
        for a, b in zip(got.mask, wanted, strict=True):
            np.testing.assert_array_equal(a, np.array(b, bool))
    for a, b in zip(end.params, golden["weights"], strict=True):
        np.testing.assert_allclose(a, np.array(b), rtol=1e-4, atol=1e-5)
    assert [masks.num_kept(ticket.mask) for ticket in after] == [20] * 12
    layers = {tuple(int(np.count_nonzero(m)) for m in ticket.mask) for ticket in after}
    assert (layers == {(12, 8)}) == (name == "deep_r layer")  # the others exchange weights between layers
    moves = [i + 1 for i in range(1, 12) if masks.overlap(after[i].mask, after[i - 1].mask) < 1]
    assert {"snfs": [2, 4, 6], "dsr": [2, 4, 8]}.get(name, moves) == moves  # at 8 and 10 the same weights come back
    assert len(moves) > 2


def test_the_stored_runs_are_what_their_maker_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(made, "__file__", str(tmp_path / "make_trained_scores.py"))
    made.main()
    again = json.loads((tmp_path / "trained_scores.json").read_text())
    assert jax.tree.structure(again) == jax.tree.structure(GOLDEN)
    for new, old in zip(jax.tree.leaves(again), jax.tree.leaves(GOLDEN), strict=True):
        assert new == pytest.approx(old, rel=1e-9, abs=1e-12)
