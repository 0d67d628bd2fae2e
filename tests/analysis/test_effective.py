"""Which weights can matter: against paths that are counted one by one, and against what removing the others changes."""

import functools
import itertools

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.catalog.networks import NETWORKS, NetworkOptions, make_network
from rare_gems import masks
from rare_gems.analysis import effective
from rare_gems.analysis.operands import Operand
from rare_gems.analysis.signals import follow
from rare_gems.models.compact import compact
from rare_gems.models.platforms import plain_operations
from rare_gems.phase import Ticket


def runner(apply, params, state, images):
    """params -> logits, computed operation by operation, which compiles nothing."""
    with plain_operations():
        program = jax.make_jaxpr(lambda *given: apply(*given, False)[0])(params, state, images)

    def run(params):
        given = [np.asarray(leaf) for leaf in jax.tree.leaves((params, state, images))]
        given = [Operand(leaf, np.zeros(leaf.shape, bool)) for leaf in given]
        return follow(program, given, [False] * len(given), True).outs[0].value

    return run


def random_mask(rng, params, ratio):
    return jax.tree.map(lambda leaf: rng.random(leaf.shape) < ratio, jax.eval_shape(masks.ones, params))


def applied(params, mask):
    return jax.tree.map(lambda m, w: w if m is None else w * m, mask, params, is_leaf=lambda leaf: leaf is None)


def drawn(rng, tree, low=-1.0):
    return jax.tree.map(lambda leaf: rng.uniform(low, 1, leaf.shape).astype(np.float32), tree)


def dense(params, state, x, train):
    h = jax.nn.relu(x @ params["a"])
    h = jax.nn.relu(h @ params["b"])
    return h @ params["c"], state


def residual(params, state, x, train):
    h = jax.nn.relu(x @ params["a"])
    h = jax.nn.relu(h @ params["b"] + h)
    return h @ params["c"], state


def concatenated(params, state, x, train):
    h = jnp.concatenate([x @ params["a"], x[:, :2]], 1)
    return jax.nn.gelu(h @ params["b"]) @ params["c"], state


def depthwise(params, state, x, train, pool=lambda h: h.max(1)):
    # [batch, 3 places, 1 channel]: three channels, each pooled and filtered alone, mixed by c.
    h = x[..., None] @ params["a"]
    h = jax.lax.conv_general_dilated(
        h, params["b"], (1,), [(0, 0)], dimension_numbers=("NHC", "HIO", "NHC"), feature_group_count=3
    )
    return pool(h) @ params["c"], state


summed_depthwise = functools.partial(depthwise, pool=lambda h: h.sum(1))


def _links_of_dense(i, j, k, o):
    return [("a", (i, j)), ("b", (j, k)), ("c", (k, o))]


