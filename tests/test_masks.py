"""rare_gems.masks against NumPy (float64, stable sorts) and numbers worked by hand."""

import dataclasses
import decimal
import fractions
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from rare_gems import masks


class Pair(NamedTuple):
    kernel: Any
    bias: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    """An Equinox module, as JAX sees it: a bias of three dimensions, functions and None among the leaves."""

    weight: Any
    bias: Any
    activation: Callable
    norm: Any = None


# A few structures, so that hypothesis draws numbers without compiling anew each time.
STRUCTURES = [
    {
        "a": {"kernel": ((3, 2, 4), "float32"), "bias": None},
        "b": [((6, 2), "float32"), None, ((1, 1), "float32")],
    },
    Pair([((5, 5), "float16"), None], {"y": ((3, 5), "float32"), "z": (((4, 2), "bfloat16"),)}),
]


def is_spec(node):
    return isinstance(node, tuple) and len(node) == 2 and isinstance(node[1], str)


def draw_scores(structure, seed, kind):
    rng = np.random.default_rng(seed)

    def leaf(spec):
        shape, dtype = spec
        if kind == "ties":
            values = rng.choice([-1.0, 0.0, -0.0, 0.5], size=shape)
        elif kind == "equal":
            values = np.zeros(shape)
        else:
            values = rng.normal(size=shape)
        return jnp.asarray(values.astype(np.float32)).astype(dtype)

    return jax.tree.map(leaf, structure, is_leaf=is_spec)


def draw_within(scores, seed):
    rng = np.random.default_rng(seed + 1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.random(leaf.shape) < 0.6), scores)


def as_float64(tree):
    return [np.asarray(leaf.astype(jnp.float32)).astype(np.float64) for leaf in jax.tree.leaves(tree)]


def sorted_reference(leaves, candidates, count):
    """The top `count` by a stable sort of -score over the concatenation of all leaves."""
    scores = np.concatenate([leaf.reshape(-1) for leaf in leaves])
    allowed = np.concatenate([leaf.reshape(-1) for leaf in candidates])
    order = np.argsort(-scores, kind="stable")
    kept = np.zeros(scores.size, bool)
    kept[order[allowed[order]][:count]] = True
    pieces = np.split(kept, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return [piece.reshape(leaf.shape) for piece, leaf in zip(pieces, leaves, strict=True)]


def pick_count(which, size, seed):
    middle = int(np.random.default_rng(seed).integers(0, size + 1))
    return {"none": 0, "one": min(1, size), "most": max(size - 1, 0), "all": size, "some": middle}[which]


def check_same(mask, scores, expected):
    assert jax.tree.structure(mask) == jax.tree.structure(scores)
    for got, want in zip(jax.tree.leaves(mask), expected, strict=True):
        assert got.dtype == bool
        np.testing.assert_array_equal(np.asarray(got), want)


draws = given(
    structure=st.sampled_from(range(len(STRUCTURES))),
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["ties", "ties", "equal", "normal"]),
    which=st.sampled_from(["none", "one", "most", "all", "some"]),
    restrict=st.booleans(),
)


def draw_case(structure, seed, kind, restrict):
    """Scores, `within` (None unless restricted), and both as lists of NumPy leaves for the reference."""
    scores = draw_scores(STRUCTURES[structure], seed, kind)
    within = draw_within(scores, seed) if restrict else None
    leaves = as_float64(scores)
    candidates = [np.ones(x.shape, bool) for x in leaves]
    if restrict:
        candidates = [np.asarray(m) for m in jax.tree.leaves(within)]
    return scores, within, leaves, candidates


@draws
@settings(max_examples=30, deadline=None, derandomize=True)
def test_keep_top_global(structure, seed, kind, which, restrict):
    scores, within, leaves, candidates = draw_case(structure, seed, kind, restrict)
    count = pick_count(which, sum(int(c.sum()) for c in candidates), seed)
    mask = masks.keep_top(scores, count, within=within)
    check_same(mask, scores, sorted_reference(leaves, candidates, count))
    assert masks.num_kept(mask) == count
    masks.check(mask, count)


@draws
@settings(max_examples=30, deadline=None, derandomize=True)
def test_keep_top_layer(structure, seed, kind, which, restrict):
    scores, within, leaves, candidates = draw_case(structure, seed, kind, restrict)
    counts = [pick_count(which, int(c.sum()), seed + i) for i, c in enumerate(candidates)]
    tree = jax.tree.structure(scores).unflatten(counts)
    mask = masks.keep_top(scores, tree, "layer", within)
    expected = [sorted_reference([x], [c], k)[0] for x, c, k in zip(leaves, candidates, counts, strict=True)]
    check_same(mask, scores, expected)
    assert [k for k, _ in masks.layer_counts(mask).values()] == counts


