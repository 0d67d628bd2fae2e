"""rare_gems.selection against a stable sort in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from rare_gems import radix_descent, selection

# A few structures, so that hypothesis draws data without compiling anew each time.
STRUCTURES = [
    {"a": ((3, 3, 2, 4), "float32"), "b": None, "c": [((6,), "float32"), ((), "float32")]},
    {"a": ((4, 9), "bfloat16"), "b": ((11,), "bfloat16"), "c": None},
    {"a": ((5, 5), "float16"), "b": ((3, 5), "float32"), "c": [((4,), "bfloat16"), None]},
    {"a": ((4, 5), "float16"), "b": ((0, 3), "float16")},
]
X64_STRUCTURES = [
    {"a": ((5, 7), "float64")},
    {"a": ((8,), "float64"), "b": ((9,), "float32"), "c": ((6,), "float16"), "d": ((6,), "bfloat16")},
]
SMALLEST = {"float64": 5e-324, "float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}


def is_spec(node):
    return isinstance(node, tuple)


def draw_tree(structure, seed, kind):
    """Scores of one kind: distinct, heavy ties, or every special value there is."""
    rng = np.random.default_rng(seed)

    def leaf(spec):
        shape, name = spec
        dtype = jnp.dtype(name)
        if kind == "distinct":
            values = rng.standard_normal(shape)
        elif kind == "ties":
            values = rng.integers(-1, 2, shape) / 2
        else:
            tiny = SMALLEST[name]
            specials = [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1.0, float(jnp.finfo(dtype).max)]
            specials += [tiny, -tiny, 3 * tiny, 2.0**-24, 2.0**-133, float(jnp.finfo(dtype).min)]
            values = rng.choice(specials, shape)
        return np.asarray(values).astype(dtype)

    return jax.tree.map(leaf, structure, is_leaf=is_spec)


def reference(scores, num_kept, within=None):
    """Stable sort by (candidate, not NaN, value descending, position), in float64."""
    leaves, treedef = jax.tree.flatten(scores)
    flat = np.concatenate([np.asarray(x).astype(np.float64).ravel() for x in leaves])
    candidate = np.ones(flat.shape, bool)
    if within is not None:
        candidate = np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(within)])
    nan = np.isnan(flat)
    order = np.lexsort((np.arange(flat.size), -np.where(nan, 0.0, flat), nan, ~candidate))
    kept = np.zeros(flat.shape, bool)
    kept[order[: min(num_kept, int(candidate.sum()))]] = True
    ends = np.cumsum([np.size(x) for x in leaves])[:-1]
    parts = [part.reshape(np.shape(x)) for part, x in zip(np.split(kept, ends), leaves, strict=True)]
    return jax.tree.unflatten(treedef, parts)


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == bool
        np.testing.assert_array_equal(np.asarray(a), b)


def size(tree):
    return sum(np.size(x) for x in jax.tree.leaves(tree))


def draw_count(n, where):
    if isinstance(where, str):
        return {"none": 0, "one": 1, "all but one": max(n - 1, 0), "all": n, "more": n + 3}[where]
    return round(n * where)


counts = st.one_of(st.sampled_from(["none", "one", "all but one", "all", "more"]), st.floats(0, 1))
kinds = st.sampled_from(["distinct", "ties", "special"])
seeds = st.integers(0, 2**31)
densities = st.sampled_from([0.0, 0.3, 0.9, 1.0])  # of the candidates


def check_structure(structure, kind, seed, where, density):
    scores = draw_tree(structure, seed, kind)
    n = size(scores)
    rng = np.random.default_rng(seed + 1)
    within = jax.tree.map(lambda x: np.asarray(rng.random(x.shape) < density), scores)
    k = draw_count(n, where)
    got = selection.top_mask(scores, k, within)
    assert_same(got, reference(scores, k, within))
    candidates = sum(int(x.sum()) for x in jax.tree.leaves(within))
    assert sum(int(x.sum()) for x in jax.tree.leaves(got)) == min(k, candidates)

    leaf_counts = jax.tree.map(lambda x: draw_count(x.size, where), scores)
    got = selection.top_mask_per_leaf(scores, leaf_counts, within)
    one_leaf = lambda x, count, candidates: reference([x], count, [candidates])[0]  # noqa: E731
    assert_same(got, jax.tree.map(one_leaf, scores, leaf_counts, within))


@settings(deadline=None, derandomize=True, max_examples=120)
@given(st.sampled_from(STRUCTURES), kinds, seeds, counts, densities)
@example(STRUCTURES[0], "ties", 0, 0.5, 1.0)
@example(STRUCTURES[2], "special", 1, 0.5, 0.9)
def test_equals_a_stable_sort(structure, kind, seed, where, density):
    check_structure(structure, kind, seed, where, density)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.sampled_from(X64_STRUCTURES), kinds, seeds, counts, densities)
@example(X64_STRUCTURES[1], "special", 1, 0.5, 1.0)
def test_float64_and_mixtures_with_it(structure, kind, seed, where, density):
    with jax.enable_x64(True):
        check_structure(structure, kind, seed, where, density)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=24, max_size=24), st.integers(0, 24))
@example([0x7FC00000, 0xFFC00000, 0x80000000, 0, 1, 0x80000001, 0x7F800000, 0xFF800000] * 3, 11)
def test_any_bit_pattern(bits, k):
    scores = [np.array(bits, np.uint32).view(np.float32).reshape(4, 6)]
    assert_same(selection.top_mask(scores, k), reference(scores, k))


def test_order_of_special_values():
    tiny = 2.0**-149
    ascending = [np.nan, -np.inf, -1.0, -2 * tiny, -tiny, 0.0, tiny, 2 * tiny, 2.0**-126, 1.0, np.inf]
    scores = np.array(ascending, np.float32)
    for k in range(len(ascending) + 1):
        assert np.flatnonzero(selection.top_mask(scores, k)).tolist() == list(range(len(ascending) - k, 11))
    zeros = np.array([-0.0, 0.0, -0.0, 0.0], np.float32)
    assert np.asarray(selection.top_mask(zeros, 2)).tolist() == [True, True, False, False]
    nans = np.array([0xFFC00001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001], np.uint32).view(np.float32)
    assert np.asarray(selection.top_mask(nans, 3)).tolist() == [True, True, True, False]


def test_ties_go_by_leaf_then_index():
    scores = {"z": np.ones((2, 2), np.float32), "a": np.ones((3,), np.float32), "m": None}
    got = selection.top_mask(scores, 5)  # jax.tree order: "a" before "z"
    assert_same(got, {"z": np.array([[True, True], [False, False]]), "a": np.ones(3, bool), "m": None})
    got = selection.top_mask(scores, 3)
    assert_same(got, {"z": np.zeros((2, 2), bool), "a": np.ones(3, bool), "m": None})


def test_one_trace_for_many_counts():
    scores = draw_tree(STRUCTURES[0], 3, "ties")
    traces = []

    @jax.jit
    def select(scores, k):
        traces.append(None)
        return selection.top_mask(scores, k)

    for k in (0, 1, 40, size(scores)):
        assert_same(select(scores, jnp.int32(k)), reference(scores, k))
    assert len(traces) == 1
    compiled = selection._top._cache_size()
    for k in (2, 7, 60):
        assert_same(selection.top_mask(scores, k), reference(scores, k))
    assert selection._top._cache_size() <= compiled + 1


def test_per_leaf_counts_may_be_traced_or_one_for_all():
    scores = draw_tree(STRUCTURES[0], 4, "ties")
    expected = jax.tree.map(lambda x: reference([x], 5)[0], scores)
    assert_same(selection.top_mask_per_leaf(scores, 5), expected)
    tree = jax.tree.map(lambda x: jnp.int32(5), scores)
    assert_same(jax.jit(selection.top_mask_per_leaf)(scores, tree), expected)
    assert_same(jax.jit(selection.top_mask_per_leaf)(scores, jnp.int32(5)), expected)


@pytest.mark.parametrize("kind", ["distinct", "ties", "special"])
def test_vmap(kind):
    trees = [draw_tree(STRUCTURES[0], seed, kind) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *trees)
    ks = [10, 0, 71]
    over_both = jax.vmap(selection.top_mask)(stacked, jnp.array(ks, jnp.int32))
    over_counts = jax.vmap(lambda k: selection.top_mask(trees[0], k))(jnp.array(ks, jnp.int32))
    per_leaf = jax.vmap(selection.top_mask_per_leaf)(stacked, jnp.array([2, 4, 6], jnp.int32))
    for i, (tree, k) in enumerate(zip(trees, ks, strict=True)):
        row = lambda batched, i=i: jax.tree.map(lambda x: x[i], batched)  # noqa: E731
        assert_same(row(over_both), reference(tree, k))
        assert_same(row(over_counts), reference(trees[0], k))
        assert_same(row(per_leaf), jax.tree.map(lambda x, i=i: reference([x], 2 + 2 * i)[0], tree))


def sharded_case(kind, *specs):
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))
    shapes = {"a": ((16, 8, 3), "float32"), "b": ((64, 40), "float32"), "c": None, "d": ((8, 32), "float32")}
    scores = draw_tree(shapes, 5, kind)
    within = jax.tree.map(lambda x: np.asarray(np.random.default_rng(6).random(x.shape) < 0.8), scores)
    place = lambda x: jax.device_put(x, NamedSharding(mesh, P(*specs)))  # noqa: E731
    return scores, within, jax.tree.map(place, scores), jax.tree.map(place, within)


@pytest.mark.parametrize("kind", ["distinct", "ties"])
def test_sharded_equals_unsharded_without_gathering(kind):
    scores, within, scores_8, within_8 = sharded_case(kind, "devices")
    for function, count in ((selection.top_mask, 1000), (selection.top_mask_per_leaf, 100)):
        compiled = jax.jit(function).lower(scores_8, jnp.int32(count), within_8).compile()
        text = compiled.as_text()
        assert "all-reduce" in text
        assert not [word for word in ("all-gather", "all-to-all", "collective-permute") if word in text]
        got = compiled(scores_8, jnp.int32(count), within_8)
        assert_same(got, jax.device_get(function(scores, count, within)))
        assert len(got["b"].addressable_shards) == 8
        assert got["b"].addressable_shards[0].data.shape == (8, 40)
    assert_same(selection.top_mask(scores_8, 1000, within_8), reference(scores, 1000, within))


def test_sharded_along_another_axis():
    scores, within, scores_8, within_8 = sharded_case("ties", None, "devices")
    assert_same(selection.top_mask(scores_8, 1000, within_8), reference(scores, 1000, within))


@pytest.mark.parametrize("axis", [0, 1])
def test_counting_off_the_cpu_needs_all_reduces_only(axis):
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))
    flags = np.random.default_rng(7).random((7, 64, 40)) < 0.5
    placed = jax.device_put(flags, NamedSharding(mesh, P(*[None] * (1 + axis), "devices")))
    compiled = jax.jit(lambda f: radix_descent.sum_each([x.astype(jnp.int32) for x in f])).lower(placed).compile()
    assert "all-reduce" in compiled.as_text()
    assert "all-gather" not in compiled.as_text()
    np.testing.assert_array_equal(compiled(placed), flags.sum((1, 2)))


@pytest.mark.parametrize(("dtype", "candidates"), [("float32", False), ("bfloat16", True)])
def test_needs_hardly_any_memory(dtype, candidates):
    shapes = [(3, 3, 64, 64), (300_000,), (40_000, 2)]
    scores = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    within = [jax.ShapeDtypeStruct(shape, bool) for shape in shapes] if candidates else None
    memory = {}
    for function in (selection.top_mask, selection.top_mask_per_leaf):
        compiled = jax.jit(function).lower(scores, jax.ShapeDtypeStruct((), jnp.int32), within).compile()
        memory[function] = compiled.memory_analysis().temp_size_in_bytes
    num_bytes = sum(np.prod(shape) for shape in shapes) * jnp.dtype(dtype).itemsize
    assert max(memory.values()) < num_bytes / 8, memory


def test_has_nan():
    assert not bool(selection.has_nan([jnp.array([1.0, jnp.inf]), None]))
    assert bool(jax.jit(selection.has_nan)({"a": jnp.zeros(3), "b": jnp.array([0.0, jnp.nan], jnp.bfloat16)}))
    assert not bool(selection.has_nan({"a": None}))


def test_trees_without_scores():
    assert selection.top_mask({"a": None}, 3) == {"a": None}
    assert selection.top_mask_per_leaf({}, 3) == {}


def test_shapes_without_arrays():
    scores = [jax.ShapeDtypeStruct((3, 4), jnp.float32), None]
    [mask] = jax.tree.leaves(jax.eval_shape(lambda s: selection.top_mask(s, 2), scores))
    assert (mask.shape, mask.dtype) == ((3, 4), bool)


ONES = jnp.ones(3)
HUGE = [jax.ShapeDtypeStruct((2**16, 2**14), jnp.float16)] * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: selection.top_mask([jnp.arange(3)], 1), "expected dtypes float16, .* got int32"),
        (lambda: selection.top_mask([ONES], 1, [ONES]), r"expected bool\[3\], got float32\[3\]"),
        (lambda: selection.top_mask([ONES], 1, [jnp.ones(2, bool)]), r"expected bool\[3\], got bool\[2\]"),
        (lambda: selection.top_mask([ONES, None], 1, [ONES > 0]), "within: expected the structure"),
        (lambda: selection.top_mask_per_leaf([ONES], {"a": 1}), "num_kept: expected the structure"),
        (lambda: jax.eval_shape(lambda s: selection.top_mask(s, 1), HUGE), "fewer than .* got 2147483648"),
    ],
)
def test_static_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [np.uint32, np.int32, np.uint8])
def test_a_traced_count_of_any_dtype_is_at_most_all(dtype):
    """One above 2^31 wrapped, and nothing was kept."""
    count = np.iinfo(dtype).max
    (mask,) = jax.jit(lambda k: selection.top_mask([jnp.array([0.9, 0.8])], k))(jnp.asarray(count, dtype))
    assert mask.tolist() == [True, True]
