"""What counts as prunable: in real networks of each framework, stacked or not, by names of PyTorch, in plain dicts."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from rare_gems import leaf_names, masks
from rare_gems.models.mobilenet_v2 import mobilenet_v2
from rare_gems.models.resnet import resnet20

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def _loose():
    """Layers of other frameworks promote."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def kernels(params):
    """The names that count, and that `masks.ones` agrees."""
    names = [leaf.name for leaf in masks.report(params) if leaf.prunable]
    mask = jax.eval_shape(masks.ones, params)
    assert [masks.path_name(path) for path, _ in jax.tree.leaves_with_path(mask)] == names
    return set(names)


def shaped(**shapes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def reason(params, name):
    (found,) = (leaf.reason for leaf in masks.report(params) if leaf.name == name)
    return found


def test_a_bias_with_the_axes_of_an_image():
    params = {"conv": shaped(w=(3, 3, 1, 8), b=(8, 1, 1))}
    assert kernels(params) == {"conv/w"}
    assert masks.num_prunable(jax.eval_shape(masks.ones, params)) == 72


def test_haiku():
    def forward(x):
        x = hk.Conv2D(8, 3, data_format="NCHW")(x)
        x = hk.BatchNorm(True, True, 0.9, data_format="NCHW")(x, True)
        x = hk.Conv2DTranspose(8, 3, data_format="NCHW")(x)
        x = hk.InstanceNorm(True, True, data_format="NCHW")(x)
        x = hk.GroupNorm(2, data_format="NCHW")(x)
        x = hk.LayerNorm((-3, -2, -1), True, True)(x).mean((2, 3))

        def block(x):
            return hk.RMSNorm(-1)(hk.LayerNorm(-1, True, True)(hk.Linear(8)(x)))

        x = hk.experimental.layer_stack(3)(block)(x)
        x = hk.MultiHeadAttention(2, 4, w_init=hk.initializers.RandomNormal(), model_size=8)(x, x, x)
        x = x + hk.Embed(5, 8)(jnp.array([1])) + hk.Bias()(x)
        return hk.GRU(8)(x, hk.GRU(8).initial_state(2))[0]

    params, _ = jax.eval_shape(hk.transform_with_state(forward).init, KEY, jnp.zeros((2, 1, 6, 6)))
    stack = "__layer_stack_no_per_layer"
    assert params[f"{stack}/linear"]["b"].shape == (3, 8)
    assert params["conv2_d_transpose"]["b"].shape == (8, 1, 1)
    attention = {f"multi_head_attention/{name}/w" for name in ("query", "key", "value", "linear")}
    layers = {"conv2_d/w", "conv2_d_transpose/w", f"{stack}/linear/w", "embed/embeddings", "gru/w_i", "gru/w_h"}
    assert kernels(params) == attention | layers
    assert not any(leaf.is_guess for leaf in masks.report(params))


def equinox_layers(key):
    layers = {
        "batch": eqx.nn.BatchNorm(4, "batch", mode="ema"), "layer": eqx.nn.LayerNorm(4),
        "layer2d": eqx.nn.LayerNorm((4, 8)), "no_bias": eqx.nn.LayerNorm((4, 8), use_bias=False),
        "rms": eqx.nn.RMSNorm((4, 5)), "group": eqx.nn.GroupNorm(2, 4), "relu": eqx.nn.PReLU(),
        "spectral": eqx.nn.SpectralNorm(eqx.nn.Linear(2, 3, key=key), "weight", key=key),
        "weight_norm": eqx.nn.WeightNorm(eqx.nn.Linear(2, 3, key=key)),
        "gru": eqx.nn.GRUCell(2, 3, key=key), "attention": eqx.nn.MultiheadAttention(2, 4, key=key),
        "table": eqx.nn.Embedding(5, 4, key=key), "up": eqx.nn.ConvTranspose2d(2, 3, 3, key=key),
    }  # fmt: skip
    return eqx.filter(layers, eqx.is_inexact_array)


@pytest.mark.parametrize("stacked", [False, True])
def test_equinox(stacked):
    make = eqx.filter_vmap(equinox_layers) if stacked else equinox_layers
    params = eqx.filter_eval_shape(make, jax.random.split(KEY, 3) if stacked else KEY)
    assert params["layer"].weight.shape == ((3, 4) if stacked else (4,))
    attention = {f"attention/{name}_proj/weight" for name in ("query", "key", "value", "output")}
    layers = {"spectral/layer/weight", "weight_norm/layer/weight", "gru/weight_ih", "gru/weight_hh", "table/weight",
              "up/weight"}  # fmt: skip
    assert kernels(params) == attention | layers
    assert reason(params, "no_bias/weight") == "scale, in LayerNorm"
    assert reason(params, "table/weight") == "embedding table"


def test_classes_of_users():
    class AdaptiveNorm(eqx.Module):
        weight: jax.ShapeDtypeStruct

    class PositionEmbedding(AdaptiveNorm):
        pass

    leaf = jax.ShapeDtypeStruct((3, 4), jnp.float32)
    assert kernels({"a": AdaptiveNorm(leaf), "b": PositionEmbedding(leaf), **shaped(w=(2, 2))}) == {"w"}


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x)[None])[0]
        x = nn.GroupNorm(2)(nn.BatchNorm(False)(nn.WeightNorm(nn.Dense(8))(x)))
        return nn.Dense(8)(x) * self.param("layer_scale", nn.initializers.ones, (8,)), None


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, words):
        x = nn.Embed(5, 8)(words) + self.param("pos_embedding", nn.initializers.normal(), (3, 8))
        x = x + self.param("cls", nn.initializers.normal(), (1, 8)) * self.param(
            "logit_scale", nn.initializers.ones, ()
        )
        axes = {"params": 0, "batch_stats": 0}
        return nn.scan(Block, variable_axes=axes, split_rngs={"params": True}, length=2)(name="layers")(x, None)[0]