def test_keep_top_layer_with_one_number_for_all():
    scores = {"a": jnp.array([[1.0, 3.0, 2.0]]), "b": jnp.array([[0.0, 0.0], [5.0, 0.0]]), "c": None}
    mask = masks.keep_top(scores, 2, "layer")
    assert jax.tree.map(lambda m: m.tolist(), mask) == {
        "a": [[False, True, True]], "b": [[True, False], [True, False]], "c": None
    }  # fmt: skip
    again = masks.keep_top(scores, np.int64(2), "layer")
    assert jax.tree.all(jax.tree.map(jnp.array_equal, mask, again))


def floors_reference(leaves, candidates, count, floors):
    """Each leaf's top of its floor by a stable sort, then the top of the rest of all; the count holds above all."""
    base = [sorted_reference([x], [c], f)[0] for x, c, f in zip(leaves, candidates, floors, strict=True)]
    num_base = sum(int(b.sum()) for b in base)
    if num_base > count:
        return sorted_reference(leaves, base, count)
    rest = [c & ~b for c, b in zip(candidates, base, strict=True)]
    return [b | r for b, r in zip(base, sorted_reference(leaves, rest, count - num_base), strict=True)]


select_with_floors = jax.jit(lambda s, k, f, w: masks.keep_top(s, k, within=w, at_least=f))


@given(structure=st.sampled_from([0, 1]), seed=st.integers(0, 2**31), kind=st.sampled_from(["ties", "equal", "normal"]))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_keep_top_at_least(structure, seed, kind):
    """Traced counts and floors, more than there are, and within: exact, and as sorting leaf by leaf has it."""
    scores, within, leaves, candidates = draw_case(structure, seed, kind, True)
    rng = np.random.default_rng(seed)
    floors = [int(rng.integers(0, 6)) for _ in leaves]
    count = int(rng.integers(0, sum(int(c.sum()) for c in candidates) + 1))
    mask = select_with_floors(
        scores, jnp.int32(count), jax.tree.structure(scores).unflatten([jnp.int32(f) for f in floors]), within
    )
    check_same(mask, scores, floors_reference(leaves, candidates, count, floors))
    masks.check(mask, count)


def test_keep_top_at_least_by_hand():
    scores = {"a": jnp.array([0.9, 0.8, 0.7]), "b": jnp.array([0.1, 0.1]), "c": None, "d": jnp.array([0.5])}
    as_lists = lambda **given: {k: m if m is None else m.tolist() for k, m in given.items()}  # noqa: E731
    mask = masks.keep_top(scores, 4, at_least=1)
    assert as_lists(**mask) == {"a": [True, True, False], "b": [True, False], "c": None, "d": [True]}
    mask = masks.keep_top(scores, 4, at_least={"a": 0, "b": 2, "c": None, "d": 0})
    assert as_lists(**mask) == {"a": [True, True, False], "b": [True, True], "c": None, "d": [False]}
    none = masks.keep_top(scores, 3, at_least=0)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, none, masks.keep_top(scores, 3)))
    within = {"a": jnp.array([False, True, True]), "b": jnp.array([False, False]), "c": None, "d": jnp.array([True])}
    mask = masks.keep_top(scores, 2, within=within, at_least=1)  # a layer without candidates keeps none
    assert as_lists(**mask) == {"a": [False, True, False], "b": [False, False], "c": None, "d": [True]}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"at_least": 1, "scope": "layer", "num_kept": 1}, "at_least: expected the scope 'global'"),
        ({"at_least": 2}, "at_least: expected floors that sum to at most the 2 weights kept, got 3"),
        ({"at_least": -1}, "at_least of a: expected an integer of 0 or more, got -1"),
        ({"at_least": 0.5}, "at_least of a: expected an integer, got 0.5"),
        ({"at_least": {"a": 1}}, "at_least: expected the structure of scores"),
    ],
)
def test_keep_top_at_least_refuses(given, said):
    with pytest.raises(ValueError, match=said):
        masks.keep_top({"a": jnp.array([0.9, 0.8]), "b": jnp.array([0.1])}, **{"num_kept": 2} | given)


def test_floors_that_are_known_are_checked_before_scores_are():
    select = jax.jit(lambda scores: masks.keep_top(scores, 1, at_least=1))
    with pytest.raises(ValueError, match="at_least: expected floors that sum to at most the 1 weights kept, got 2"):
        select([jnp.zeros(2), jnp.zeros(2)])


