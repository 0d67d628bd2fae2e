"""The order of layers that a traced program tells: our networks, those of other libraries, and control flow."""

import dataclasses

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from experiments.catalog import networks
from rare_gems.models.layer_order import Layers, layer_order, read_layers
from rare_gems.models.layers import Linear
from rare_gems.models.model import from_module
from rare_gems.training.sharding import make_mesh
from tests.models.test_resnet_counts import layers

IMAGES = jax.ShapeDtypeStruct((2, 4), jnp.float32)
SHAPES = {"lenet_300_100": (8, 8, 1), "lenet_5": (28, 28, 1), "squeezenet": (17, 17, 3), "inception_v3": (75, 75, 3)}


def weights(names, shape=(4, 4)):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name in names}


def order_of(logits, params, state=None):
    return layer_order(lambda p, s, x, train: (logits(p, x), s), params, state or {}, IMAGES)


def traced(model, shape):
    return read_layers(model.apply, *jax.eval_shape(model.init, jax.random.key(0)), jax.ShapeDtypeStruct(shape, "f4"))


def made(name, **options):
    shape = SHAPES.get(name, (32, 32, 3))
    options = dataclasses.replace(networks.defaults_of(name), **options)
    return networks.make_network(name, shape, 10, options, jnp.dtype("float32")), (2, *shape)


@pytest.mark.parametrize("name", [*networks.NETWORKS, "resnet20 B"])
def test_our_networks_read_their_layers_in_the_order_of_their_names(name):
    """Down-sampling convolutions come after their block's others, as the papers count them."""
    model, shape = made(name.split()[0], **({"shortcut": "B"} if name.endswith("B") else {}))
    names = [f"{layer}/kernel" for layer in layers(model)[0]]
    if name == "inception_v3":  # torchvision has the 5x5 branch of its first blocks before the double 3x3
        names.sort(key=lambda layer: not layer.startswith("conv/"))
        for block in (0, 1, 2):
            at = names.index(f"inception/{block}/branch3x3dbl_1/conv/kernel")
            names[at : at + 5] = names[at + 3 : at + 5] + names[at : at + 3]
    assert traced(model, shape) == Layers(tuple(names), ())


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(4, name="stem")(x)
        for i in (1, 2):
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(4, name=f"block{i}")(x)))
        for _ in range(11):
            x = nn.Dense(4)(x)
        return nn.Dense(3, name="classifier")(x)


def test_linen_networks_are_not_in_the_order_of_the_alphabet():
    net = Linen()
    variables = jax.eval_shape(lambda key: net.init(key, jnp.zeros(IMAGES.shape), False), jax.random.key(0))
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    apply = lambda p, s, x, train: net.apply({"params": p, **s}, x, train, mutable=["batch_stats"])  # noqa: E731
    names = ["stem", "block1", "block2", *(f"Dense_{i}" for i in range(11)), "classifier"]
    assert layer_order(apply, params, state, IMAGES) == tuple(f"{name}/kernel" for name in names)


def test_haiku_and_equinox_networks():
    def forward(x):
        return hk.Linear(3, name="last")(hk.Linear(4, name="middle")(hk.Linear(4, name="z")(x)))

    net = hk.without_apply_rng(hk.transform(forward))
    params = jax.eval_shape(net.init, jax.random.key(0), IMAGES)
    assert order_of(net.apply, params) == ("z/w", "middle/w", "last/w")
    make = lambda: eqx.nn.MLP(4, 3, 4, 2, key=jax.random.key(0))  # noqa: E731
    params, static = eqx.partition(eqx.filter_eval_shape(make), lambda leaf: hasattr(leaf, "shape"))
    names = order_of(lambda p, x: jax.vmap(eqx.combine(p, static))(x), params)
    assert names == tuple(f"layers/{i}/weight" for i in range(3))


def test_a_variable_that_two_layers_of_nnx_share_is_one_layer():
    class Tied(nnx.Module):
        def __init__(self):
            self.late, self.early, self.again = (Linear(4, 4, use_bias=False) for _ in range(3))
            self.again.kernel = self.early.kernel

        def __call__(self, x, train):
            return self.late(self.again(self.early(x)))

    model = from_module(Tied)
    names = traced(model, (2, 4)).read
    assert (len(names), names[1]) == (2, "late/kernel")
    assert len(jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))[0])) == 2


def scanned(p, x):
    def block(x, layer):
        return jnp.tanh(x @ layer["z"] @ layer["a"]), None

    return jax.lax.scan(block, x @ p["stem"], {"z": p["many_z"], "a": p["many_a"]})[0] @ p["head"]


def test_layers_stacked_for_a_scan():
    params = weights(["head", "stem"]) | weights(["many_a", "many_z"], (5, 4, 4))
    assert order_of(scanned, params) == ("stem", "many_z", "many_a", "head")


def recurrent(p, x):
    """At the first step the state is zero, so that only the second round shows that `b` meets the images."""

    def step(h, token):
        return jnp.tanh(h @ p["b"] + token @ p["a"]), None

    return jax.lax.scan(step, jnp.zeros((2, 4)), jnp.stack([x, x]))[0] @ p["c"]


def branches(p, x):
    return jax.lax.cond(x.sum() > 0, lambda x: x @ p["c"], lambda x: x @ p["b"], x) @ p["a"]


def repeated(p, x):
    return jax.lax.while_loop(lambda x: (x @ p["c"]).sum() < 9.0, lambda x: x @ p["b"], x) @ p["a"]