def test_linen():
    variables = jax.eval_shape(Transformer().init, KEY, jnp.zeros((3,), jnp.int32))
    params = variables["params"]
    assert params["layers"]["LayerNorm_0"]["scale"].shape == params["layers"]["Dense_0"]["bias"].shape == (2, 8)
    heads = {f"layers/MultiHeadDotProductAttention_0/{name}/kernel" for name in ("query", "key", "value", "out")}
    assert kernels(params) == heads | {"Embed_0/embedding", "layers/Dense_0/kernel", "layers/Dense_1/kernel"}
    assert kernels(variables) == {f"params/{name}" for name in kernels(params)}
    assert reason(variables, "batch_stats/layers/BatchNorm_0/mean") == "running statistics"
    assert reason(params, "pos_embedding") == "positional embedding"
    assert reason(params, "cls") == "token"


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm, self.rms = nnx.BatchNorm(4, rngs=rngs), nnx.RMSNorm(4, rngs=rngs)
        self.drop, self.table = nnx.Dropout(0.1, rngs=rngs), nnx.Embed(5, 4, rngs=rngs)
        self.parts = nnx.List([nnx.LoRA(4, 2, 4, rngs=rngs), nnx.PReLU()])
        self.attention = nnx.MultiHeadAttention(2, 4, rngs=rngs, decode=False, normalize_qk=True)
        self.weight_norm = nnx.WeightNorm(nnx.Linear(2, 3, rngs=rngs), rngs=rngs)
        self.cls_token = nnx.Param(jnp.zeros((1, 1, 4)))


@pytest.fixture(scope="module")
def nets():
    def make(key):
        return Net(nnx.Rngs(key))

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return {
            False: nnx.eval_shape(lambda: make(KEY)),
            True: nnx.eval_shape(lambda: nnx.vmap(make)(jax.random.split(KEY, 3))),
        }


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("form", ["module", "state", "dicts"])
def test_nnx(form, stacked, nets):
    net = nets[stacked]
    state = nnx.state(net, nnx.Param)
    params = {"module": net, "state": state, "dicts": nnx.to_pure_dict(state)}[form]
    names = {f"attention/{name}/kernel" for name in ("query", "key", "value", "out")}
    names |= {"conv/kernel", "table/embedding", "parts/0/lora_a", "parts/0/lora_b", "weight_norm/layer_instance/kernel"}
    assert {leaf.name.removesuffix("/value") for leaf in masks.report(params) if leaf.prunable} == names


def test_scales_under_the_key_of_their_weight():
    """As WeightNorm of Flax 0.12.12 has them; here stacked."""
    params = {"layer_instance": {"kernel": jnp.ones((3, 8, 8))}, "scales": {("kernel",): jnp.ones((3, 8))}}
    assert [leaf.prunable for leaf in masks.report(params)] == [True, False]