# Function; shapes of its weights; how many inputs, units and outputs there are; and for one of each the paths through
# them, as lists of the weights on the path.
CASES = {
    "dense": (dense, {"a": (3, 4), "b": (4, 3), "c": (3, 2)}, (3, 4, 3, 2),
              lambda i, j, k, o: [_links_of_dense(i, j, k, o)]),
    "residual": (residual, {"a": (3, 4), "b": (4, 4), "c": (4, 2)}, (3, 4, 4, 2),
                 lambda i, j, k, o: [_links_of_dense(i, j, k, o)] + [[("a", (i, j)), ("c", (j, o))]] * (j == k)),
    "concatenated": (concatenated, {"a": (3, 2), "b": (4, 3), "c": (3, 2)}, (3, 4, 3, 2),
                     lambda i, j, k, o: [[("a", (i, j)), ("b", (j, k)), ("c", (k, o))]] if j < 2
                     else [[("b", (j, k)), ("c", (k, o))]] * (i == j - 2)),
    "depthwise": (depthwise, {"a": (1, 3), "b": (2, 1, 3), "c": (3, 2)}, (3, 3, 2, 2),
                  lambda i, j, k, o: [[("a", (0, j)), ("b", (k, 0, j)), ("c", (j, o))]]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_alive_is_what_lies_on_a_path(name):
    apply, shapes, sizes, paths = CASES[name]
    params = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in shapes.items()}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        kept = {key: rng.random(shape) < 0.2 + 0.08 * seed for key, shape in shapes.items()}
        expected = {key: np.zeros(shape, bool) for key, shape in shapes.items()}
        for numbers in itertools.product(*map(range, sizes)):
            for path in paths(*numbers):
                if all(kept[key][at] for key, at in path):
                    for key, at in path:
                        expected[key][at] = True
        alive = effective.mask(apply, params, {}, kept, (3,))
        for key in shapes:
            np.testing.assert_array_equal(alive[key], expected[key], err_msg=f"{key}, seed {seed}")
    count, size = (sum(map(of, expected.values())) for of in (np.count_nonzero, np.size))
    assert effective.sparsity(apply, params, {}, kept, (3,)) == pytest.approx(1 - count / size)


@pytest.mark.parametrize("name", CASES)
def test_every_alive_weight_changes_the_logits_and_no_dead_one_does(name):
    apply, shapes, _, _ = CASES[name]
    rng = np.random.default_rng(7)
    params = {key: rng.uniform(0.5, 1, shape).astype(np.float32) for key, shape in shapes.items()}
    kept = {key: rng.random(shape) < 0.4 for key, shape in shapes.items()}
    alive = effective.mask(apply, params, {}, kept, (3,))
    x = rng.uniform(0.5, 1, (1, 3)).astype(np.float32)  # positive, as the weights: nothing cancels, no ReLU is off
    if name == "depthwise":
        apply = summed_depthwise  # of a maximum, only one changes the logits
    run = runner(apply, params, {}, x)
    out = run({k: params[k] * m for k, m in kept.items()})
    for key, leaf in alive.items():
        for at in zip(*np.nonzero(kept[key]), strict=True):
            without = {k: params[k] * m for k, m in kept.items()}
            without[key][at] = 0
            assert np.array_equal(run(without), out) != leaf[at], (key, at)


IMAGES = {"resnet20": 16, "mobilenet_v2": 16, "lenet_5": 28, "conv2": 16}
WIDTHS = {"vgg16": 0.125, "mobilenet_v2": 0.25}


@functools.cache
def network(name, **options):
    size = IMAGES.get(name, 32)
    shape = (size, size, 1 if NETWORKS[name].takes_grey else 3)
    model = make_network(name, shape, 4, NetworkOptions(width=WIDTHS.get(name, 1.0), **options), jnp.float32)
    return model, shape, *jax.eval_shape(model.init, jax.random.key(0))


# One of each kind: the others take as long as all of these, and are built of the same parts.
@pytest.mark.parametrize(
    "name", ["resnet20", "mobilenet_v2", "squeezenet", "vgg16", "lenet_5", "lenet_300_100", "conv2"]
)
def test_removing_dead_weights_leaves_the_logits_of_every_network(name):
    model, shape, params, state = network(name, bias=True)
    rng = np.random.default_rng(1)
    params, state = drawn(rng, params), drawn(rng, state, low=0.5)
    ratio = 0.03 if name in ("mobilenet_v2", "squeezenet", "lenet_5") else 0.01
    kept = random_mask(rng, params, ratio)
    alive = effective.mask(model.apply, params, state, kept, shape, constants=True)
    before, after = masks.num_kept(kept), masks.num_kept(alive)
    assert after < before  # so that there is something to remove
    assert masks.num_kept(jax.tree.map(np.logical_and, kept, alive)) == after
    x = rng.normal(size=(1, *shape)).astype(np.float32)
    run = runner(model.apply, params, state, x)
    outs = [run(applied(params, m)) for m in (kept, alive)]
    assert np.isfinite(outs[0]).all()
    np.testing.assert_array_equal(*outs)
    paths = effective.mask(model.apply, params, state, kept, shape)
    assert masks.num_kept(paths) <= after  # what is on a path matters
    assert masks.num_kept(jax.tree.map(np.logical_and, paths, alive)) == masks.num_kept(paths)


def at_first(state):
    return jax.tree_util.tree_map_with_path(
        lambda at, leaf: np.full(leaf.shape, at[-1].key == "var", leaf.dtype), state
    )


def test_without_constants_removing_what_is_on_no_path_leaves_the_logits():
    model, shape, params, state = network("resnet20")
    rng = np.random.default_rng(2)
    params = drawn(rng, params)
    state = jax.tree_util.tree_map_with_path(
        lambda at, leaf: np.full(leaf.shape, float(at[-1].key == "var"), leaf.dtype), state
    )
    kept = random_mask(rng, params, 0.01)
    alive = effective.mask(model.apply, params, state, kept, shape)
    assert 0 < masks.num_kept(alive) < masks.num_kept(kept)
    x = rng.normal(size=(2, *shape)).astype(np.float32)
    jitted = jax.jit(lambda params, state, x: model.apply(params, state, x, False)[0])
    outs = [np.asarray(jitted(applied(params, m), state, x)) for m in (kept, alive)]
    assert np.ptp(outs[0], 0).max() > 0  # the images matter
    np.testing.assert_array_equal(*outs)
    np.testing.assert_allclose(runner(model.apply, params, state, x)(applied(params, kept)), outs[0], rtol=1e-3)


def test_what_compact_keeps_does_not_change():
    model, shape, params, state = network("resnet20")
    rng = np.random.default_rng(3)
    params, state = drawn(rng, params), at_first(state)
    kept = random_mask(rng, params, 0.01)
    alive = effective.mask(model.apply, params, state, kept, shape)
    channels = [compact(Ticket(params, None, m), state, "resnet20").channels for m in (kept, alive)]
    assert channels[0] == channels[1]


def with_norm(params, state, x, train):
    """A unit that nothing reaches is a constant: bias, or what the norm makes of zero."""
    h = (x @ params["w"] + params["bias"][None] - state["mean"][None]) * jax.lax.rsqrt(state["var"] + 1e-5)[None]
    return jax.nn.relu(h * params["scale"][None]) @ params["v"], state


def test_constants_count_if_asked_for():
    params = {"w": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float32), "v": np.ones((3, 1), np.float32),
              "scale": np.float32([1, 0, 1])}  # fmt: skip
    kept = {"w": np.array([[1, 1, 0], [0, 0, 0]], bool), "bias": None, "scale": None, "v": np.ones((3, 1), bool)}
    state = {"mean": np.float32([0, 0, 0]), "var": np.ones(3, np.float32)}
    of = functools.partial(effective.mask, with_norm, mask=kept, image_shape=(2,))

    def seen(params, state, constants):
        return [
            alive.ravel().tolist() for alive in jax.tree.leaves(of(params=params, state=state, constants=constants))
        ]

    paths = [[True, True, False], [True, True, False, False, False, False]]  # a scale of 0 may train: its unit is alive
    assert seen(params, state, False) == paths
    assert seen(params, state, True) == [[True, False, False], [True, False, False, False, False, False]]
    below, above = (params | {"bias": np.float32([0, 0, value])} for value in (-1, 1))
    assert seen(below, state, True)[0] == [True, False, False]  # the ReLU is off for good
    assert seen(above, state, True)[0] == [True, False, True]
    assert seen(params, state | {"mean": np.float32([0, 0, -1])}, True)[0] == [True, False, True]
    for changed in (below, above):
        assert seen(changed, state, False) == paths
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, state))
    assert seen(*shapes, False) == paths


