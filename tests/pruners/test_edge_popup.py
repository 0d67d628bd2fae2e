"""Edge-popup: how much it keeps and when, what may come back, and every option."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks, views
from rare_gems.phase import Context, Ticket
from rare_gems.pruners.edge_popup import edge_popup
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.pruners.parts.learned_scores import initial_scores
from rare_gems.training import trainer
from tests.toy import make_toy

SHAPES = {"a": (6, 10), "b": (5, 8)}  # 100 weights
OPTIONS = {"sparsity": 0.8, "num_epochs": 7, "steps_per_epoch": 3}
GRADUAL = OPTIONS | {"gradual": True, "period": 2}
KEY = jax.random.key(0)


def shapes(sizes=SHAPES):
    return {name: jax.ShapeDtypeStruct(shape, bool) for name, shape in sizes.items()} | {"bias": None}


def make_ticket(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda: {n: jnp.float32(rng.normal(size=s)) for n, s in SHAPES.items()}  # noqa: E731
    mask = {n: jnp.ones(s, bool) for n, s in SHAPES.items()} | {"bias": None}
    return Ticket(draw() | {"bias": jnp.ones(3)}, draw() | {"bias": None}, mask)


def kept_in(mask):
    return tuple(kept for kept, _ in masks.layer_counts(mask).values())


def test_scores_start_kaiming_uniform():
    start, _ = edge_popup(shapes({"conv": (3, 3, 4, 500), "dense": (100, 200)}), **OPTIONS)
    mask = {"conv": jnp.ones((3, 3, 4, 500), bool), "dense": jnp.ones((100, 200), bool), "bias": None}
    zeros = jax.tree.map(lambda m: jnp.zeros(m.shape), mask)
    ticket = trainer.finish(start, trainer.begin(start, Ticket(zeros, zeros, mask), {}, KEY))
    for name, bound in (("conv", 1 / 6), ("dense", 0.1)):
        scores = np.asarray(ticket.scores[name])
        assert bound * 0.999 < np.abs(scores).max() <= bound
        np.testing.assert_allclose(scores.std(), bound / 3**0.5, rtol=0.02)  # a uniform law's
        assert abs(scores.mean()) < 0.02 * bound
    assert not np.allclose(ticket.scores["conv"].reshape(-1)[:100] * 6, ticket.scores["dense"].reshape(-1)[:100] * 10)


def test_keeps_the_same_ratio_of_each_layer():
    """Four layers of ResNet-20, where the code keeps ceil(k n) = 7, 34, 531, 10; here they sum to the target."""
    sizes = [432, 2304, 36864, 640]
    mask = [jax.ShapeDtypeStruct((size,), bool) for size in sizes]
    _, search = edge_popup(mask, **OPTIONS | {"sparsity": 0.9856})
    scores = [jax.random.normal(jax.random.fold_in(KEY, i), (size,)) for i, size in enumerate(sizes)]
    ticket = Ticket(scores, scores, [jnp.ones(size, bool) for size in sizes])
    end, _ = search.after.update(ticket, search.after.init(ticket), Context(jnp.int32(0), KEY, None, None))
    assert kept_in(end.mask) == (6, 33, 531, 9)
    assert sum(kept_in(end.mask)) == masks.count_for(40240, 0.9856) == 579


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_sees_and_keeps_the_top(scope, invert):
    _, search = edge_popup(shapes(), scope=scope, invert=invert, **OPTIONS)
    ticket = make_ticket()
    size = {name: np.abs(np.asarray(ticket.scores[name])) * (-1 if invert else 1) for name in SHAPES}
    least = {name: np.sort(s, axis=None)[-k] for (name, s), k in zip(size.items(), (12, 8), strict=True)}
    if scope == "global":
        least = dict.fromkeys(SHAPES, np.sort(np.concatenate([s.ravel() for s in size.values()]))[-20])
    seen = search.view(ticket, jnp.int32(0), KEY)
    end, _ = search.after.update(ticket, search.after.init(ticket), Context(jnp.int32(21), KEY, None, None))
    for name in SHAPES:
        want = size[name] >= least[name]
        np.testing.assert_array_equal(end.mask[name], want)
        np.testing.assert_array_equal(seen[name], np.asarray(ticket.params[name]) * want)
    assert masks.num_kept(end.mask) == 20
    np.testing.assert_array_equal(seen["bias"], ticket.params["bias"])


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_gradual_rounds(scope):
    """R = 3 rounds of two epochs, 100 * 0.2^(r / 3) = 58.5, 34.2, 20; the first from the start, the last to the end."""
    _, search = edge_popup(shapes(), scope=scope, **GRADUAL)
    ticket = make_ticket()
    shown = jax.jit(lambda step: views.support(search.view, ticket, step, KEY))
    counts = [kept_in(shown(jnp.int32(step))) for step in range(0, search.num_steps, 3)]
    assert [sum(row) for row in counts] == [58, 58, 58, 58, 34, 34, 20]
    if scope == "layer":
        assert counts[::2] == [(35, 23), (35, 23), (20, 14), (12, 8)]
    assert sum(kept_in(shown(jnp.int32(11)))) == 58
    assert sum(kept_in(shown(jnp.int32(17)))) == 34


@pytest.mark.parametrize(("num_epochs", "period", "last"), [(150, 5, 145), (11, 5, 10), (3, 1, 2), (2, 1, 1)])
def test_the_last_round_is_trained(num_epochs, period, last):
    _, search = edge_popup(shapes(), sparsity=0.8, num_epochs=num_epochs, steps_per_epoch=2, scope="global",
                           gradual=True, period=period)  # fmt: skip
    ticket = make_ticket()
    counts = [
        masks.num_kept(views.support(search.view, ticket, jnp.int32(step), KEY)) for step in (2 * last, 2 * last - 1)
    ]
    assert counts[0] == 20
    assert counts[1] > 20 or num_epochs == 2  # with one round there is no other


def test_scores_revive():
    toy = make_toy()
    start, search = edge_popup(toy.ticket.mask, scope="global", learning_rate=1.0, **GRADUAL)
    carry = trainer.begin(
        search, trainer.finish(start, trainer.begin(start, toy.ticket, {}, KEY)), toy.model_state, KEY
    )
    step = jax.jit(trainer.make_step(toy.loss_fn, search))
    shown = jax.jit(lambda carry: views.support(search.view, carry.ticket, carry.step, KEY))
    before, back, first = shown(carry), [], carry.ticket
    for i in range(search.num_steps):
        carry = step(carry, toy.feed.data[:4])
        now = shown(carry)
        if (i + 1) % 6:  # not across rounds
            back.append(masks.num_kept(jax.tree.map(lambda new, old: new & ~old, now, before)))
        before = now
    assert max(back) > 0
    end = trainer.finish(search, carry)
    assert masks.num_kept(end.mask) == 35  # of 176
    for a, b in zip(jax.tree.leaves(end.params), jax.tree.leaves(first.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_decay_and_penalty_pull_at_the_scores():
    ticket = make_ticket()

    def first_update(**options):
        _, search = edge_popup(ticket.mask, **OPTIONS, learning_rate=0.5, **options)
        zeros = jax.tree.map(jnp.zeros_like, ticket.scores)
        return search.optimizer.update(zeros, search.optimizer.init(ticket.scores), ticket.scores)[0]["a"]

    np.testing.assert_allclose(first_update(), -0.5 * 5e-4 * ticket.scores["a"], rtol=1e-5)
    np.testing.assert_allclose(first_update(l2=1e-3), -0.5 * 2.5e-3 * ticket.scores["a"], rtol=1e-5)
    assert not first_update(weight_decay=0.0).any()


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_nothing_is_sorted(scope):
    toy = make_toy()
    _, search = edge_popup(toy.ticket.mask, scope=scope, **GRADUAL)
    carry = trainer.begin(search, toy.ticket, toy.model_state, KEY)
    text = jax.jit(trainer.make_step(toy.loss_fn, search)).lower(carry, toy.feed.data[:4]).as_text()
    assert "sort" not in text
    assert "sort" in jax.jit(jnp.sort).lower(toy.feed.data).as_text()


def test_vmap_over_keys():
    toy = make_toy()
    start, search = edge_popup(toy.ticket.mask, **OPTIONS)

    def run(key):
        ticket = trainer.finish(start, trainer.begin(start, toy.ticket, toy.model_state, key))
        carry = trainer.begin(search, ticket, toy.model_state, key)
        step = trainer.make_step(toy.loss_fn, search)
        carry = jax.lax.fori_loop(0, 4, lambda i, c: step(c, toy.feed.data[:4]), carry)
        return trainer.finish(search, carry).mask

    keys = jax.random.split(KEY, 2)
    together, alone = jax.jit(jax.vmap(run))(keys), [jax.jit(run)(key) for key in keys]
    for i in range(2):
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone[i]), strict=True):
            np.testing.assert_array_equal(a[i], b)
    assert masks.overlap(*alone) < 1


def test_recipe():
    last = finetune(num_epochs=2, steps_per_epoch=3, learning_rate=0.1)
    recipe = edge_popup(shapes(), finetune=last, **OPTIONS)
    assert [(p.name, p.trains, p.num_steps) for p in recipe] == [
        ("edit", "params", 0), ("search", "scores", 21), ("finetune", "params", 6)
    ]  # fmt: skip
    assert recipe[2] is last
    assert len(edge_popup(shapes(), **OPTIONS)) == 2


def test_initial_scores():
    ticket = make_ticket()
    phase = initial_scores(0.25)
    end = trainer.finish(phase, trainer.begin(phase, ticket, {}, KEY))
    assert end.scores["bias"] is None
    assert {float(s) for name in SHAPES for s in end.scores[name].reshape(-1)} == {0.25}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"scope": "network"}, r"scope: expected 'global' or 'layer', got 'network'"),
        ({"sparsity": 1.0}, r"sparsity: expected a fraction removed in \[0, 1\), got 1.0"),
        ({"sparsity": 0.999, "scope": "global"}, r"0.999 keeps none of 100 weights; expected a lower one"),
        ({"sparsity": 0.99}, r"leave none of the 40 in b"),
        ({"num_epochs": 0}, r"num_epochs: expected 1 or more, got 0"),
        ({"steps_per_epoch": 0}, r"steps_per_epoch: expected 1 or more, got 0"),
        ({"gradual": True, "period": 7}, r"period: expected at most 6 for a search of 7 epochs, got 7"),
        ({"learning_rate": 0.0}, r"learning_rate: expected a positive number, got 0"),
        ({"learning_rate": float("inf")}, r"learning_rate: expected a positive number"),
        ({"momentum": 1.0}, r"momentum: expected a number in \[0, 1\), got 1.0"),
        ({"weight_decay": -1.0}, r"weight_decay: expected a finite number of 0 or more, got -1.0"),
        ({"l2": float("nan")}, r"l2: expected a finite number of 0 or more, got nan"),
    ],
)
def test_errors(changes, match):
    with pytest.raises(ValueError, match=match):
        edge_popup(shapes(), **{**OPTIONS, **changes})