TORCH = {
    "conv1.weight": (8, 1, 3, 3), "layer1.0.downsample.0.weight": (8, 8, 1, 1), "fc.weight_orig": (4, 8),
    "encoder.layers.0.self_attn.in_proj_weight": (24, 8), "h.0.attn.c_attn.weight": (8, 24),
    "conv.weight_v": (8, 1, 3), "a.parametrizations.weight.original1": (8, 1, 3), "wte.weight": (50, 8),
    "c.parametrizations.weight.original": (8, 3), "embed_tokens.weight": (9, 8), "lstm.weight_ih_l0": (32, 8),
    "linear_pos.weight": (9, 8), "x.lora_B.weight": (8, 2), "pos_embed.proj.weight": (8, 3, 2, 2),
}  # fmt: skip
NEVER = {
    "bn1.weight": (2, 8), "bn1.bias": (2, 8), "bn1.running_mean": (2, 8), "layer1.0.downsample.1.weight": (2, 8),
    "layer1.0.downsample.1.running_var": (2, 8), "norm1.weight": (2, 8), "layer_norm.weight": (2, 8),
    "ln_f.weight": (2, 8), "cls_token": (1, 1, 8), "blocks.0.ls1.gamma": (2, 8), "logit_scale": (2, 1),
    "wpe.weight": (9, 8), "embeddings.position_embeddings.weight": (9, 8), "relative_position_bias_table": (9, 2),
    "conv.weight_g": (8, 1, 1), "a.parametrizations.weight.original0": (8, 1, 1), "fc.weight_mask": (4, 8),
    "decoder.class_embedding": (2, 8), "lstm.bias_ih_l0": (2, 32), "q_norm.weight": (2, 8),
    "encoder.layers.0.self_attn.in_proj_bias": (2, 24), "relative_attention_bias.weight": (32, 8),
    "layer_scale_1": (2, 8), "register_tokens": (1, 4, 8), "patch.pos_embed": (1, 5, 8),
}  # fmt: skip


def test_names_of_torch():
    """As keys of one dict, whose leaves are told apart by what stands before the dot."""
    params = shaped(**TORCH, **NEVER, **{"linear_pos.bias": (9,)})
    assert kernels(params) == set(TORCH)
    nested: dict = {}
    for name, leaf in params.items():
        *parents, last = name.split(".")
        node = nested
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    assert kernels(nested) == {name.replace(".", "/") for name in TORCH}


@pytest.mark.parametrize("name", NEVER)
def test_alone_too_unless_what_stands_beside_it_tells(name):
    (leaf,) = masks.report(shaped(**{name: NEVER[name]}))
    assert leaf.prunable == (name == "layer1.0.downsample.1.weight")


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (shaped(W1=(4, 8), b1=(2, 8), W2=(8, 3), b2=(1, 3)), {"W1", "W2"}),
        (shaped(conv1_w=(3, 3, 1, 8), conv1_b=(8, 1, 1)), {"conv1_w"}),
        ({"weights": [*shaped(w=(2, 3)).values()], "biases": [*shaped(b=(2, 3)).values()]}, {"weights/0"}),
        ({"ln": shaped(w=(3, 8), b=(3, 8)), "ffn": shaped(w=(3, 8, 8), b=(3, 8))}, {"ffn/w"}),
        ({"norm": shaped(g=(3, 8), b=(3, 8)), **shaped(w=(2, 2))}, {"w"}),
        ({"one": shaped(w=(1, 8), b=(1, 8))}, {"one/w"}),  # a layer of one input
        (shaped(lora_A=(8, 2), lora_B=(2, 8)), {"lora_A", "lora_B"}),
        ({"ssm": shaped(A=(8, 8), B=(8, 2))}, {"ssm/A", "ssm/B"}),
        (shaped(theta=(2, 8), bias=(2, 8), w=(2, 2)), {"w"}),
        ({"weights": [*shaped(a=(5, 8, 4), c=(5, 4)).values()]}, {"weights/0", "weights/1"}),
        ({"norms": [shaped(weight=(2, 8)), shaped(weight=(2, 8))], **shaped(w=(2, 2))}, {"w"}),
        ({"time_embed": shaped(weight=(3, 8), bias=(3,))}, {"time_embed/weight"}),
        # TransformerLens: biases of a head have two axes, W_pos is the table of positions
        (shaped(W_Q=(2, 8, 4), b_Q=(2, 4), W_E=(50, 8), W_pos=(10, 8), b_U=(2, 50)), {"W_Q", "W_E"}),
        # Transformers' Flax networks
        ({"embed_positions": shaped(embedding=(9, 8)), "shared": shaped(embedding=(9, 8)),
          "input_layernorm": shaped(weight=(2, 8)), "relative_attention_bias": shaped(embedding=(9, 8)),
          "layernorm_embedding": shaped(scale=(2, 8)), **shaped(final_logits_bias=(1, 50))}, {"shared/embedding"}),
        ({"attention": shaped(query=(8, 8), key=(8, 8), value=(8, 8), bq=(2, 8))},
         {f"attention/{name}" for name in ("query", "key", "value")}),
        ({"bias": shaped(kernel=(2, 3)), "norm": shaped(kernel=(2, 3))}, {"bias/kernel", "norm/kernel"}),
    ],
)  # fmt: skip
def test_plain_dicts(params, expected):
    assert kernels(params) == expected


