"""rare_gems.transforms: every part and combinator on cases worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import masks, schedules, transforms, views
from rare_gems.phase import Context, Ticket, Transform

KEY = jax.random.key(0)


def at(step, grads=None, key=KEY, batch=None):
    return Context(jnp.int32(step), key, batch, grads)


def make_ticket():
    params = {
        "w": jnp.array([[1.0, -2.0], [3.0, -4.0]]),
        "bias": jnp.array([5.0]),
        "v": jnp.array([0.5, -0.25]),
    }
    mask = {"w": jnp.array([[True, True], [True, False]]), "bias": None, "v": jnp.array([True, True])}
    scores = {"w": jnp.array([[0.9, 0.2], [0.5, 1.0]]), "bias": None, "v": jnp.array([0.7, 0.1])}
    return Ticket(params, scores, mask)


def as_lists(tree):
    return jax.tree.map(lambda leaf: leaf.tolist(), tree)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return jax.tree.all(jax.tree.map(jnp.array_equal, a, b))


def add(amount):
    """scores + amount, counting its calls in its state."""
    return Transform(
        lambda ticket: jnp.int32(0),
        lambda t, state, context: (
            t._replace(scores=jax.tree.map(lambda s: s + amount, t.scores)),
            state + 1,
        ),
    )


def double():
    return transforms.scores_from(lambda t, context: jax.tree.map(lambda s: 2 * s, t.scores))


def run(transform, ticket, *contexts):
    state = transform.init(ticket)
    for context in contexts:
        ticket, state = transform.update(ticket, state, context)
    return ticket, state


def test_identity():
    ticket = make_ticket()
    out, _ = run(transforms.identity(), ticket, at(0), at(1))
    assert same(out, ticket)


def test_chain_goes_from_left_to_right_with_a_state_each():
    ticket = make_ticket()
    out, state = run(transforms.chain(add(1.0), double(), add(10.0)), ticket, at(0), at(1))
    expected = 2 * ((2 * (0.7 + 1) + 10) + 1) + 10
    np.testing.assert_allclose(out.scores["v"][0], expected, rtol=1e-6)
    assert [int(state[0]), state[1], int(state[2])] == [2, (), 2]
    assert same(run(transforms.chain(), ticket, at(0))[0], ticket)


def test_when_is_a_no_op_elsewhere():
    ticket = make_ticket()
    transform = transforms.when(lambda step: step % 3 == 2, add(1.0))
    update = jax.jit(transform.update)
    state = transform.init(ticket)
    calls = []
    for step in range(7):
        before = ticket
        ticket, state = update(ticket, state, at(step))
        calls.append(int(state))
        fired = step % 3 == 2
        assert same(ticket.scores, before.scores) != fired
        assert same((ticket.params, ticket.mask), (before.params, before.mask))
    assert calls == [0, 0, 1, 1, 1, 2, 2]
    np.testing.assert_allclose(ticket.scores["v"], [2.7, 2.1], rtol=1e-6)


def test_edit_is_a_phase_of_no_steps():
    phase = transforms.edit(double(), add(1.0))
    assert (phase.num_steps, phase.view, phase.hold_dead) == (0, views.masked, False)
    out, _ = run(phase.after, make_ticket(), at(0))
    np.testing.assert_allclose(out.scores["v"], [2.4, 1.2], rtol=1e-6)
    ticket = make_ticket()
    assert same(run(phase.during, ticket, at(0))[0], ticket)


def test_scores_from_keeps_the_dtype():
    ticket = make_ticket()
    ticket = ticket._replace(scores=jax.tree.map(lambda s: s.astype(jnp.bfloat16), ticket.scores))

    def saliency(t, context):
        return masks.map_kept(lambda pair: jnp.abs(pair), jax.tree.map(jnp.multiply, t.params, context.grads), t.mask)

    grads = {"w": jnp.array([[2.0, 3.0], [0.0, -1.0]]), "bias": jnp.ones(1), "v": jnp.array([4.0, 4.0])}
    out, _ = run(transforms.scores_from(saliency), ticket, at(0, grads))
    assert as_lists(out.scores) == {"w": [[2, 6], [0, 4]], "bias": None, "v": [2, 1]}
    assert out.scores["w"].dtype == jnp.bfloat16
    assert same((out.params, out.mask), (ticket.params, ticket.mask))


def test_accumulate_scores_sums_from_zero():
    ticket = make_ticket()
    transform = transforms.accumulate_scores(lambda t, context: context.grads)
    grads = [{"w": jnp.full((2, 2), x), "bias": None, "v": jnp.array([x, -x])} for x in (1.0, 2.0, 4.0)]
    out, state = run(transform, ticket, *[at(i, g) for i, g in enumerate(grads)])
    assert as_lists(out.scores) == {"w": [[7, 7], [7, 7]], "bias": None, "v": [7, -7]}
    assert same(out.scores, state)


def test_clip_scores():
    ticket = make_ticket()
    ticket = ticket._replace(
        scores={"w": jnp.array([[-1.0, 0.0], [0.5, 1.5]]), "bias": None, "v": jnp.array([1.0, -0.1])}
    )
    out, _ = run(transforms.clip_scores(), ticket, at(0))
    assert as_lists(out.scores) == {"w": [[0, 0], [0.5, 1]], "bias": None, "v": [1, 0]}
    out, _ = run(transforms.clip_scores(-0.5, 0.25), ticket, at(0))
    assert as_lists(out.scores)["w"] == [[-0.5, 0], [0.25, 0.25]]
    for low, high in [(1.0, 1.0), (1.0, 0.0), (0.0, float("nan"))]:
        with pytest.raises(ValueError, match=r"expected low < high"):
            transforms.clip_scores(low, high)


def test_keep_top():
    ticket = make_ticket()  # scores .9 .2 / .5 (1.0 dead), .7 .1
    out, _ = run(transforms.keep_top(3), ticket, at(0))
    assert as_lists(out.mask) == {"w": [[True, False], [True, False]], "bias": None, "v": [True, False]}
    assert same((out.params, out.scores), (ticket.params, ticket.scores))
    out, _ = run(transforms.keep_top(3, revive=True), ticket, at(0))
    assert as_lists(out.mask) == {"w": [[True, False], [False, True]], "bias": None, "v": [True, False]}
    out, _ = run(transforms.keep_top({"w": 1, "bias": None, "v": 2}, "layer"), ticket, at(0))
    assert as_lists(out.mask) == {"w": [[True, False], [False, False]], "bias": None, "v": [True, True]}
    magnitude = transforms.keep_top(2, score=lambda t: masks.map_kept(jnp.abs, t.params, t.mask))
    out, _ = run(magnitude, ticket, at(0))
    assert as_lists(out.mask) == {"w": [[False, True], [True, False]], "bias": None, "v": [False, False]}


def test_keep_top_with_a_count_for_each_step():
    transform = transforms.keep_top(lambda step: jnp.array([5, 3, 2])[step])
    out = make_ticket()
    counts = []
    update = jax.jit(transform.update)
    for step in range(3):
        before = out.mask
        out, _ = update(out, (), at(step))
        counts.append(masks.num_kept(out.mask))
        assert masks.overlap(out.mask, before) == 1  # nested
    assert counts == [5, 3, 2]


def test_keep_top_and_keep_given_with_floors():
    """The floors are in the state, so that they are no constants of the program."""
    ticket = make_ticket()
    ticket = ticket._replace(mask=jax.tree.map(jnp.ones_like, ticket.mask))
    ticket = ticket._replace(
        scores={"w": jnp.array([[0.9, 0.2], [0.5, 1.0]]), "bias": None, "v": jnp.array([0.0, 0.1])}
    )
    expected = {"w": [[True, False], [False, True]], "bias": None, "v": [False, True]}
    keep = transforms.keep_top(3, at_least=1)
    assert as_lists(run(keep, ticket, at(0))[0].mask) == expected
    assert keep.init(ticket)[1].dtype == jnp.int32
    rows = transforms.keep_top([4, 3], at=lambda step: step, at_least={"w": 0, "bias": None, "v": 1})
    assert as_lists(run(rows, ticket, at(0), at(1))[0].mask) == expected
    given = transforms.keep_given(at_least=1)
    assert as_lists(run(given, ticket, at(0)._replace(given=jnp.int32(3)))[0].mask) == expected
    assert given.init(ticket).dtype == jnp.int32
    with pytest.raises(ValueError, match=r"expected an integer, got 0\.5"):
        transforms.keep_given(at_least=0.5)


def test_keep_rounded():
    ticket = make_ticket()
    out, _ = run(transforms.keep_rounded(), ticket, at(0))
    assert as_lists(out.mask) == {"w": [[True, False], [True, False]], "bias": None, "v": [True, False]}
    assert same((out.params, out.scores), (ticket.params, ticket.scores))


def test_rewind_restores_bit_for_bit():
    start = jnp.array([0.1, -0.0, 1e-42, 3.0, jnp.inf], jnp.float32)
    ticket = Ticket({"w": start, "b": jnp.ones(2, jnp.bfloat16)}, {"w": start, "b": None}, {"w": start > 0, "b": None})
    transform = transforms.rewind()
    state = transform.init(ticket)
    trained = ticket._replace(
        params=jax.tree.map(lambda w: w * 3 + 1, ticket.params), mask={"w": jnp.zeros(5, bool), "b": None}
    )
    out, state = jax.jit(transform.update)(trained, state, at(9))
    assert out.params["w"].view(jnp.uint32).tolist() == start.view(jnp.uint32).tolist()
    assert out.params["b"].view(jnp.uint16).tolist() == ticket.params["b"].view(jnp.uint16).tolist()
    assert same((out.mask, out.scores["b"]), (trained.mask, None))
    assert transform.init(ticket)["w"] is not ticket.params["w"]  # a buffer of its own, for donation


def test_rigl_by_hand():
    """Six weights kept, a third dropped: the two smallest go, and the two largest dense gradients come."""
    params = {"w": jnp.array([[5.0, -0.1, 2.0, 0.0, 0.0], [-3.0, 0.2, 4.0, 0.0, 0.0]]), "bias": jnp.ones(2)}
    mask = {
        "w": jnp.array([[True, True, True, False, False], [True, True, True, False, False]]),
        "bias": None,
    }
    grads = {"w": jnp.array([[9.0, 0.5, 9.0, 0.1, -0.8], [9.0, 0.9, 9.0, -0.7, 0.2]]), "bias": jnp.ones(2)}
    ticket = Ticket(params, {"w": jnp.zeros((2, 5)), "bias": None}, mask)
    transform = transforms.drop_and_grow(
        lambda step: jnp.float32(1 / 3), lambda t, context: masks.map_kept(jnp.abs, context.grads, t.mask)
    )
    out, _ = jax.jit(transform.update)(ticket, (), at(0, grads))
    # -0.1 and 0.2 go; of 0.5, 0.1, 0.8, 0.9, 0.7, 0.2 the largest are 0.9 (just dropped) and 0.8
    assert as_lists(out.mask) == {
        "w": [[True, False, True, False, True], [True, True, True, False, False]], "bias": None
    }  # fmt: skip
    was = as_lists(ticket.params)["w"]
    assert as_lists(out.params)["w"] == [
        [w if kept and old else 0 for w, kept, old in zip(*rows, strict=True)]
        for rows in zip(was, as_lists(out.mask)["w"], as_lists(ticket.mask)["w"], strict=True)
    ]
    assert as_lists(out.params)["bias"] == [1, 1]


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 1.0])
def test_drop_and_grow_keeps_every_layers_count(fraction):
    rng = np.random.default_rng(0)
    shapes = {"a": (6, 7), "b": (3, 3)}
    mask = {name: jnp.asarray(rng.random(shape) < 0.5) for name, shape in shapes.items()}
    params = masks.apply({name: jnp.float32(rng.normal(size=shape)) for name, shape in shapes.items()}, mask)
    ticket = Ticket(params, jax.tree.map(jnp.zeros_like, params), mask)

    def noise(t, context):
        return {name: jax.random.uniform(context.key, leaf.shape) for name, leaf in t.mask.items()}

    out, _ = jax.jit(transforms.drop_and_grow(lambda step: jnp.float32(fraction), noise).update)(ticket, (), at(0))
    assert masks.layer_counts(out.mask) == masks.layer_counts(mask)
    for name in shapes:
        before, after = np.asarray(mask[name]), np.asarray(out.mask[name])
        w, new = np.asarray(params[name]), np.asarray(out.params[name])
        dropped = round(fraction * int(before.sum()))
        gone = before & ~after
        assert gone.sum() <= dropped
        np.testing.assert_array_equal(new, np.where(before & after, w, 0))  # what grows starts from zero
        assert set(np.abs(w[gone])) <= set(np.sort(np.abs(w[before]))[:dropped])
    if fraction == 0:
        assert same(out, ticket)
    else:
        assert not same(out.mask, mask)


def test_parts_compile_and_scan():
    ticket = make_ticket()
    transform = transforms.chain(
        transforms.clip_scores(),
        transforms.when(schedules.every(2), transforms.keep_top(lambda step: 5 - step)), transforms.rewind(),
    )  # fmt: skip

    def body(carry, step):
        ticket, state = transform.update(*carry, at(step))
        return (ticket, state), masks.num_kept(ticket.mask)

    (out, _), counts = jax.lax.scan(body, (ticket, transform.init(ticket)), jnp.arange(4))
    assert counts.tolist() == [5, 4, 4, 2]
    assert same(out.params, ticket.params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: transforms.keep_top(-3), "num_kept: expected 0 or more, got -3"),
        (lambda: transforms.keep_top(2, at_least=0.5), "at_least: expected an integer, got 0.5"),
        (lambda: transforms.keep_top(2, at_least=-1), "at_least: expected 0 or more, got -1"),
        (
            lambda: transforms.keep_next([2, 0]),
            r"counts: expected them to fall at every round, to 1 or more",
        ),
    ],
)
def test_counts_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_fraction_of_one_drops_no_more_than_there_is():
    """Beyond 2^24 float32 rounds a layer's count up; a fraction above 1 stands for it."""
    kept = jnp.arange(10) < 5
    ticket = Ticket([jnp.ones(10)], [jnp.arange(10.0)], [kept])
    move = transforms.drop_and_grow(lambda step: jnp.float32(1.3), lambda ticket, context: ticket.scores)
    out, _ = move.update(ticket, (), Context(jnp.int32(0), jax.random.key(0), None, None))
    assert masks.num_kept(out.mask) == 5