def test_a_constant_that_joins_a_signal_is_no_path():
    params = {"w": jnp.ones((2, 2)), "dead": jnp.ones((2, 2)), "v": jnp.ones((2, 2))}
    kept = {"w": np.ones((2, 2), bool), "dead": np.zeros((2, 2), bool), "v": np.ones((2, 2), bool)}
    for join in (jax.lax.add, jax.lax.max):

        def apply(params, state, x, train, join=join):
            return join(x @ params["w"], jax.nn.sigmoid(x @ params["dead"]) @ params["v"]), state

        alive = [effective.mask(apply, params, {}, kept, (2,), constants=c)["v"].all() for c in (False, True)]
        assert alive == [False, True]


def test_a_gate_of_constants_counts():
    def apply(params, state, x, train):
        return x @ params["w"] * jax.nn.sigmoid(jnp.ones((1, 2)) @ params["gate"]), state

    params = {"w": jnp.ones((2, 2)), "gate": jnp.ones((2, 2))}
    kept = {"w": jnp.array([[True, False], [False, False]]), "gate": jnp.ones((2, 2), bool)}
    alive = effective.mask(apply, params, {}, kept, (2,))
    assert alive["gate"].tolist() == [[True, False], [True, False]]


def test_taps_that_only_see_padding_are_dead():
    def apply(params, state, x, train):
        x = jax.lax.conv_general_dilated(x, params["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return x.reshape(1, -1), state

    params = {"w": jnp.ones((3, 3, 1, 1))}
    for size, count in ((1, 1), (2, 9)):
        assert masks.num_kept(effective.mask(apply, params, {}, masks.ones(params), (size, size, 1))) == count


def test_deep_networks_neither_overflow_nor_underflow():
    def apply(params, state, x, train):
        return functools.reduce(lambda h, w: jax.lax.max(h @ w, jnp.zeros_like(h)), params["w"], x), state

    whole = {"w": [jax.ShapeDtypeStruct((8, 8), jnp.float32)] * 50}
    kept = {"w": [np.ones((8, 8), bool)] * 30 + [np.eye(8, k=1, dtype=bool)] * 20}
    alive = effective.mask(apply, whole, {}, kept, (8,))
    assert masks.num_kept(alive) == 0  # what is shifted eight times is gone
    kept["w"][31:] = [np.eye(8, dtype=bool)] * 19
    alive = effective.mask(apply, whole, {}, kept, (8,))
    assert [int(leaf.sum()) for leaf in alive["w"]] == [64] * 29 + [56] + [7] * 20
    assert effective.cut_layers(kept, alive) == ()


class Linen(nn.Module):
    """Convolutions with groups, norms, pooling, attention-like softmax, dropout."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(8, (3, 3), strides=2)(x)
        x = nn.silu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.gelu(nn.Conv(8, (3, 3), feature_group_count=4)(x))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        gate = nn.sigmoid(nn.Dense(8, use_bias=False)(x.mean((1, 2))))
        x = (x * gate[:, None, None]).reshape(1, -1)
        return nn.Dense(3)(nn.tanh(nn.Dense(6)(x)))


def linen():
    variables = jax.eval_shape(lambda: Linen().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), False))
    state = {"batch_stats": variables["batch_stats"]}
    return lambda p, s, x, train: (Linen().apply({"params": p} | s, x, train), s), variables["params"], state


def haiku():
    def forward(x):
        x = jax.nn.relu(hk.Conv2D(6, 3)(x))
        x = hk.avg_pool(x, (2, 2, 1), (2, 2, 1), "SAME") * hk.get_parameter("temperature", (), init=jnp.ones)
        return hk.Linear(3)(hk.LayerNorm(-1, True, True)(hk.Flatten()(x)))

    net = hk.without_apply_rng(hk.transform(forward))
    params = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    return lambda p, s, x, train: (net.apply(p, x), s), params, {}


@pytest.mark.parametrize(("make", "has_dead"), [(linen, True), (haiku, False)])  # LayerNorm joins all units
def test_networks_of_others(make, has_dead):
    apply, params, state = make()
    rng = np.random.default_rng(5)
    params, state = drawn(rng, params), drawn(rng, state, low=0.5)
    kept = random_mask(rng, params, 0.3)
    alive = effective.mask(apply, params, state, kept, (8, 8, 3), constants=True)
    assert masks.num_kept(alive) > 0
    assert (masks.num_kept(alive) < masks.num_kept(kept)) == has_dead
    x = rng.normal(size=(1, 8, 8, 3)).astype(np.float32)
    run = runner(apply, params, state, x)
    np.testing.assert_array_equal(*(run(applied(params, m)) for m in (kept, alive)))
    whole = effective.mask(apply, params, state, random_mask(rng, params, 2), (8, 8, 3))
    assert masks.num_kept(whole) == masks.num_prunable(whole)


def test_other_inputs_dropout_keys_and_scalars():
    def apply(params, state, tokens, train, key):
        h = jnp.take(params["table"], tokens, axis=0).sum(1)
        return jax.nn.relu(h) @ params["w"] + 0 * jax.random.normal(key, (1, 1)), state

    params = {"table": jnp.ones((5, 3)), "w": jnp.ones((3, 2))}
    kept = {"table": jnp.ones((5, 3), bool), "w": jnp.array([[True, False], [False, False], [False, True]])}
    alive = effective.mask(apply, params, {}, kept, jax.ShapeDtypeStruct((1, 4), jnp.int32))
    assert alive["w"].tolist() == kept["w"].tolist()
    assert masks.num_kept(alive["table"]) == 15  # of a table that is read at unknown places all rows may be


def test_networks_that_cannot_be_followed_are_refused():
    def raising(params, state, x, train):
        raise RuntimeError("two images or more")

    params, kept = {"w": jnp.ones((2, 2))}, {"w": jnp.ones((2, 2), bool)}
    for apply, told in (
        (raising, "got RuntimeError: two images or more"),
        (lambda params, state, x, train: (x @ params["v"], state), "got KeyError: 'v'"),
        (
            lambda params, state, x, train: (x @ params["w"] if x.sum() > 0 else x, state),
            "got TracerBoolConversionError",
        ),
    ):
        with pytest.raises(ValueError, match=f"expected a network that can be traced and followed, {told}"):
            effective.mask(apply, params, {}, kept, (2,))
    with pytest.raises(ValueError, match="expected dtype bool"):
        effective.mask(dense, params, {}, params, (2,))


def test_cut_layers_are_named_in_order():
    kept = {"a": np.ones(2, bool), "b": {"kernel": np.zeros(2, bool), "bias": None}, "c": np.ones(1, bool)}
    alive = {"a": np.array([True, False]), "b": {"kernel": np.zeros(2, bool), "bias": None}, "c": np.zeros(1, bool)}
    assert effective.cut_layers(kept, alive) == ("b/kernel", "c")