def test_norms_that_are_named_as_weights():
    norms = "norm_weight", "rms_att_weight", "rmsnorm_w", "norm1Weight", "ln1_g", "att_norm", "layernorm"
    others = "attn_weight", "transform_weight", "form_w", "norm_kernel", "w1"
    params = shaped(**dict.fromkeys((*norms, *others), (3, 8)), temporal_embed=(1, 4, 8), pe=(4, 8))
    params |= {name: shaped(weight=(3, 8)) for name in ("bnorm", "prelu", "fc")}
    assert kernels(params) == {*others, "fc/weight"}
    assert reason(params, "temporal_embed") == reason(params, "pe") == "positional embedding"


def test_nameless_pairs_of_kernel_and_bias():
    conv, dense, stacked = ((3, 3, 1, 8), (1, 1, 1, 8)), ((8, 4), (4,)), ((5, 8, 4), (5, 4))
    params = [tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in pair) for pair in (conv, dense, stacked)]
    assert kernels(params) == {"0/0", "1/0", "2/0"}
    assert [leaf.name for leaf in masks.report(params) if leaf.is_guess] == ["0/0", "1/0", "2/0"]


def test_what_nothing_tells_of_counts_and_is_a_guess():
    params = {**shaped(theta=(2, 3), probe=(1, 1, 8), w=(2, 2)), "table": jnp.ones((2, 2), jnp.int32), "name": "net"}
    found = {leaf.name: leaf for leaf in masks.report(params)}
    assert (found["theta"].prunable, found["theta"].is_guess) == (True, True)
    assert (found["w"].prunable, found["w"].is_guess, found["w"].reason) == (True, False, "kernel")
    assert not found["probe"].prunable  # one axis at most is longer than 1
    assert (found["table"].reason, found["name"].reason) == ("int32, not floating-point", "no array")
    asked = masks.report(params, lambda path, leaf: masks.path_name(path) == "probe")
    assert [leaf.name for leaf in asked if leaf.prunable] == ["probe"]


def test_under_a_trace_and_of_keys():
    params = {"w": jnp.ones((2, 3)), "rng": jax.random.split(KEY, (2, 3)), "norm": {"scale": jnp.ones((2, 3))}}
    assert masks.layer_counts(jax.jit(masks.ones)(params)) == {"w": (6, 6)}


@pytest.mark.parametrize(
    ("name", "says"), [("LayerNorm", True), ("BatchNorm2d", True), ("RMSNorm", True), ("AdaLayerNorm", True),
                       ("SyncBatchNorm", True), ("LayerNormalization", True), ("LayerScale", True), ("PReLU", True),
                       ("Linear", False), ("NormedLinear", False), ("NormFreeConv", False), ("Normal", False)],
)  # fmt: skip
def test_classes_of_norms(name, says):
    assert leaf_names.is_norm_class(name) == says


@pytest.mark.parametrize("make", [resnet20, mobilenet_v2])
def test_our_networks_have_kernels_that_count_and_nothing_else_that_does(make):
    params, _ = jax.eval_shape(make(use_bias=True, affine=True).init, KEY)
    for leaf in masks.report(params):
        assert (leaf.prunable, leaf.is_guess) == (leaf.name.endswith("/kernel"), False), leaf


def test_is_prunable_tells_of_a_leaf_alone():
    leaves = jax.tree.leaves_with_path({"bn1": shaped(weight=(2, 8)), "fc": shaped(weight=(2, 8), b=(8, 1, 1))})
    assert [masks.is_prunable(path, leaf) for path, leaf in leaves] == [False, False, True]