def test_keep_top_traced_counts():
    scores = {"a": jnp.array([[0.5, 0.5], [1.0, 0.5]]), "b": None, "c": jnp.array([0.5, 2.0])}
    traces = []

    @jax.jit
    def select(scores, count):
        traces.append(count)
        return masks.keep_top(scores, count)

    leaves = as_float64(scores)
    everything = [np.ones(x.shape, bool) for x in leaves]
    for count in range(7):
        check_same(select(scores, jnp.int32(count)), scores, sorted_reference(leaves, everything, count))
    assert len(traces) == 1
    within = {"a": jnp.array([[True, False], [False, True]]), "b": None, "c": jnp.array([True, False])}
    few = jax.jit(lambda s, k, m: masks.keep_top(s, k, within=m))(scores, jnp.int32(5), within)  # more than there are
    check_same(few, scores, [np.asarray(x) for x in jax.tree.leaves(within)])
    each = jax.jit(lambda s, k: masks.keep_top(s, {"a": k, "b": None, "c": k + 1}, "layer"))(scores, jnp.int32(1))
    check_same(each, scores, [np.array([[False, False], [True, False]]), np.array([True, True])])


def test_constants_inside_a_traced_function():
    """Arrays that a compiled function closes over are not tracers, but what is computed from them is."""
    scores = {"a": jnp.array([[0.5, 0.25], [1.0, 0.5]]), "b": None}
    mask = {"a": jnp.array([[True, False], [True, False]]), "b": None}
    top = jax.jit(lambda k: masks.keep_top(scores, k))(jnp.int32(2))
    assert top["a"].tolist() == [[True, False], [True, False]]
    inside = jax.jit(lambda k: masks.keep_top(scores, k, within=mask))(jnp.int32(1))
    assert inside["a"].tolist() == [[False, False], [True, False]]
    fixed = jax.jit(lambda x: (x, masks.keep_top(scores, 1, within=mask)))(0)[1]
    assert fixed["a"].tolist() == [[False, False], [True, False]]
    assert jax.jit(lambda x: x + masks.sparsity(mask))(1.0) == 1.5
    assert jax.jit(lambda x: x + masks.overlap(mask, mask))(1.0) == 2.0


def test_keep_top_under_tracing_ranks_nan_lowest():
    scores = [jnp.array([jnp.nan, -jnp.inf, 1.0])]
    for count, expected in [(1, [False, False, True]), (2, [False, True, True]), (3, [True, True, True])]:
        (mask,) = jax.jit(lambda s, k: masks.keep_top(s, k))(scores, count)
        assert mask.tolist() == expected


def test_keep_top_errors():
    scores = {"a": jnp.array([0.1, 0.2]), "b": jnp.array([0.3]), "c": None}
    bad = {"a": jnp.array([0.1, jnp.nan]), "b": jnp.array([0.3]), "c": None}
    within = {"a": jnp.array([True, False]), "b": jnp.array([False]), "c": None}
    with pytest.raises(ValueError, match=r"scores of a: expected numbers, got NaN"):
        masks.keep_top(bad, 1)
    with pytest.raises(ValueError, match=r"num_kept: expected an integer from 0 to 3, got 4"):
        masks.keep_top(scores, 4)
    with pytest.raises(ValueError, match=r"from 0 to 3, got -1"):
        masks.keep_top(scores, -1)
    with pytest.raises(ValueError, match=r"from 0 to 1, got 2"):
        masks.keep_top(scores, 2, within=within)
    with pytest.raises(ValueError, match=r"num_kept of b: expected an integer from 0 to 1, got 2"):
        masks.keep_top(scores, 2, "layer")
    with pytest.raises(ValueError, match=r"num_kept of b: expected an integer from 0 to 0, got 1"):
        masks.keep_top(scores, {"a": 1, "b": 1, "c": None}, "layer", within)
    with pytest.raises(ValueError, match=r"expected 'global' or 'layer', got 'network'"):
        masks.keep_top(scores, 1, "network")
    with pytest.raises(ValueError, match=r"within: expected the structure"):
        masks.keep_top(scores, 1, within={"a": within["a"], "b": within["b"]})
    with pytest.raises(ValueError, match=r"num_kept: expected the structure"):
        masks.keep_top(scores, {"a": 1, "b": 1, "c": 1}, "layer")
    with pytest.raises(ValueError, match=r"within of a: expected dtype bool, got float32"):
        masks.keep_top(scores, 0, within=scores)
    with pytest.raises(ValueError, match=r"scores of a: expected a floating dtype, got int32"):
        masks.keep_top({"a": jnp.array([1, 2])}, 1)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("count", [3.7, 3.0, jnp.float32(3), "3", True, jnp.array([1, 2]), np.array([3])])