@jax.custom_jvp
def product(x, w):
    return x @ w


@jax.custom_vjp
def other_product(x, w):
    return x @ w


@jax.custom_batching.custom_vmap
def mapped(x, w):
    return x @ w


def shared(x, *kernels):
    mesh, whole = make_mesh(jax.devices()[:1]), jax.sharding.PartitionSpec()
    product = lambda x, w, v: jax.lax.pmean(x @ w, "data") @ v  # noqa: E731
    return jax.shard_map(product, mesh=mesh, in_specs=(whole,) * 3, out_specs=whole)(x, *kernels)


def collected(p, x):
    """The results are those of each round, stacked."""
    kernels = tuple(jnp.stack([kernel, kernel]) for kernel in (p["c"], p["b"]))
    return jax.lax.scan(lambda h, w: (h @ w[0], h @ w[1]), x, kernels)[1][0] @ p["a"]


mapped.def_vmap(lambda size, batched, x, w: (x @ w, True))
product.defjvp(lambda primals, tangents: (product(*primals), tangents[0]))
other_product.defvjp(lambda x, w: (x @ w, w), lambda w, g: (g @ w.T, w))


@pytest.mark.parametrize(
    ("logits", "order"),
    [
        (recurrent, "bac"),
        (branches, "bca"),
        (repeated, "cba"),
        (lambda p, x: jax.checkpoint(lambda x: jax.jit(jnp.matmul)(x, p["c"]) @ p["b"])(x) @ p["a"], "cba"),
        (lambda p, x: other_product(product(x, p["c"]), p["b"]) @ p["a"], "cba"),
        (lambda p, x: jax.vmap(lambda x: x @ p["c"] @ p["b"])(x) @ p["a"], "cba"),
        (lambda p, x: mapped(mapped(x, p["c"]), p["b"]) @ p["a"], "cba"),
        (lambda p, x: shared(x, p["c"], p["b"]) @ p["a"], "cba"),
        (collected, "cba"),
        (lambda p, x: jax.lax.fori_loop(0, 3, lambda i, c: (c[0] @ c[1], c[1]), (x, p["c"]))[0] @ p["b"], "cba"),
        # what is done to a kernel alone does not count, nor what is done to all of them at once
        (lambda p, x: x @ (p["c"] / jnp.linalg.norm(p["a"])) @ p["b"].T.astype("bfloat16").astype("f4"), "cab"),
        (lambda p, x: (lambda q: x @ q["c"] @ q["b"] @ q["a"])(jax.lax.optimization_barrier(p)), "cba"),
        pytest.param(
            lambda p, x: (lambda w: x @ w[2] @ w[0] @ w[1])(jnp.stack([p["c"], p["b"], p["a"]])), "cba",
            marks=pytest.mark.skipif(jax.version.__version_info__ < (0, 10), reason="w[2] is a slice there: acb"),
        ),
        (lambda p, x: (lambda n: x @ (p["c"] / n) @ p["b"] @ p["a"])(sum(map(jnp.linalg.norm, p.values()))), "cba"),
        # parts of one vector, as optimizers and federated learning have it; whole and in part
        (lambda p, x: (lambda q: x @ q["c"] @ q["b"] @ q["a"])((lambda v, back: back(v))(*ravel_pytree(p))), "cba"),
        (lambda p, x: (lambda w: x @ w[:, 8:] @ w[:, 2:6] @ p["c"])(jnp.concatenate([*p.values()], 1)), "cab"),
        # a table, a sum, a reading that decides nothing before it, a layer used twice
        (lambda p, x: p["c"][x.argmax(-1)] @ p["b"] @ p["a"], "cba"),
        (lambda p, x: (x @ jnp.ones((4, 4)) + p["c"][:2]) @ p["a"] @ p["b"], "cab"),
        (lambda p, x: x @ p["b"] @ p["c"] @ p["b"] @ p["a"], "bca"),
    ],
)  # fmt: skip
def test_programs_are_followed(logits, order):
    assert order_of(logits, weights("abc")) == tuple(order)


def test_what_is_never_read_comes_last_and_is_told():
    params = weights("abc") | {"bias": jnp.zeros(4)}
    apply = lambda p, s, x, train: (x @ p["c"] + p["bias"][None], s)  # noqa: E731
    assert read_layers(apply, params, {}, IMAGES) == Layers(("c",), ("a", "b"))
    assert layer_order(apply, params, {}, IMAGES) == ("c", "a", "b")
    mask = {"a": None, "b": jnp.ones((4, 4), bool), "c": jnp.ones((4, 4), bool), "bias": jnp.ones(4, bool)}
    assert read_layers(apply, params, {}, IMAGES, mask) == Layers(("c", "bias"), ("b",))


def test_nothing_is_computed_and_training_mode_is_traced():
    def apply(params, state, x, train):
        assert isinstance(x, jax.core.Tracer)
        return x @ params["b"] @ params["a"] if train else x, state

    params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))}
    assert layer_order(apply, params, {}, jnp.ones((2, 4))) == ("b", "a")


def test_two_leaves_of_one_name_are_refused():
    params = {"a": weights("c"), "a/c": jax.ShapeDtypeStruct((4, 4), jnp.float32)}
    with pytest.raises(ValueError, match="expected a name for each prunable leaf, got a/c twice"):
        order_of(lambda p, x: x @ p["a/c"], params)
