"""Leaves: keys of every implementation, what trains, and that nothing of 64 bits is cut, whichever function gets it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems import init, leaves, masks, sanity, selection, ste, transforms, views
from rare_gems.phase import Context, Ticket
from rare_gems.training import hyperparams

IMPLS = ["threefry2x32", "rbg", "unsafe_rbg"]
CUT = r"expected {} at most, got {}, which JAX would cut silently; call .astype\(np.{}\), or turn on jax_enable_x64"
FLOAT = CUT.format("float32", "float64", "float32")
CONTEXT = Context(0, jax.random.key(0), None, None)

# Two numbers of each that float32 and int32 tell not apart.
W = {"a": np.array([[1.0, 1 + 1e-12], [2.0, -3.0]]), "bias": np.array([2**40, 5_000_000_000])}
M = {"a": np.array([[True, True], [True, False]]), "bias": None}


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 2)])
def test_keys_of_every_implementation(impl, shape):
    keys = jax.random.split(jax.random.key(0, impl=impl), shape) if shape else jax.random.key(0, impl=impl)
    for leaf in (keys, jax.eval_shape(lambda: keys)):
        assert leaves.is_key(leaf)
        assert leaves.key_impl(leaf) == impl
    assert not leaves.is_key(jax.random.key_data(keys))


def test_what_trains_is_told_apart_and_joined_again():
    tree = {"w": jnp.ones(2), "half": jnp.ones(1, jnp.bfloat16), "n": jnp.int32(3), "m": jnp.array([True]),
            "key": jax.random.key(1), "none": None}  # fmt: skip
    trained, rest = leaves.split(tree)
    assert [name for name, leaf in trained.items() if leaf is not None] == ["half", "w"]
    assert [name for name, leaf in rest.items() if leaf is not None] == ["key", "m", "n"]
    joined = leaves.join(trained, rest)
    assert all(joined[name] is leaf for name, leaf in tree.items())


def test_a_cut_is_refused_by_the_name_of_its_leaf():
    with pytest.raises(ValueError, match=r"state/bn/n: " + CUT.format("int32", "int64", "int32")):
        leaves.check_kept("state", {"bn": {"n": np.int64(2**40), "x": np.float32(1)}})
    with pytest.raises(ValueError, match=r"^x: " + CUT.format("uint32", "uint64", "uint32")):
        leaves.check_arrays("x", np.uint64(3))
    with pytest.raises(ValueError, match=r"^x: " + CUT.format("complex64", "complex128", "complex64")):
        leaves.as_jax("x", np.zeros(2, complex))
    with pytest.raises(ValueError, match="state/name: expected an array, got str"):
        leaves.check_arrays("state", {"name": "relu"})
    with jax.enable_x64(True):
        assert leaves.as_jax("x", np.int64(2**40)) == 2**40
        leaves.check_arrays("x", W)


@pytest.mark.parametrize(("number", "dtype"), [(2**31, "int32"), (-(2**31) - 1, "int32"), (1e39, "float32")])
def test_numbers_of_python_that_jax_cannot_hold_are_refused(number, dtype):
    with pytest.raises(ValueError, match=rf"state/bn/0: expected a number that {dtype} holds, got "):
        leaves.check_kept("state", {"bn": [number], "kept": (2**31 - 1, -(2**31), 3e38, -np.inf, True)})
    with jax.enable_x64(True):
        leaves.check_kept("state", number)
        with pytest.raises(ValueError, match=r"^n: expected a number that int64 holds, got 18446744073709551616$"):
            leaves.as_jax("n", 2**64)


def test_the_other_order_of_bytes():
    swapped = np.arange(3.0).astype(np.dtype("f4").newbyteorder("S"))
    assert leaves.as_jax("w", swapped).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"ticket/w: expected float32 in this machine's order of bytes, got .f4; call"):
        leaves.check_kept("ticket", {"w": swapped})


def test_dtypes_that_jax_does_not_take_are_named():
    for leaf in (np.ones(2, "M8[s]"), np.array(["a"]), np.array([None])):
        with pytest.raises(ValueError, match=f"^w: expected a dtype that JAX takes, got {re.escape(str(leaf.dtype))}$"):
            leaves.as_jax("w", leaf)
    with pytest.raises(ValueError, match=r"^params of a: expected a dtype that JAX takes, got <U1$"):
        masks.apply({"a": np.array(["x", "y"])}, {"a": np.ones(2, bool)})
    with pytest.raises(TypeError):
        leaves.as_jax("w", "relu")


def test_keys_that_cannot_be_sorted_are_named():
    leaves.check_sortable("params", {"a": {1: None, 2: [()]}, "b": Ticket({}, None, 3)})
    with pytest.raises(ValueError, match=r"params/b/params/0: expected keys of one type, .* got 'last' and 2$"):
        leaves.check_sortable("params", {"b": Ticket([{"last": 1, 2: 2}], None, None)})


def test_masks_of_numpy_64_bits_keep_the_dtype_or_refuse():
    mask = masks.ones(W)
    assert (mask["a"].shape, mask["bias"]) == ((2, 2), None)
    sparse = masks.apply(W, M)
    assert sparse["a"].dtype == np.float64
    np.testing.assert_array_equal(sparse["a"], [[1.0, 1 + 1e-12], [2.0, 0.0]])
    assert sparse["bias"] is W["bias"]
    for m in (M, jax.tree.map(jnp.asarray, M)):  # of NumPy or of JAX
        np.testing.assert_array_equal(masks.apply(W, m)["a"], sparse["a"])
    sizes = masks.map_kept(np.abs, W, M)["a"]
    np.testing.assert_array_equal(sizes, np.abs(W["a"]), strict=True)
    assert masks.map_kept(jnp.abs, {"a": np.float32(W["a"])}, {"a": M["a"]})["a"].dtype == jnp.float32
    assert (masks.num_kept(M), masks.num_prunable(M), masks.sparsity(M)) == (3, 4, 0.25)
    assert masks.num_kept(masks.keep_top({"a": np.float32(W["a"])}, np.int64(2))) == 2
    assert masks.overlap(M, M) == 1.0
    masks.check(masks.shuffle(jax.random.key(0), M), 3)
    for refused in (
        lambda: masks.map_kept(jnp.abs, W, M),
        lambda: masks.keep_top(masks.map_kept(np.abs, W, M), 2),
        lambda: jax.jit(lambda m: masks.apply(W, m))({"a": jnp.asarray(M["a"]), "bias": None}),
        lambda: selection.top_mask({"a": W["a"]}, 2),
        lambda: selection.top_mask_per_leaf({"a": W["a"]}, 2),
    ):
        with pytest.raises(ValueError, match=FLOAT):
            refused()
    with pytest.raises(ValueError, match="mask of : expected dtype bool, got int64"):
        masks.shuffle(jax.random.key(0), np.arange(3))


def test_masks_with_64_bits_turned_on():
    with jax.enable_x64(True):
        scores = masks.map_kept(jnp.abs, W, M)
        mask = masks.keep_top(scores, 3)
        np.testing.assert_array_equal(mask["a"], [[False, True], [True, True]])  # 1 + 1e-12 before 1
        assert masks.apply(W, mask)["a"].dtype == jnp.float64
        assert init.kaiming_normal(jax.random.key(0), W, M)["a"].dtype == jnp.float64
        masks.check(masks.shuffle(jax.random.key(0), mask), 3)


def test_a_count_beyond_32_bits_keeps_all():
    scores = {"a": jnp.arange(4.0)}
    for count in (2**40, np.int64(2**40), np.array(2**40)):
        assert selection.top_mask(scores, count)["a"].all()


TICKET = Ticket(W, {"a": np.array([[0.5 - 1e-12, 0.2], [0.7, 0.9]]), "bias": None}, M)
EDITS = [
    transforms.clip_scores(), transforms.keep_rounded(), transforms.keep_top(1), transforms.keep_next([1]),
    transforms.scores_from(lambda ticket, context: ticket.scores), transforms.rewind(),
    transforms.accumulate_scores(lambda ticket, context: ticket.scores),
    transforms.when(lambda step: jnp.bool(True), transforms.identity()),
    transforms.drop_and_grow(lambda step: jnp.float32(0.5), lambda ticket, context: ticket.scores),
    sanity.reinit(init.kaiming_normal), sanity.reinit(init.signed_constant), sanity.reinit(init.uniform),
]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_edits_of_a_ticket_refuse(edit):
    with pytest.raises(ValueError, match=r"at most, got (float|int)64, which JAX would cut silently"):
        edit.update(TICKET, edit.init(TICKET), CONTEXT)


@pytest.mark.parametrize("view", [views.rounded, views.sampled, views.top_scored(1), views.reselected()])
def test_views_of_a_ticket_refuse(view):
    with pytest.raises(ValueError, match=r"float64, which JAX would cut silently"):
        view(TICKET, 0, jax.random.key(0))


def test_what_moves_weights_moves_every_bit():
    masked = views.masked(TICKET, 0, jax.random.key(0))["a"]
    np.testing.assert_array_equal(masked, [[1.0, 1 + 1e-12], [2.0, 0.0]], strict=True)
    moved = sanity.shuffle_weights("all").update(TICKET, (), CONTEXT)[0].params["a"]
    assert moved.dtype == np.float64
    assert sorted(moved.ravel().tolist()) == sorted(W["a"].ravel().tolist())
    shuffled = sanity.shuffle().update(TICKET, (), CONTEXT)[0]
    assert shuffled.params is W


def test_straight_through_estimators_refuse():
    scores, mask = TICKET.scores["a"], M["a"]
    for refused in (
        lambda: ste.round_half(scores),  # 0.5 - 1e-12 is 0.5 in float32
        lambda: ste.drawn(np.float32(scores), scores),
        lambda: ste.mask_of(scores, mask),
        lambda: ste.chosen(scores, mask),
    ):
        with pytest.raises(ValueError, match=FLOAT):
            refused()


def test_numbers_that_32_bits_do_not_hold():
    make = lambda **numbers: transforms.identity()  # noqa: E731
    for refused, message in (
        (lambda: hyperparams.transform(make, kept=2**40), "kept: expected integers that int32 holds"),
        (lambda: hyperparams.transform(make, rate=1e300), "rate: expected numbers that float32 holds"),
        (lambda: hyperparams.optimizer(make, rate=np.float64(1e300)), "rate: expected numbers that float32 holds"),
        (lambda: transforms.keep_top(2**40), "num_kept: expected integers that int32 holds"),
        (lambda: transforms.keep_next([2**40, 3]), "num_kept: expected integers that int32 holds"),
    ):
        with pytest.raises(ValueError, match=message):
            refused()