def test_keep_top_takes_integers_only(count, scope):
    with pytest.raises(ValueError, match=r"num_kept.*: expected an integer, got"):
        masks.keep_top({"a": jnp.arange(4.0)}, count, scope)
    with pytest.raises(ValueError, match=r"num_kept.*: expected an integer, got"):
        jax.jit(lambda s: masks.keep_top(s, count, scope))({"a": jnp.arange(4.0)})


def test_keep_top_of_no_count():
    with pytest.raises(ValueError, match=r"num_kept: expected an integer, got None"):
        masks.keep_top({"a": jnp.arange(4.0)}, None)
    with pytest.raises(ValueError, match=r"num_kept: expected the structure"):
        masks.keep_top({"a": jnp.arange(4.0)}, None, "layer")


@pytest.mark.parametrize("count", [2, np.int64(2), np.array(2), jnp.int32(2)])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_keep_top_takes_any_integer(count, scope):
    assert masks.keep_top([np.float32([0.5, 3, 1])], count, scope)[0].tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("leaf", "got"),
    [
        (np.arange(3), "floating dtype, got int64"), (np.ones(3, complex), "floating dtype, got complex128"),
        (2**70, "floating dtype, got int"), (True, "floating dtype, got bool"),
        (np.array(["a"]), "floating dtype, got <U1"),
        (np.ones(3, ">M8[s]"), r"floating dtype, got >M8\[s\]"), (np.ones(3, ">f8"), "float32 at most, got >f8"),
        (np.array([None] * 3), "floating dtype, got object"),
    ],
)  # fmt: skip
def test_keep_top_refuses_other_dtypes_by_their_own_name(leaf, got):
    with pytest.raises(ValueError, match=f"^scores of a: expected (a )?{got}"):
        masks.keep_top({"a": leaf}, 1)


def test_keep_top_of_the_other_order_of_bytes():
    scores = np.array([1, 3, 2], np.dtype("f4").newbyteorder("S"))
    assert masks.keep_top({"a": scores}, 1)["a"].tolist() == [False, True, False]


def test_keep_top_takes_what_jax_does_not_cut():
    assert masks.keep_top({"a": 0.5, "b": 0.7}, 1) == {"a": False, "b": True}
    close = [np.array([1.0, 1.0 + 1e-12])]  # equal in float32
    with pytest.raises(ValueError, match=r"scores of 0: expected float32 at most, got float64.*astype\(np.float32\)"):
        masks.keep_top(close, 1)
    with jax.enable_x64(True):
        assert masks.keep_top(close, 1)[0].tolist() == [False, True]
    with pytest.raises(ValueError, match=r"scores of a: expected a float array, got 'x'"):
        masks.keep_top({"a": "x"}, 1)


@pytest.mark.parametrize(
    ("size", "sparsity", "kept"),
    [
        (268_336, 0.9856, 3864), (268_336, "0.9856", 3864), (25_502_912, 0.9, 2_550_291),
        (25_502_912, 0.995, 127_515), (25_502_912, decimal.Decimal("0.995"), 127_515),
        (10, 0.25, 8), (10, 0.35, 6), (2, 0.25, 2), (6, 0.25, 4),  # halves go to the even number removed
        (1000, 0.2, 800), (100, 0.29, 71), (7, 0, 7), (7, 0.0, 7), (0, 0.5, 0), (1, 0.999, 0), (10, 1e-9, 10),
    ],
)  # fmt: skip
def test_count_for_by_hand(size, sparsity, kept):
    count = masks.count_for(size, sparsity)
    assert type(count) is int
    assert count == kept


@given(size=st.integers(0, 2**33), digits=st.integers(0, 9999))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_count_for_is_exact(size, digits):
    removed = round(size * fractions.Fraction(digits, 10_000))  # Python rounds fractions half to even
    assert masks.count_for(size, digits / 10_000) == size - removed
    assert masks.count_for(size, f"0.{digits:04d}") == size - removed


@pytest.mark.parametrize("sparsity", [1, 1.0, "1", -0.1, 1.5, 98.56, float("nan"), float("inf")])
def test_count_for_out_of_range(sparsity):
    with pytest.raises(ValueError, match=r"sparsity"):
        masks.count_for(100, sparsity)


@pytest.mark.parametrize("sparsity", ["abc", None, "", [0.5]])
def test_count_for_of_no_number(sparsity):
    with pytest.raises(ValueError, match=r"sparsity: expected a fraction removed in \[0, 1\), got"):
        masks.count_for(10, sparsity)


@pytest.mark.parametrize("size", [-1, 10.5, "10", None])
def test_count_for_of_no_size(size):
    with pytest.raises(ValueError, match=r"num_prunable: expected an integer"):
        masks.count_for(size, 0.5)


