"""Weights under the names and in the layouts of Keras 3: `LAYER/kernel`, `LAYER/gamma`, `LAYER/moving_mean`, ..."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from rare_gems.masks import path_name
from rare_gems.phase import Mask, Params, PyTree
from rare_gems.storage.ticket_contents import on_host

__all__ = ["from_keras_names", "to_keras_names"]

_OF_NORMS = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}


def to_keras_names(params: Params, state: PyTree, mask: Mask | None = None) -> dict[str, np.ndarray]:
    """The arrays of a network as Keras 3 names and lays out the variables of its layers.

    A layer's name is its path joined by "_", since Keras allows no "/" in it: `layer1/0/conv1/kernel` becomes
    `layer1_0_conv1/kernel`, the `path` of that variable in a Keras model whose layers have such names. A BatchNorm's
    `scale`, `bias`, `mean` and `var` become `gamma`, `beta`, `moving_mean` and `moving_variance`. Kernels stay as they
    are, HWIO and (inputs, outputs); those of convolutions that see each channel alone, [rows, columns, 1, channels],
    are those of `Conv2D(groups=channels)`, and with the last two axes swapped those of `DepthwiseConv2D`.

    Args:
      params, state: as from `Model.init`; of networks of your own, too: leaves that are called otherwise than those of
        Flax (Haiku's `w` and `b`, Equinox's `weight`) keep their names, and all keep their layouts.
      mask: removed weights become zero, and the mask is written as bool arrays `LAYER/kernel_mask`.

    Returns:
      Arrays by name; PRNG keys as their data.

    Raises:
      ValueError: where two leaves would have one name.

    Example:
      >>> params = {"conv": {"kernel": np.ones((3, 3, 1, 8))}, "block": [{"bn": {"scale": np.ones(8)}}]}
      >>> state = {"block": [{"bn": {"mean": np.zeros(8)}}]}
      >>> {name: array.shape for name, array in to_keras_names(params, state).items()}
      {'block_0_bn/gamma': (8,), 'conv/kernel': (3, 3, 1, 8), 'block_0_bn/moving_mean': (8,)}

    Deviations: no names of `keras.applications`, whose networks are others where they bear the same names: ResNet-50
    has its strides elsewhere, VGG no BatchNorm, Inception-v3 and MobileNetV2 have other paddings and epsilons.
    """
    kept = dict(_leaves(mask))
    found: dict[str, np.ndarray] = {}
    for tree, names in zip((params, state), _names(params, state), strict=True):
        for path, leaf in _leaves(tree):
            array = on_host(leaf)
            new = {names[path]: array}
            if tree is params and path in kept:
                bits = on_host(kept[path])
                new = {names[path]: np.where(bits, array, np.zeros((), array.dtype)), f"{names[path]}_mask": bits}
            if twice := new.keys() & found.keys():
                raise ValueError(f"two leaves would have the name {min(twice)!r} in Keras")
            found |= new
    return found


def from_keras_names(arrays: Mapping[str, np.ndarray], params: Params, state: PyTree) -> tuple[Params, PyTree]:
    """The reverse of `to_keras_names`, in trees like params and state (arrays or `jax.ShapeDtypeStruct`s).

    Raises:
      ValueError: for an array that is missing, or has another shape.

    Example:
      >>> params, state = {"dense": {"kernel": np.eye(2)}}, {}
      >>> from_keras_names(to_keras_names(params, state), params, state)[0]["dense"]["kernel"].tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    names_of = _names(params, state)

    def take(names: dict[str, str], path: tuple, leaf: Any) -> np.ndarray:
        name = names[path_name(path)]
        got = np.shape(arrays[name]) if name in arrays else "nothing"
        if got != tuple(leaf.shape):
            raise ValueError(f"{name}: expected an array of shape {tuple(leaf.shape)}, got {got}")
        return np.asarray(arrays[name])

    of_params, of_state = (
        jax.tree_util.tree_map_with_path(partial(take, names), tree)
        for names, tree in zip(names_of, (params, state), strict=True)
    )
    return of_params, of_state


def _leaves(tree: PyTree) -> list[tuple[str, Any]]:
    return [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _names(params: Params, state: PyTree) -> tuple[dict[str, str], dict[str, str]]:
    """The name in Keras of each leaf of params, and of state, by its path."""
    paths = [path for path, _ in _leaves(params)], [path for path, _ in _leaves(state)]
    layers = {_split(path)[0] for path in paths[0]}

    def split(path: str) -> tuple[str, str]:
        layer, leaf = _split(path)
        inner = layer.removeprefix("batch_stats/")  # Linen's collection is no part of the layer's name
        return (inner if inner in layers else layer), leaf

    norms = {layer for some in paths for layer, leaf in map(split, some) if leaf in ("scale", "mean")}

    def name(path: str) -> str:
        layer, leaf = split(path)
        return f"{layer.replace('/', '_')}/{_OF_NORMS.get(leaf, leaf) if layer in norms else leaf}".removeprefix("/")

    of_params, of_state = ({path: name(path) for path in some} for some in paths)
    return of_params, of_state


def _split(path: str) -> tuple[str, str]:
    """The layer and the leaf; NNX puts a "value" behind it."""
    layer, _, leaf = path.removesuffix("/value").rpartition("/")
    return layer, leaf
