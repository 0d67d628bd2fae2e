"""Names and layouts of Keras, by hand and there and back."""

import re

import jax
import numpy as np
import pytest

from rare_gems.models.keras_names import from_keras_names, to_keras_names
from tests.models.test_torch_weights import FACTORIES, same

LEAVES = "kernel|bias|gamma|beta|moving_mean|moving_variance"


@pytest.mark.parametrize("network", ["resnet20", "mobilenet_v2", "vgg16"])
def test_names_there_and_back(network):
    """Numbers stand for the leaves, since the arrays stay as they are."""
    like = jax.eval_shape(FACTORIES[network](affine=True, use_bias=True, width=0.125).init, jax.random.key(0))
    leaves, structure = jax.tree.flatten(like)
    params, state = structure.unflatten([np.float32(i) for i in range(len(leaves))])
    arrays = to_keras_names(params, state)
    assert all(re.fullmatch(rf"[^/]+/({LEAVES})", name) for name in arrays)
    same(from_keras_names(arrays, params, state), (params, state))


def test_removed_weights_are_zero_and_the_masks_are_there():
    params = {"a": {"kernel": np.ones((2, 3), np.float32)}, "b": {"kernel": np.ones((3, 1), np.float32)}}
    mask = {"a": {"kernel": np.eye(2, 3) > 0}, "b": {"kernel": None}}
    arrays = to_keras_names(params, {}, mask)
    assert sorted(arrays) == ["a/kernel", "a/kernel_mask", "b/kernel"]
    np.testing.assert_array_equal(arrays["a/kernel"], np.eye(2, 3))
    np.testing.assert_array_equal(arrays["a/kernel_mask"], mask["a"]["kernel"])


def test_names_by_hand():
    block = {
        "bn": {"scale": np.ones(2), "bias": np.zeros(2)},
        "conv": {"kernel": np.ones((1, 1, 3, 2)), "bias": np.ones(2)},
    }
    arrays = to_keras_names({"layer1": [block]}, {"layer1": [{"bn": {"mean": np.ones(2), "var": np.full(2, 3.0)}}]})
    assert sorted(arrays) == [
        "layer1_0_bn/beta", "layer1_0_bn/gamma", "layer1_0_bn/moving_mean", "layer1_0_bn/moving_variance",
        "layer1_0_conv/bias", "layer1_0_conv/kernel",
    ]  # fmt: skip
    assert arrays["layer1_0_bn/moving_variance"].tolist() == [3, 3]
    assert arrays["layer1_0_bn/beta"].tolist() == [0, 0]
    with pytest.raises(ValueError, match="two leaves would have the name 'a_b/w' in Keras"):
        to_keras_names({"a": {"b": {"w": np.ones(1)}}, "a_b": {"w": np.ones(1)}}, {})
    with pytest.raises(ValueError, match=r"a/w: expected an array of shape \(2,\), got nothing"):
        from_keras_names({}, {"a": {"w": np.ones(2)}}, {})
    with pytest.raises(ValueError, match=r"a/w: expected an array of shape \(2,\), got \(3,\)"):
        from_keras_names({"a/w": np.ones(3)}, {"a": {"w": np.ones(2)}}, {})


def test_linen_s_collection_of_statistics_is_no_part_of_a_layer_s_name():
    params = {"BatchNorm_0": {"scale": np.ones(2)}, "Dense_0": {"kernel": np.ones((3, 2))}}
    state = {"batch_stats": {"BatchNorm_0": {"mean": np.zeros(2), "var": np.full(2, 3.0)}}}
    arrays = to_keras_names(params, state)
    assert sorted(arrays) == [
        "BatchNorm_0/gamma", "BatchNorm_0/moving_mean", "BatchNorm_0/moving_variance", "Dense_0/kernel"
    ]  # fmt: skip
    same(from_keras_names(arrays, params, state), (params, state))


def test_a_tree_of_nnx_has_the_same_names():
    params = {"bn": {"scale": {"value": np.ones(2)}}, "conv": {"kernel": {"value": np.ones((1, 1, 3, 2))}}}
    state = {"bn": {"mean": {"value": np.zeros(2)}}}
    arrays = to_keras_names(params, state)
    assert sorted(arrays) == ["bn/gamma", "bn/moving_mean", "conv/kernel"]
    same(from_keras_names(arrays, params, state), (params, state))