@pytest.mark.parametrize("name", ["bias", "scale", "offset", "gamma", "beta"])
def test_ones_goes_by_the_last_name(name):
    params = {"norm": {name: jnp.ones((1, 1, 1, 4))}, "nnx": {name: {"value": jnp.ones((2, 2))}}}
    table = {"embedding": {"value": jnp.ones((5, 3))}, name: {"kernel": jnp.ones((2, 2))}}  # named by its parent
    assert set(masks.layer_counts(masks.ones({**params, **table}))) == {"embedding/value", f"{name}/kernel"}


def test_ones_on_dicts_and_lists():
    params = {
        "conv": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones((1, 4))},
        "norm": {"scale": jnp.ones(4)}, "table": jnp.ones((3, 2), jnp.int32),
        "head": [jnp.ones((4, 2), jnp.bfloat16)],
        "name": "resnet", "rate": 0.5, "bias_free": jnp.ones((2, 2)),
    }  # fmt: skip
    mask = masks.ones(params)
    assert mask["conv"]["kernel"].shape == (3, 3, 2, 4)
    assert mask["conv"]["kernel"].dtype == bool
    assert (mask["conv"]["bias"], mask["norm"]["scale"], mask["table"], mask["name"], mask["rate"]) == (None,) * 5
    assert list(masks.layer_counts(mask)) == ["bias_free", "conv/kernel", "head/0"]
    assert masks.num_prunable(mask) == masks.num_kept(mask) == 72 + 8 + 4
    only = masks.ones(params, lambda path, leaf: masks.path_name(path) == "norm/scale")
    assert masks.layer_counts(only) == {"norm/scale": (4, 4)}
    with pytest.raises(ValueError, match=r"at least one prunable leaf"):
        masks.ones({"scale": jnp.ones(3)})


def test_arrays_that_two_leaves_share_are_refused():
    tied, match = jnp.ones((3, 3)), "got one for a/kernel and c/0; weights that are tied should be one leaf"
    params = {"a": {"kernel": tied}, "c": [tied, jnp.zeros((3, 3))]}
    for ones in (masks.ones, lambda params: jax.eval_shape(lambda: masks.ones(params))):
        with pytest.raises(ValueError, match=match) as error:
            ones(params)
        assert "\n" not in str(error.value)

    def draw():  # a tracer each, and here one for two leaves
        drawn = jax.random.normal(jax.random.key(0), (3, 3))
        return {"a": {"kernel": drawn}, "c": [drawn]}

    with pytest.raises(ValueError, match=match):
        jax.jit(lambda: masks.ones(draw()))()
    with pytest.raises(ValueError, match="got one for 0 and 1"):
        masks.ones([np.ones((2, 2))] * 2)


def test_what_only_looks_shared_is_not_refused():
    shape, zeros = jax.ShapeDtypeStruct((3, 3), jnp.float32), jnp.zeros((3, 3))
    assert masks.num_prunable(masks.ones({"a": shape, "b": shape})) == 18
    named = {name: {"kernel": jnp.zeros((3, 3)), "bias": zeros, "rate": 0.5} for name in "ab"}
    assert masks.num_prunable(masks.ones(named)) == 18
    traced = jax.eval_shape(lambda: masks.ones([jnp.zeros((3, 3)), jnp.zeros((3, 3))]))
    assert masks.num_prunable(traced) == 18
    assert masks.num_prunable(masks.ones(jax.jit(lambda: [jnp.zeros((3, 3)), jnp.zeros((3, 3))])())) == 18
    once = masks.ones({"a": zeros, "b": zeros}, lambda path, leaf: masks.path_name(path) == "a")
    assert masks.layer_counts(once) == {"a": (9, 9)}


def test_ones_counts_the_kernel_of_a_layer_named_bias():
    mask = masks.ones({"bias": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones((1, 3))}})
    assert masks.layer_counts(mask) == {"bias/kernel": (6, 6)}


def test_ones_on_shapes():
    mask = masks.ones({"w": jax.ShapeDtypeStruct((3, 4), jnp.float32), "b": jax.ShapeDtypeStruct((4,), jnp.float32)})
    assert masks.num_prunable(mask) == 12
    assert masks.num_prunable([jax.ShapeDtypeStruct((25, 10**6), bool)]) == 25_000_000


