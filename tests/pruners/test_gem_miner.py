"""GEM-MINER: when it freezes and how much, one run of steps in float64 NumPy, and every option."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks
from rare_gems.phase import Context, Ticket
from rare_gems.pruners import gem_miner
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.rounds import each_step
from rare_gems.training import trainer

SHAPES = {"a": (6, 10), "b": (5, 8)}  # 100 weights
OPTIONS = {"sparsity": 0.9, "num_epochs": 11, "steps_per_epoch": 3, "period": 2}
# Epochs from 0: rounds after the epochs 2, 4, 6, 8, 10, that is after the steps 8, 14, 20, 26, 32 (from 0).
# 100 * 0.1^(r/5) = 63.1, 39.8, 25.1, 15.8, 10.
TABLE = [100] * 8 + [63] * 6 + [40] * 6 + [25] * 6 + [16] * 6 + [10]
KEY = jax.random.key(0)


def dense_mask(shapes=SHAPES):
    return {name: jnp.ones(shape, bool) for name, shape in shapes.items()} | {"bias": None}


def make_ticket(seed=0, score=None, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    params = {name: jnp.float32(rng.normal(size=shape)) for name, shape in shapes.items()} | {"bias": jnp.ones(3)}
    draw = rng.random if score is None else lambda shape: np.full(shape, score)
    scores = {name: jnp.float32(draw(shape)) for name, shape in shapes.items()} | {"bias": None}
    return Ticket(params, scores, dense_mask(shapes))


def simulate(phase, ticket):
    """The masks after each step, if the scores never move."""
    edits = each_step(phase)
    state = edits.init(ticket)
    update = jax.jit(lambda t, s, step: edits.update(t, s, Context(step, KEY, None, None)))
    for step in range(phase.num_steps):
        ticket, state = update(ticket, state, jnp.int32(step))
        yield ticket.mask


@pytest.mark.parametrize("score", [None, 0.0])  # random, or all tied as after much clipping
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_freezes_by_the_table(scope, score):
    phase = gem_miner.search(dense_mask(), scope=scope, **OPTIONS)
    assert phase.num_steps == len(TABLE) == 33
    ticket = make_ticket(score=score)
    before, counts, layers = ticket.mask, [], []
    for mask in simulate(phase, ticket):
        counts.append(masks.num_kept(mask))
        layers.append(tuple(kept for kept, _ in masks.layer_counts(mask).values()))
        assert masks.overlap(mask, before) == 1  # nested
        before = mask
    assert counts == TABLE
    if scope == "layer":
        # shares 60 : 40 of 63, 40, 25, 16, 10, by largest remainder
        assert list(dict.fromkeys(layers)) == [(60, 40), (38, 25), (24, 16), (15, 10), (10, 6), (6, 4)]
    if score is None and scope == "global":
        flat = np.concatenate([np.asarray(p).reshape(-1) for p in jax.tree.leaves(ticket.scores)])
        kept = np.concatenate([np.asarray(m).reshape(-1) for m in jax.tree.leaves(before)])
        assert set(np.flatnonzero(kept)) == set(np.argsort(flat)[-10:])
    if score == 0.0:  # ties go to the front of the first leaf, or of each
        first = jnp.arange(60).reshape(6, 10) < (10 if scope == "global" else 6)
        assert jnp.array_equal(before["a"], first)


def test_a_floor_is_never_frozen():
    """Where all scores tie, the front of the first leaf is kept, and the floor of the others."""
    phase = gem_miner.search(dense_mask(), at_least=3, **OPTIONS)
    found = list(simulate(phase, make_ticket(score=0.0)))
    assert [masks.num_kept(mask) for mask in found] == TABLE
    assert [kept for kept, _ in masks.layer_counts(found[-1]).values()] == [7, 3]


@pytest.mark.parametrize(
    ("num_epochs", "period", "steps_per_epoch", "frozen_after"),
    [(11, 5, 4, [5, 10]), (3, 1, 2, [1, 2]), (7, 6, 1, [6]), (10, 4, 3, [4, 8]), (2, 1, 1, [1])],
)
def test_freezes_after_the_epochs(num_epochs, period, steps_per_epoch, frozen_after):
    phase = gem_miner.search(
        dense_mask(), sparsity=0.5, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch, period=period
    )
    counts = [100] + [masks.num_kept(mask) for mask in simulate(phase, make_ticket())]
    falls = [step for step in range(phase.num_steps) if counts[step + 1] < counts[step]]
    assert falls == [(epoch + 1) * steps_per_epoch - 1 for epoch in frozen_after]
    assert counts[-1] == 50


@pytest.mark.parametrize(
    ("num_epochs", "period", "steps_per_epoch", "done"),
    [(10, 5, 4, [5, 10]), (11, 5, 2, [5, 10]), (3, 1, 2, [1, 2, 3])],
)
def test_freezes_after_the_epochs_of_the_paper(num_epochs, period, steps_per_epoch, done):
    length = {"num_epochs": num_epochs, "steps_per_epoch": steps_per_epoch, "period": period}
    phase = gem_miner.search(dense_mask(), sparsity=0.5, freeze_at="paper", **length)
    counts = [100] + [masks.num_kept(mask) for mask in simulate(phase, make_ticket())]
    falls = [step for step in range(phase.num_steps) if counts[step + 1] < counts[step]]
    assert falls == [epoch * steps_per_epoch - 1 for epoch in done]
    assert [counts[step + 1] for step in falls] == [
        round(100 * 0.5 ** (r / len(done))) for r in range(1, len(done) + 1)
    ]


@pytest.mark.parametrize(("num_rounds", "sparsity"), [(2, 0.3), (3, 0.3), (6, 0.5), (9, 0.6)])
def test_layer_counts_never_rise(num_rounds, sparsity):
    """Shares by largest remainder can grow while the total falls, as for 6, 6, 2 at 11, then 10."""
    shapes = {"a": (6,), "b": (6,), "c": (2,)}
    rows = gem_miner.freezing_counts(dense_mask(shapes), sparsity, num_rounds, "layer")
    sizes = {name: size for name, (size,) in shapes.items()}
    for old, new in itertools.pairwise((sizes, *rows)):
        assert all(new[name] <= old[name] for name in shapes), rows
    assert tuple(sum(row[name] for name in shapes) for row in rows) == gem_miner.freezing_counts(
        dense_mask(shapes), sparsity, num_rounds
    )


def test_layer_scope_is_exact_where_shares_would_rise():
    shapes = {"a": (6,), "b": (6,), "c": (2,)}
    options = {"sparsity": 0.3, "num_epochs": 5, "steps_per_epoch": 1, "period": 1}
    phase = gem_miner.search(dense_mask(shapes), scope="layer", **options)
    counts = [masks.num_kept(mask) for mask in simulate(phase, make_ticket(shapes=shapes))]
    assert counts == [14, 13, 12, 11, 10]  # 14 * 0.7^(r/4) = 12.8, 11.7, 10.7, 9.8


def test_freezing_counts():
    assert gem_miner.freezing_counts(dense_mask(), 0.9, 5) == (63, 40, 25, 16, 10)
    rows = gem_miner.freezing_counts(dense_mask(), 0.9, 5, "layer")
    kept = zip((38, 24, 15, 10, 6), (25, 16, 10, 6, 4), strict=True)
    assert rows == tuple({"a": a, "b": b, "bias": None} for a, b in kept)
    with pytest.raises(ValueError, match=r"0.999 keeps none of 100 weights"):
        gem_miner.freezing_counts(dense_mask(), 0.999, 5)
    with pytest.raises(ValueError, match=r"leave none of the 40 in b"):
        gem_miner.freezing_counts(dense_mask(), 0.99, 5, "layer")


def test_clips_after_every_step():
    phase = gem_miner.search(dense_mask(), **OPTIONS)
    ticket = make_ticket()
    ticket = ticket._replace(scores=jax.tree.map(lambda p: 3 * p - 1, ticket.scores))
    out, _ = phase.during.update(ticket, phase.during.init(ticket), Context(jnp.int32(0), KEY, None, None))
    for got, p in zip(jax.tree.leaves(out.scores), jax.tree.leaves(ticket.scores), strict=True):
        np.testing.assert_array_equal(got, np.clip(np.asarray(p), 0, 1))


TARGET = {name: np.random.default_rng(5).normal(size=shape) for name, shape in SHAPES.items()}


def loss_fn(params, state, batch, key):
    """Half the squared distance from the target, so that the dense gradient is the difference."""
    terms = [0.5 * jnp.sum((params[name] - batch[name]) ** 2) for name in SHAPES]
    return sum(terms), (state, jnp.float32(0))


def by_hand(ticket, sparsity, learning_rate, l2, norm):
    """Algorithm 1 in float64: three epochs of two steps, frozen after the epochs 1 and 2."""
    w = np.concatenate([np.float64(ticket.params[name]).reshape(-1) for name in SHAPES])
    p = np.concatenate([np.float64(ticket.scores[name]).reshape(-1) for name in SHAPES])
    target = np.concatenate([TARGET[name].reshape(-1) for name in SHAPES])
    q, v = np.ones(100), np.zeros(100)
    for step in range(6):
        epoch = step // 2
        dense = w * q * (p >= 0.5) - target
        g = dense * w * q + (2 * l2 * p if norm == "l2" else l2 * np.sign(p))
        v = 0.9 * v + g
        rate = 0.5 * learning_rate * (1 + np.cos(np.pi * epoch / 3))
        p = np.clip(np.where(q == 1, p - rate * v, p), 0, 1)
        if step in (3, 5):
            count = round(100 * (1 - sparsity) ** (0.5 if step == 3 else 1))
            order = np.argsort(np.where(q == 1, -p, np.inf), kind="stable")
            q = np.zeros(100)
            q[order[:count]] = 1
        v = v * q  # the momentum of frozen weights is held at zero
    return p, q, v


@pytest.mark.parametrize(("norm", "l2"), [("l2", 0.05), ("l1", 0.1), ("l2", 0.0)])
def test_six_steps_by_hand(norm, l2):
    phase = gem_miner.search(
        dense_mask(),
        sparsity=0.8,
        num_epochs=3,
        steps_per_epoch=2,
        period=1,
        learning_rate=0.5,
        l2=l2,
        norm=norm,
    )
    ticket = make_ticket()
    want_p, want_q, want_v = by_hand(ticket, 0.8, 0.5, l2, norm)
    carry = trainer.begin(phase, ticket, None, KEY)
    step = jax.jit(trainer.make_step(loss_fn, phase))
    batch = {name: jnp.float32(t) for name, t in TARGET.items()}
    for _ in range(6):
        carry = step(carry, batch)

    def flat(tree):
        return np.concatenate([np.asarray(tree[name]).reshape(-1) for name in SHAPES])

    assert np.isin([0.0, 1.0], want_p).all()  # clipping took part on both sides
    np.testing.assert_allclose(flat(carry.ticket.scores), want_p, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(flat(carry.ticket.mask), want_q == 1)
    assert want_q.sum() == 20
    (slots,) = [s.trace for s in jax.tree.leaves(carry.opt_state, is_leaf=has_trace) if has_trace(s)]
    np.testing.assert_allclose(flat(slots), want_v, rtol=1e-4, atol=1e-5)
    for name in (*SHAPES, "bias"):  # the weights stay
        np.testing.assert_array_equal(carry.ticket.params[name], ticket.params[name])


def has_trace(node):
    return hasattr(node, "trace") and isinstance(node, tuple)


def test_first_step_of_adam():
    """Bias-corrected, the first step of Adam is the rate times the sign of the gradient."""
    phase = gem_miner.search(dense_mask(), optimizer="adam", learning_rate=0.01, l2=0.0, **OPTIONS)
    ticket = make_ticket()
    step = jax.jit(trainer.make_step(loss_fn, phase))
    batch = {name: jnp.float32(t) for name, t in TARGET.items()}
    carry = step(trainer.begin(phase, ticket, None, KEY), batch)
    for name in SHAPES:
        w, p = np.float64(ticket.params[name]), np.float64(ticket.scores[name])
        g = (w * (p >= 0.5) - TARGET[name]) * w
        want = np.clip(p - 0.01 * g / (np.abs(g) + 1e-8), 0, 1)
        np.testing.assert_allclose(carry.ticket.scores[name], want, atol=2e-6)
    carry = step(carry, batch)
    assert np.isfinite(np.asarray(carry.ticket.scores["a"])).all()


def test_momentum_is_an_option():
    phase = gem_miner.search(dense_mask(), momentum=0.0, learning_rate=0.1, l2=0.0, **OPTIONS)
    ticket = make_ticket()
    step = jax.jit(trainer.make_step(loss_fn, phase))
    batch = {name: jnp.float32(t) for name, t in TARGET.items()}
    carry = step(step(trainer.begin(phase, ticket, None, KEY), batch), batch)
    w, p = np.float64(ticket.params["a"]), np.float64(ticket.scores["a"])
    for _ in range(2):
        p = np.clip(p - 0.1 * (w * (p >= 0.5) - TARGET["a"]) * w, 0, 1)
    np.testing.assert_allclose(carry.ticket.scores["a"], p, atol=1e-5)


def test_stochastic_rounding_sees_a_draw():
    ticket = make_ticket(score=0.25, shapes={"a": (100, 100)})
    options = {**OPTIONS, "rounding": "stochastic"}
    phase = gem_miner.search(ticket.mask, **options)
    seen = phase.view(ticket, jnp.int32(0), KEY)["a"]
    np.testing.assert_allclose((np.asarray(seen) != 0).mean(), 0.25, atol=0.02)
    phase = gem_miner.search(ticket.mask, **OPTIONS)
    assert not phase.view(ticket, jnp.int32(0), KEY)["a"].any()


def test_the_mask_for_finetuning():
    ticket = make_ticket()
    q = {"a": jnp.arange(60).reshape(6, 10) < 30, "b": jnp.arange(40).reshape(5, 8) < 10, "bias": None}
    ticket = ticket._replace(mask=q)
    context = Context(jnp.int32(33), KEY, None, None)
    for freeze in (True, False):
        phase = gem_miner.search(dense_mask(), finetune_mask="rounded", freeze=freeze, **OPTIONS)
        out, _ = phase.after.update(ticket, phase.after.init(ticket), context)
        for name in SHAPES:
            want = np.asarray(q[name]) & (np.asarray(ticket.scores[name]) >= 0.5)
            assert 0 < want.sum() < np.asarray(q[name]).sum()
            np.testing.assert_array_equal(out.mask[name], want)
    phase = gem_miner.search(dense_mask(), **OPTIONS)
    out, _ = phase.after.update(ticket, phase.after.init(ticket), context)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, out.mask, q))


def test_without_freezing_the_mask_stays_dense():
    phase = gem_miner.search(dense_mask(), freeze=False, finetune_mask="rounded", **OPTIONS)
    assert {masks.num_kept(mask) for mask in simulate(phase, make_ticket())} == {100}


@pytest.mark.parametrize("idle", [{"invert": True}, {"at_least": 3}, {"scope": "layer"}])
def test_without_freezing_nothing_is_ranked(idle):
    ((name, value),) = idle.items()
    with pytest.raises(ValueError, match=f"{name}: nothing is frozen without freezing; expected .*, got {value!r}"):
        gem_miner.search(dense_mask(), freeze=False, finetune_mask="rounded", **OPTIONS, **idle)


def test_works_on_shapes():
    shapes = jax.eval_shape(dense_mask)
    for scope in ("global", "layer"):
        (phase,) = gem_miner.gem_miner(shapes, scope=scope, **OPTIONS)
        counts = [masks.num_kept(mask) for mask in simulate(phase, make_ticket())]
        assert counts == TABLE


def test_recipe():
    last = finetune(num_epochs=2, steps_per_epoch=3, learning_rate=0.1)
    recipe = gem_miner.gem_miner(dense_mask(), finetune=last, **OPTIONS)
    assert [(phase.name, phase.trains, phase.num_steps) for phase in recipe] == [
        ("search", "scores", 33), ("finetune", "params", 6)
    ]  # fmt: skip
    assert recipe[1] is last
    assert recipe[0].hold_dead


def test_scores_move_at_the_cosine_rate():
    phase = gem_miner.search(dense_mask(), momentum=0.0, learning_rate=0.2, l2=0.0, **OPTIONS)
    scores = make_ticket().scores
    state = phase.optimizer.init(scores)
    ones = jax.tree.map(jnp.ones_like, scores)
    moves = []
    for _ in range(15):
        updates, state = phase.optimizer.update(ones, state, scores)
        moves.append(float(updates["a"][0, 0]))
    want = [-0.1 * (1 + np.cos(np.pi * (step // 3) / 11)) for step in range(15)]
    np.testing.assert_allclose(moves, want, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"norm": "l3"}, r"norm: expected one of l2, l1, got 'l3'"),
        ({"scope": "network"}, r"scope: expected one of global, layer, got 'network'"),
        ({"optimizer": "lion"}, r"optimizer: expected one of sgd, adam, got 'lion'"),
        ({"rounding": "up"}, r"rounding: expected one of deterministic, stochastic, got 'up'"),
        ({"finetune_mask": "both"}, r"finetune_mask: expected one of frozen, rounded, got 'both'"),
        ({"steps_per_epoch": 0}, r"steps_per_epoch: expected 1 or more, got 0"),
        ({"learning_rate": 0.0}, r"learning_rate: expected a positive number, got 0"),
        ({"learning_rate": -0.1}, r"learning_rate: expected a positive number"),
        ({"learning_rate": float("nan")}, r"learning_rate: expected a positive number"),
        ({"learning_rate": float("inf")}, r"learning_rate: expected a positive number"),
        ({"l2": -1e-4}, r"l2: expected a finite number of 0 or more, got -0.0001"),
        ({"l2": float("nan")}, r"l2: expected a finite number of 0 or more"),
        ({"freeze": False}, r"finetune_mask: without freezing expected 'rounded', got 'frozen'"),
        ({"sparsity": 1.0}, r"sparsity: expected a fraction removed in \[0, 1\), got 1.0"),
        ({"sparsity": -0.5}, r"sparsity: expected a fraction"),
        ({"sparsity": 98.56}, r"sparsity: expected a fraction"),
        ({"sparsity": 0.999}, r"0.999 keeps none of 100 weights"),
        ({"sparsity": 0.99, "scope": "layer"}, r"leave none of the 40 in b"),
        ({"num_epochs": 0}, r"epochs: expected 1 or more, got 0"),
        ({"period": 0}, r"period: expected 1 or more, got 0"),
        (
            {"at_least": 6},
            r"at_least: expected floors that sum to at most the 10 weights kept, got 6 in each of 2 layers",
        ),
        ({"at_least": 1, "scope": "layer"}, r"at_least: expected 0 in the scope 'layer'"),
        ({"freeze_at": "end"}, r"freeze_at: expected one of code, paper, got 'end'"),
        ({"period": 12, "freeze_at": "paper"}, r"period: expected at most 11 for a search of 11 epochs, got 12"),
        ({"period": 0, "freeze_at": "paper"}, r"period: expected 1 or more, got 0"),
        ({"period": 11}, r"period: expected at most 10 for a search of 11 epochs, got 11"),
        (
            {"freeze": False, "finetune_mask": "rounded", "num_epochs": 0},
            r"epochs: expected 1 or more, got 0",
        ),
    ],
)
def test_errors(changes, match):
    with pytest.raises(ValueError, match=match):
        gem_miner.gem_miner(dense_mask(), **{**OPTIONS, **changes})
