"""sparse.methods: which weights each method keeps, and when, beside NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rare_gems import masks, sparse, ste, transforms
from rare_gems.pruners.snfs import snfs
from tests.sparse.test_prune import PARAMS, gradient, train

SIZES = {"first": 32, "last": 8}


def kept(state):
    return {name: np.asarray(layer["kernel"]) for name, layer in sparse.masks(state).items()}


def top(scores, num_kept):
    """The mask of the largest of several arrays together."""
    flat = np.concatenate([s.ravel() for s in scores.values()])
    chosen = np.zeros(flat.size, bool)
    chosen[np.argsort(-flat, kind="stable")[:num_kept]] = True
    ends = np.cumsum([s.size for s in scores.values()])
    parts = np.split(chosen, ends[:-1])
    return {name: part.reshape(s.shape) for part, (name, s) in zip(parts, scores.items(), strict=True)}


def kernels(params):
    return {name: np.asarray(layer["kernel"], np.float64) for name, layer in params.items()}


def equal(a, b):
    assert {name: m.tolist() for name, m in a.items()} == {name: m.tolist() for name, m in b.items()}


@pytest.mark.parametrize("scope", ["global", "uniform", "erk", "own"])
def test_magnitude(scope):
    counts = {"global": None, "uniform": (8, 2), "erk": (7, 3), "own": (2, 8)}[scope]

    def own(mask, total):
        return {name: {"kernel": c, "bias": None} for name, c in zip(SIZES, counts, strict=True)}

    state = sparse.prune(optax.sgd(0.1), sparse.magnitude(0.75, scope=own if scope == "own" else scope)).init(PARAMS)
    sizes = {name: np.abs(w) for name, w in kernels(PARAMS).items()}
    if scope == "global":
        equal(kept(state), top(sizes, 10))
    else:
        assert sum(counts) == 10
        for name, count in zip(SIZES, counts, strict=True):
            equal({name: kept(state)[name]}, top({name: sizes[name]}, count))


def test_random_draws_by_its_key():
    first, again, other = (
        kept(sparse.prune(optax.sgd(0.1), sparse.random(0.75, scope="uniform"), key=key).init(PARAMS))
        for key in (0, jax.random.key(0), 1)
    )
    equal(first, again)
    assert any(np.any(first[name] != other[name]) for name in SIZES)
    assert {name: int(m.sum()) for name, m in other.items()} == {"first": 8, "last": 2}


def test_snip_looks_at_its_batches_with_weights_at_rest():
    tx = sparse.prune(optax.sgd(0.1), sparse.snip(0.75, batches=2))
    grads = [jax.tree.map(lambda w, c=c: jnp.cos(c * w), PARAMS) for c in (1, 2)]
    state, params = tx.init(PARAMS), PARAMS
    for g in grads:
        jax.tree.map(np.testing.assert_array_equal, params, PARAMS)
        assert float(sparse.sparsity(state)) == 0
        updates, state = jax.jit(tx.update)(g, state, params)
        params = optax.apply_updates(params, updates)
    scores = {name: np.abs(w * sum(kernels(g)[name] for g in grads)) for name, w in kernels(PARAMS).items()}
    equal(kept(state), top(scores, 10))
    for name, mask in kept(state).items():
        np.testing.assert_array_equal(params[name]["kernel"], np.where(mask, PARAMS[name]["kernel"], 0))
    _, state = jax.jit(tx.update)(grads[0], state, params)
    equal(kept(state), top(scores, 10))


def test_gradual_follows_the_cubic_schedule():
    tx = sparse.prune(optax.sgd(0.0), sparse.gradual(0.75, start=2, stop=8, every=2))
    expected = [40] * 3 + [round(10 + 30 * (2 / 3) ** 3)] * 2 + [round(10 + 30 / 27)] * 2 + [10] * 3
    sizes = {name: np.abs(w) for name, w in kernels(PARAMS).items()}
    for count, (_, state) in zip(expected, train(tx, num_steps=10), strict=True):
        equal(kept(state), top(sizes, count))


def test_gradual_by_saliency_at_once_at_erk_ratios():
    tx = sparse.prune(optax.sgd(0.0), sparse.gradual(0.75, start=3, stop=3, score="saliency", scope="erk"))
    sparsities = [float(sparse.sparsity(state)) for _, state in train(tx, num_steps=4)]
    assert sparsities == [0, 0, 0.75, 0.75]
    *_, (_, state) = train(tx, num_steps=3)
    for name, count in (("first", 7), ("last", 3)):
        scores = {name: np.abs(kernels(PARAMS)[name] * kernels(gradient(PARAMS))[name])}
        equal({name: kept(state)[name]}, top(scores, count))


def test_gradual_at_random_and_by_a_score_of_ones_own():
    tx = sparse.prune(optax.sgd(0.0), sparse.gradual(0.5, start=1, stop=1, score="random"))
    *_, (_, state) = train(tx, num_steps=1)
    assert masks.num_kept(sparse.masks(state)) == 20

    def negative(ticket, context):
        return masks.map_kept(jnp.negative, ticket.params, ticket.mask)

    *_, (_, state) = train(
        sparse.prune(optax.sgd(0.0), sparse.gradual(0.5, start=1, stop=1, score=negative)), num_steps=1
    )
    equal(kept(state), top({name: -w for name, w in kernels(PARAMS).items()}, 20))


def test_rigl_and_set_move_and_keep_the_counts_of_layers():
    for method in (
        sparse.rigl(0.75, num_steps=20, every=2, ratios="uniform", drop_fraction=0.5),
        sparse.sparse_evolutionary_training(0.75, num_steps=20, every=2, ratios="uniform", drop_fraction=0.5),
    ):
        tx = sparse.prune(optax.sgd(0.1), method)
        seen = [kept(tx.init(PARAMS)), *(kept(state) for _, state in train(tx, num_steps=2))]
        assert [{name: int(m.sum()) for name, m in mask.items()} for mask in seen] == [{"first": 8, "last": 2}] * 3
        equal(seen[0], seen[1])
        assert np.any(seen[1]["first"] != seen[2]["first"])


def test_weights_move_between_layers_in_a_loop_of_ones_own():
    method = sparse.Method(lambda mask: snfs(mask, sparsity=0.75, num_epochs=8, steps_per_epoch=1, every=2))
    tx = sparse.prune(optax.sgd(0.1), method)
    first, *_, last = kept(tx.init(PARAMS)), *(kept(state) for _, state in train(tx, num_steps=4))
    assert sum(m.sum() for m in last.values()) == sum(m.sum() for m in first.values()) == 10
    assert any(np.any(first[name] != last[name]) for name in SIZES)


def test_n_of_m_and_blocks_by_schedule():
    def two_of_four(scores):
        return sparse.keep_n_of_m(scores, 2, 4)

    state = sparse.prune(optax.sgd(0.1), sparse.selected(two_of_four)).init(PARAMS)
    assert all(np.all(m.reshape(-1, 4, m.shape[1]).sum(1) == 2) for m in kept(state).values())

    def blocks(scores):
        return sparse.keep_blocks(scores, 0.5, (2, 2))

    tx = sparse.prune(optax.sgd(0.1), sparse.selected(blocks, score="saliency", at=2, every=3))
    sparsities = [float(sparse.sparsity(state)) for _, state in train(tx, num_steps=6)]
    assert sparsities == [0, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_a_mask_that_is_made_anew_is_there_from_the_start():
    tx = sparse.prune(optax.sgd(0.1), sparse.selected(lambda s: sparse.keep_n_of_m(s, 2, 4), every=3))
    assert sparse.sparsity(tx.init(PARAMS)) == 0.5
    for step, (_, state) in enumerate(train(tx, num_steps=7), 1):
        assert sparse.sparsity(state) == 0.5
        if step == 3:
            third = sparse.masks(state)
        assert step != 5 or masks.num_kept(jax.tree.map(jnp.equal, third, sparse.masks(state))) == 40  # it stays


def test_freezing_follows_its_schedule_where_rounds_remove_less_than_a_weight():
    params = {"kernel": jnp.linspace(0.1, 0.9, 40).reshape(8, 5)}
    tx = sparse.prune(optax.set_to_zero(), sparse.freezing(0.9, num_rounds=30, every=1))
    kept_after = [masks.num_kept(sparse.masks(state)) for _, state in train(tx, params, 30)]
    assert kept_after == [round(40 * 0.1 ** (r / 30)) for r in range(1, 31)]


def test_freezing_trains_scores_as_gem_miner_does():
    """Beside NumPy: projected SGD with the regulariser, freezing the lowest scores every two updates."""
    weights = {"kernel": jnp.sin(jnp.arange(1.0, 9.0)).reshape(2, 4)}
    scores = {"kernel": jnp.linspace(0.3, 0.9, 8).reshape(2, 4)}
    target = jnp.array([0.5, -0.25, 1.0, 0.75])

    def loss(scores):
        seen = jax.tree.map(lambda w, p: w * ste.round_half(p), weights, scores)
        return jnp.sum(jnp.square(seen["kernel"].sum(0) - target))

    strength, rate = 0.01, 0.05
    tx = sparse.prune(
        optax.chain(optax.add_decayed_weights(2 * strength), optax.sgd(rate, momentum=0.9)),
        sparse.freezing(0.75, num_rounds=2, every=2),
    )
    p, w, v, q = (
        np.asarray(x, np.float64) for x in (scores["kernel"], weights["kernel"], np.zeros((2, 4)), np.ones((2, 4)))
    )
    loop = train(tx, scores, 6, gradient=jax.grad(loss))
    for t, (trained, state) in enumerate(loop):
        error = (w * (p >= 0.5)).sum(0) - np.asarray(target)
        v = (0.9 * v + (2 * error * w + 2 * strength * p)) * q
        p = np.clip(p - rate * v, 0, 1) * q
        if t in (1, 3):
            q = top({"p": np.where(q == 1, p, -1)}, {1: 4, 3: 2}[t])["p"]
            p, v = p * q, v * q
        np.testing.assert_array_equal(sparse.masks(state)["kernel"], q == 1)
        np.testing.assert_allclose(trained["kernel"], p, rtol=2e-5, atol=1e-6)


METHODS_THAT_RANK = {
    "random": (sparse.random(0.75), 1),
    "gradual": (sparse.gradual(0.75, stop=2, every=1, score="random"), 2),
    "rigl": (sparse.rigl(0.75, num_steps=8, every=2), 4),
    "snip": (sparse.snip(0.75, batches=300), 300),
    "snfs": (sparse.Method(lambda mask: snfs(mask, sparsity=0.75, num_epochs=8, steps_per_epoch=1, every=4)), 6),
    "freezing": (sparse.freezing(0.75, num_rounds=2, every=1), 2),
}


@pytest.mark.parametrize("name", METHODS_THAT_RANK)
def test_params_of_16_bits_get_the_masks_of_32(name):
    """Scores are drawn and added in float32: sums of 300 gradients would stand still at 256, and draws be ties."""
    method, num_steps = METHODS_THAT_RANK[name]
    narrow = {"kernel": jnp.linspace(0.5, 1.5, 2048).astype(jnp.bfloat16).reshape(64, 32)}
    grads = {"kernel": (1 + jnp.arange(2048) % 7 / 8).astype(jnp.bfloat16).reshape(64, 32)}
    masks_of = []
    for dtype in (jnp.bfloat16, jnp.float32):
        params, steps = (jax.tree.map(lambda x: x.astype(dtype), tree) for tree in (narrow, grads))  # noqa: B023
        tx = sparse.prune(optax.set_to_zero(), method)
        state = tx.init(params)
        update = jax.jit(tx.update)
        for _ in range(num_steps):
            updates, state = update(steps, state, params)
            params = optax.apply_updates(params, updates)
        masks_of.append(sparse.masks(state)["kernel"])
    assert masks_of[0].tolist() == masks_of[1].tolist()
    quarters = masks_of[0].reshape(4, -1).sum(1)  # 128 each, with a deviation of 8.5
    assert name != "random" or (abs(quarters - 128) < 45).all()


MOVES, START = transforms.clip_scores(), transforms.edit()
THREE = {name: {"kernel": 3, "bias": None} for name in SIZES}


def begun(method, **options):
    return sparse.prune(optax.sgd(0.1), method, **options).init(PARAMS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sparse.gradual(0.5, start=5, stop=3), "start, stop: expected 0 <= start <= stop"),
        (lambda: sparse.gradual(0.5, stop=3, every=4), "every: expected 1 to 3 updates, got 4"),
        (lambda: sparse.gradual(0.5, start=3, stop=3, initial_sparsity=7.0), "initial_sparsity: expected 0 where all"),
        (lambda: begun(sparse.freezing(0.99, num_rounds=2, every=1)), "sparsity: 0.99 keeps none of 40 weights"),
        (lambda: begun(sparse.Method(lambda mask: (MOVES, START))), "recipe: expected edits and then one transform"),
        (lambda: begun(sparse.Method(lambda mask: (MOVES, MOVES))), "recipe: expected edits and then one transform"),
        (lambda: sparse.gradual(0.5, start=3, stop=3, score="size"), "score: expected one of magnitude, sal"),
        (lambda: sparse.selected(lambda s: s, score="saliency"), "at: expected 1 or more"),
        (lambda: sparse.rigl(0.5, num_steps=10, momentum=0.9), "options: expected some of every, drop_fraction"),
        (lambda: sparse.freezing(0.5, num_rounds=2, every=0), "every: expected an integer of 1 or more, got 0"),
        (lambda: sparse.freezing(0.5, num_rounds=2, every=1.5), "every: expected an integer of 1 or more, got 1.5"),
        (lambda: sparse.snip(0.5, batches=1.5), "batches: expected an integer"),
        (lambda: sparse.selected(len, at=0.5), "at: expected an integer of 0 or more"),
        (lambda: sparse.rigl(0.5, num_steps=0), "num_steps: expected an integer of 1 or more"),
        (lambda: begun(sparse.magnitude(0.5, scope=lambda mask, total: THREE)), "scope: expected counts of 20"),
        (lambda: begun(sparse.magnitude(0.5, scope={"a": 1})), "scope: expected one of global"),
        (lambda: begun(sparse.selected(lambda s: None)), "select: expected the structure of the masks"),
        (lambda: begun(sparse.selected(lambda s: s)), r"select: expected bool\[8, 4\] for first/kernel, got float32"),
        (lambda: begun(sparse.selected(lambda s: jax.tree.map(lambda x: x > 9, s))), "select: expected to keep"),
        (lambda: begun(sparse.selected(len, score=lambda t, c: abs(c.grads))), "score: expected one that needs"),
        (lambda: begun(sparse.random(0.5), key=1.5), "key: expected one typed key"),
        (lambda: begun(sparse.random(0.5), key=jax.random.split(jax.random.key(0))), r"or a seed, got key<fry>\[2\]"),
        (lambda: sparse.prune(optax.sgd(0.1), sparse.magnitude(0.5, scope="layer")).init(PARAMS), "scope: expected"),
        (lambda: sparse.prune(optax.sgd(0.1), sparse.magnitude(1.5)).init(PARAMS), "sparsity: expected a fraction"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