def test_nnx_state():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.head = nnx.Linear(4, 2, rngs=rngs)

    params = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
    mask = masks.ones(params)
    assert masks.num_prunable(mask) == 36 + 8
    assert [n for _, n in masks.layer_counts(mask).values()] == [36, 8]
    scores = masks.map_kept(jnp.abs, params, mask)
    assert jax.tree.structure(scores) == jax.tree.structure(mask)
    mask = masks.keep_top(scores, 11)
    pruned = masks.apply(params, mask)
    assert jax.tree.structure(pruned) == jax.tree.structure(params)
    kernels = [np.asarray(pruned["conv"]["kernel"][...]), np.asarray(pruned["head"]["kernel"][...])]
    start = [np.asarray(params["conv"]["kernel"][...]), np.asarray(params["head"]["kernel"][...])]
    threshold = np.sort(np.abs(np.concatenate([w.reshape(-1) for w in start])))[-11]
    for got, w in zip(kernels, start, strict=True):
        np.testing.assert_array_equal(got, np.where(np.abs(w) >= threshold, w, 0))
    np.testing.assert_array_equal(pruned["norm"]["scale"][...], params["norm"]["scale"][...])
    shuffled = masks.shuffle(jax.random.key(0), mask)
    assert masks.layer_counts(shuffled) == masks.layer_counts(mask)


def test_modules_with_functions_and_none():
    layer = Layer(jnp.arange(1.0, 7.0).reshape(2, 3), jnp.ones((4, 1, 1)), jax.nn.relu)
    model = {"first": layer, "second": Layer(jnp.ones((2, 2)), None, jnp.tanh, Layer(jnp.ones(3), None, abs))}
    mask = masks.ones(model)
    assert masks.layer_counts(mask) == {"first/weight": (6, 6), "second/weight": (4, 4)}
    assert (mask["first"].bias, mask["first"].activation, mask["first"].norm) == (None, None, None)
    scores = masks.map_kept(jnp.abs, model, mask)
    mask = masks.keep_top(scores, 5)
    pruned = masks.apply(model, mask)
    assert pruned["first"].weight.tolist() == [[0, 2, 3], [4, 5, 6]]
    assert pruned["second"].weight.tolist() == [[0, 0], [0, 0]]
    assert pruned["first"].activation is jax.nn.relu
    assert pruned["second"].norm.activation is abs
    assert pruned["second"].bias is None
    assert pruned["first"].bias is layer.bias


