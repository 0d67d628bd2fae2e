"""Our networks as PyTorch's state dicts: the names of stored twins, and back bit for bit through the reader."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.catalog.networks import NETWORKS
from rare_gems import masks
from rare_gems.models import from_torch, read_torch
from rare_gems.models.lenet import lenet_5
from rare_gems.models.torch_export import to_torch
from rare_gems.models.torch_spelling import COUNTERPARTS, torch_names
from tests.models.test_torch_weights import FACTORIES, GOLDEN, first, same, saved

VARIANTS = {("resnet32", "fc"), ("wide_resnet28_2", "linear")}  # of the stored names: other repositories than ours


def like_of(golden):
    model = FACTORIES[golden["factory"]](**golden["options"])
    return model, jax.eval_shape(model.init, jax.random.key(0))


def filled(like, seed=0):
    """Random params and state, and a mask that removes two thirds: NumPy's, for nothing here needs a compiler."""
    rng = np.random.default_rng(seed)
    params, state = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), like)
    mask = jax.tree.map(lambda leaf: rng.random(leaf.shape) < 1 / 3, jax.eval_shape(masks.ones, like[0]))
    return params, state, mask


def removed_from(params, mask):
    return jax.tree.map(lambda m, w: w if m is None else np.where(m, w, np.float32(0)), mask, params,
                        is_leaf=lambda node: node is None)  # fmt: skip


def ids(golden):
    return "-".join([golden["factory"], *map(str, golden["options"].values())])


@pytest.mark.parametrize("golden", GOLDEN, ids=ids)
def test_there_and_back(golden, tmp_path):
    model, like = like_of(golden)
    params, state, mask = filled(like)
    removed = removed_from(params, mask)
    tensors = to_torch(golden["factory"], params, state, mask, prune=True)
    kept = sum(int(tensor.sum()) for name, tensor in tensors.items() if name.endswith("weight_mask"))
    assert kept == sum(int(m.sum()) for m in jax.tree.leaves(mask))
    weights = read_torch(saved(tmp_path, tensors), model)
    same((weights.params, weights.state, weights.mask), (removed, state, mask))
    plain = to_torch(golden["factory"], params, state, mask)
    assert {name: tensor.size for name, tensor in plain.items()} == sizes(golden, plain)
    for name, tensor in plain.items():
        weight = tensors[f"{name}_orig"] * tensors[f"{name}_mask"] if name not in tensors else tensors[name]
        np.testing.assert_array_equal(tensor, weight)
    whole = to_torch(golden["factory"], params, state)
    for name in plain:
        np.testing.assert_array_equal(whole[name], tensors.get(f"{name}_orig", tensors.get(name)))


def sizes(golden, ours):
    """How many numbers the stored twin's tensors have, by name."""
    parts = [text.rpartition(":") for text in golden["tensors"].split()]
    stored = {name: math.prod(map(int, shape.split("x"))) for name, _, shape in parts}
    if any(golden["factory"] == factory and f"{word}.weight" in stored for factory, word in VARIANTS):
        assert sorted(stored.values()) == sorted(tensor.size for tensor in ours.values())
        return {name: tensor.size for name, tensor in ours.items()}
    return stored


def test_every_network_has_a_counterpart():
    assert {name for name, _ in COUNTERPARTS} == set(NETWORKS)


def test_layouts_by_hand():
    params, state, _ = filled(jax.eval_shape(lenet_5(image_size=20).init, jax.random.key(0)))
    tensors = to_torch("lenet_5", params, state)
    conv, dense = params["conv2"]["kernel"], params["linear1"]["kernel"]
    assert tensors["conv2.weight"][7, 3, 1, 4] == conv[1, 4, 3, 7]
    assert tensors["fc1.weight"].shape == (500, 200)
    assert tensors["fc1.weight"][9, 5 * 4 + 2] == dense[2 * 50 + 5, 9]  # channel 5, pixel 2 of the 2 x 2
    np.testing.assert_array_equal(tensors["fc2.weight"], params["linear2"]["kernel"].T)
    np.testing.assert_array_equal(tensors["fc2.bias"], params["linear2"]["bias"])


def test_scales_and_biases_are_added_where_the_layer_is(tmp_path):
    golden = first("vgg16")
    model, like = like_of({"factory": "vgg16", "options": {"width": 0.25}})
    params, state, mask = filled(like)
    paths = {masks.path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(like_of(golden)[1][0])}
    tensors = to_torch("vgg16", params, state, mask, add=[*paths, "layers/99/bn/scale"])
    assert {text.rpartition(":")[0] for text in golden["tensors"].split()} == set(tensors)
    assert (tensors["features.1.weight"] == 1).all()
    assert (tensors["features.0.bias"] == 0).all()
    complete, at = like_of(golden)[0], saved(tmp_path, tensors)
    image = jnp.asarray(np.random.default_rng(0).standard_normal((1, 32, 32, 3), np.float32))
    state = jax.device_put(jax.tree.map(np.abs, state))
    logits = jax.jit(lambda apply, params: apply(params, state, image, False)[0], static_argnums=0)
    ours, theirs = logits(model.apply, removed_from(params, mask)), logits(complete.apply, from_torch(at, complete)[0])
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_refusals():
    params, state, _ = filled(jax.eval_shape(lenet_5(image_size=20).init, jax.random.key(0)))
    with pytest.raises(ValueError, match=r"counterpart in PyTorch, one of resnet20, .*, got my_networks:linen"):
        to_torch("my_networks:linen", params, state)
    with pytest.raises(ValueError, match="prune: expected a mask, got none"):
        to_torch("lenet_5", params, state, prune=True)
    with pytest.raises(ValueError, match="expected 13 modules in features, got number 14"):
        torch_names("vgg16", {"layers/13/conv/kernel": (3, 3, 4, 4)})