def test_map_kept_default():
    tree = [jnp.array([-1.0]), "name", None]
    assert masks.map_kept(lambda x: x.tolist(), tree, [jnp.array([True]), None, None], default=0) == [
        [-1.0],
        0,
        0,
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_apply(dtype):
    params = {"w": jnp.array([[1.5, -2.0], [jnp.nan, jnp.inf]], dtype), "b": jnp.ones(2, dtype), "f": None}
    mask = {"w": jnp.array([[True, True], [False, False]]), "b": None, "f": None}
    out = masks.apply(params, mask)
    assert out["w"].dtype == dtype
    assert out["w"].astype(jnp.float32).tolist() == [[1.5, -2.0], [0.0, 0.0]]
    assert out["b"] is params["b"]
    assert out["f"] is None
    with pytest.raises(ValueError, match=r"mask of w: expected shape \(2, 2\), got \(1, 2\)"):
        masks.apply(params, {"w": jnp.ones((1, 2), bool), "b": None, "f": None})


@pytest.mark.parametrize(("leaf", "got"), [(jnp.ones(2), "float32"), (np.ones(2, int), "int64"), (1.0, "float")])
def test_masks_are_bool(leaf, got):
    message = rf"of w: expected dtype bool, got .*{got}"
    good = {"w": jnp.ones(2, bool)}
    calls = [
        lambda: masks.apply({"w": jnp.ones(2)}, {"w": leaf}), lambda: masks.num_kept({"w": leaf}),
        lambda: masks.layer_counts({"w": leaf}), lambda: masks.overlap({"w": leaf}, good),
        lambda: masks.overlap(good, {"w": leaf}), lambda: masks.check({"w": leaf}, 2),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


def test_apply_masks_the_gradient():
    mask = {"w": jnp.array([True, False, True, False]), "b": None}

    def loss(params):
        seen = masks.apply(params, mask)
        return (seen["w"] ** 3).sum() + (seen["b"] ** 2).sum() + (seen["w"] * seen["b"]).sum()

    w, b = np.array([2.0, 3.0, -1.0, np.nan]), np.array([1.0, 2.0, 3.0, 4.0])
    grads = jax.grad(loss)({"w": jnp.float32(w), "b": jnp.float32(b)})
    np.testing.assert_allclose(grads["w"], [3 * 4 + 1, 0, 3 * 1 + 3, 0])
    np.testing.assert_allclose(grads["b"], [2 + 2, 4, 6 - 1, 8])


def test_sparsity_eager_and_traced():
    mask = {"a": jnp.array([[True, False], [False, False]]), "b": None, "c": jnp.array([True] * 4)}
    assert masks.sparsity(mask) == 0.375
    assert isinstance(masks.sparsity(mask), float)
    assert type(masks.num_kept(mask)) is int
    traced = jax.jit(masks.sparsity)(mask)
    assert traced.dtype == jnp.float32
    assert float(traced) == 0.375
    count = jax.jit(masks.num_kept)(mask)
    assert (int(count), count.dtype) == (5, jnp.int32)


def test_counts_beyond_the_integers_of_float32():
    mask = [jnp.ones((2**12, 2**12), bool), jnp.ones((1, 3), bool)]  # 2^24 + 3 is no float32
    assert masks.num_kept(mask) == 16_777_219
    assert int(jax.jit(masks.num_kept)(mask)) == 16_777_219


def test_layer_sparsity_is_in_leaf_order():
    mask = {
        "z": jnp.array([True, False]),
        "a": [jnp.array([True, True, True, False]), jnp.array([False])],
        "k": None,
    }
    values = masks.layer_sparsity(mask)
    assert list(values.items()) == [("a/0", 0.25), ("a/1", 1.0), ("z", 0.5)]
    assert masks.layer_counts(mask) == {"a/0": (3, 4), "a/1": (0, 1), "z": (1, 2)}


def half_kept():
    rng = np.random.default_rng(0)
    return {
        "a": jnp.asarray(rng.random((4, 10)) < 0.5),
        "b": None,
        "c": [jnp.asarray(rng.random((5, 4)) < 0.2)],
    }


def test_shuffle_layer_keeps_layer_counts_and_moves():
    mask = half_kept()
    out = masks.shuffle(jax.random.key(1), mask)
    assert jax.tree.structure(out) == jax.tree.structure(mask)
    assert masks.layer_counts(out) == masks.layer_counts(mask)
    for before, after in zip(jax.tree.leaves(mask), jax.tree.leaves(out), strict=True):
        assert before.shape == after.shape
        assert not jnp.array_equal(before, after)
    other = masks.shuffle(jax.random.key(2), mask)
    assert not jnp.array_equal(out["a"], other["a"])
    twins = masks.shuffle(jax.random.key(3), [mask["a"], mask["a"]])
    assert not jnp.array_equal(*twins)  # a key of its own for each layer


def test_shuffle_global_keeps_the_total():
    mask = half_kept()
    outs = [masks.shuffle(jax.random.key(i), mask, "global") for i in range(8)]
    assert {masks.num_kept(out) for out in outs} == {masks.num_kept(mask)}
    assert len({masks.layer_counts(out)["a"][0] for out in outs}) > 1
    with pytest.raises(ValueError, match=r"expected 'global' or 'layer', got 'rows'"):
        masks.shuffle(jax.random.key(0), mask, "rows")


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_shuffle_is_uniform(scope):
    mask = {"a": jnp.arange(40).reshape(4, 10) < 10, "b": jnp.arange(20).reshape(5, 4) < 8}
    num = 2000
    out = jax.jit(jax.vmap(lambda key: masks.shuffle(key, mask, scope)))(jax.random.split(jax.random.key(5), num))
    hits = [np.asarray(leaf.sum(0)).reshape(-1) for leaf in jax.tree.leaves(out)]
    rates = [10 / 40, 8 / 20] if scope == "layer" else [18 / 60, 18 / 60]
    for hit, rate in zip(hits, rates, strict=True):
        deviations = (hit - num * rate) ** 2 / (num * rate * (1 - rate))
        assert 0.3 < deviations.mean() < 2  # 1 is expected, with a standard deviation of 0.2 to 0.3
        assert deviations.max() < 20  # 4.5 standard deviations
    per_draw = np.asarray(out["a"].sum((1, 2)))
    hypergeometric = 0 if scope == "layer" else 40 * 0.3 * 0.7 * 20 / 59
    np.testing.assert_allclose(per_draw.var(), hypergeometric, rtol=0.15, atol=1e-12)


def test_overlap():
    a = [jnp.array([True, True, True, False]), None, jnp.array([[True, False]])]
    b = [jnp.array([True, False, False, True]), None, jnp.array([[True, True]])]
    nothing = jax.tree.map(jnp.zeros_like, a)
    assert masks.overlap(a, b) == 0.5
    assert masks.overlap(b, a) == 0.5
    assert masks.overlap(a, a) == 1.0
    assert masks.overlap(nothing, a) == 1.0
    assert masks.overlap(a, nothing) == 0.0
    xor = int(sum(jnp.logical_xor(x, y).sum() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))
    assert masks.overlap(a, b) == 1 - xor / (2 * 4)
    traced = jax.jit(masks.overlap)
    assert [float(traced(*pair)) for pair in [(a, b), (a, a), (nothing, a), (a, nothing)]] == [
        0.5,
        1.0,
        1.0,
        0.0,
    ]


def test_overlap_of_different_masks():
    a = {"x": [jnp.ones((4, 1), bool)]}
    with pytest.raises(ValueError, match=r"b of x/0: expected shape \(4, 1\), got \(1, 4\)"):
        masks.overlap(a, {"x": [jnp.ones((1, 4), bool)]})
    with pytest.raises(ValueError, match=r"b: expected the structure of a"):
        masks.overlap(a, {"x": [None]})


def test_nothing_to_prune():
    empty, nothing = {"a": jnp.ones((0, 3), bool), "b": jnp.array([True, False])}, {"a": None}
    assert masks.layer_sparsity(empty) == {"a": 0.0, "b": 0.5}
    assert masks.sparsity(empty) == 0.5
    assert masks.sparsity(nothing) == masks.sparsity({"a": empty["a"]}) == 0.0
    assert float(jax.jit(masks.sparsity)({"a": empty["a"]})) == 0.0
    assert masks.overlap(nothing, nothing) == 1.0
    for scope in ("layer", "global"):
        assert masks.shuffle(jax.random.key(0), nothing, scope) == nothing
        shuffled = masks.shuffle(jax.random.key(0), empty, scope)
        assert masks.layer_counts(shuffled) == {"a": (0, 0), "b": (1, 2)}
        assert masks.keep_top(nothing, nothing if scope == "layer" else 0, scope) == nothing


def test_check_counts_leaves_of_one_name():
    mask = {"a": {"b": jnp.array([True, True])}, "a/b": jnp.array([True, False, False])}
    masks.check(mask, 3)
    with pytest.raises(ValueError, match="expected 1 weights kept, got 3 of 5"):
        masks.check(mask, 1)


@pytest.mark.parametrize("fn", [masks.layer_counts, masks.layer_sparsity, lambda mask: masks.check(mask, 1)])
def test_counts_per_layer_are_for_the_host(fn):
    with pytest.raises(ValueError, match=r"mask of a: expected values .*outside jit"):
        jax.jit(fn)({"a": jnp.array([True, False])})


def test_shapes_have_no_values_to_count():
    with pytest.raises(ValueError, match=r"mask of a: expected an array, got ShapeDtypeStruct"):
        masks.num_kept({"a": jax.ShapeDtypeStruct((2, 3), bool)})


def test_check():
    mask = {"a": jnp.array([True, False]), "b": None}
    assert masks.check(mask, 1) is None
    with pytest.raises(ValueError, match=r"expected 2 weights kept, got 1 of 2"):
        masks.check(mask, 2)
    with pytest.raises(ValueError, match=r"mask of a: expected dtype bool, got float32"):
        masks.check({"a": jnp.ones(2)}, 2)


def test_import_needs_jax_and_numpy_only():
    code = """
import sys
import jax, jax.numpy, numpy
allowed = {name.split(".")[0] for name in sys.modules} | set(sys.stdlib_module_names)
for name in "flax optax orbax chex sklearn tensorflow tensorflow_datasets grain matplotlib PIL".split():
    assert name not in sys.modules, name
    sys.modules[name] = None  # an import of it would fail
import rare_gems.masks as masks
params = {"w": jax.numpy.array([[3.0, -1.0]]), "b": jax.numpy.ones(2)}
mask = masks.ones(params)
mask = masks.keep_top(masks.map_kept(jax.numpy.abs, params, mask), 1)
masks.shuffle(jax.random.key(0), mask)
assert masks.apply(params, mask)["w"].tolist() == [[3.0, 0.0]]
new = {name.split(".")[0] for name, module in sys.modules.items() if module is not None} - allowed
assert new == {"rare_gems"}, new
"""
    alone = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # XLA of JAX 0.8 talks when it loads a program
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=alone)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_views_of_one_memory_are_refused_too():
    w = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match="an array of its own for each prunable leaf, got one for a and b"):
        masks.ones({"a": w, "b": w.T})  # one memory


def test_what_jax_cuts_in_a_function_of_map_kept_is_refused_whatever_it_returns():
    tree, mask = {"w": np.array([1.0, 2.0])}, {"w": np.array([True, True])}
    for fn in (lambda w: jnp.abs(w) > 1, lambda w: (jnp.abs(w), 1), jnp.abs):
        with pytest.raises(ValueError, match=r"^w: expected float32 at most, got float64"):
            masks.map_kept(fn, tree, mask)
    assert masks.map_kept(lambda w: np.abs(w) > 1, tree, mask)["w"].tolist() == [False, True]


def test_a_leaf_that_is_no_array_cannot_count():
    with pytest.raises(ValueError, match="prunable: expected arrays, got 'net'"):
        masks.ones({"name": "net"}, lambda path, leaf: True)
