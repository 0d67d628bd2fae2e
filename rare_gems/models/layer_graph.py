"""Networks as lists of layers: what reads what, so that single channels can be followed."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rare_gems.init import kaiming_normal
from rare_gems.masks import ones
from rare_gems.models.fast_conv import conv2d
from rare_gems.models.fast_norm import batch_normalize, exact, normalize
from rare_gems.models.layers import max_pool
from rare_gems.models.model import Model

__all__ = ["EPS", "Graph", "Layer", "Norm", "Skip", "leaf_of", "model_of"]

EPS = 1e-5  # of BatchNorm
Tree = Any


class Layer(NamedTuple):
    """A convolution or dense layer. path, norm: of its kernel's and its BatchNorm's modules ("" for none). source, to:
    numbers of the values that it reads and makes; 0 are the images. view: how it reads: "map", "flat" or "mean" of one.
    add: the number of a value that is added before the ReLU. pool: size, stride and padding of a max-pool behind it.
    depthwise: each channel is read alone, so that source and to are of one space."""

    path: str
    source: int
    to: int
    norm: str = ""
    view: str = "map"
    stride: int = 1
    padding: int = 1
    relu: bool = True
    add: int | None = None
    pool: tuple[int, int, int] | None = None
    depthwise: bool = False


class Norm(NamedTuple):
    """A BatchNorm and ReLU in front of a convolution; source and to are of one space."""

    source: int
    to: int
    norm: str
    relu: bool = True


class Skip(NamedTuple):
    """A shortcut without weights: each stride-th pixel of channel `channels[j]` in channel j, zero where that is -1."""

    source: int
    to: int
    stride: int
    channels: tuple[int, ...]


class Graph(NamedTuple):
    """layers: in the order of computation. spaces: for each value the number of the space of its channels: values of
    one space are added to each other, or made of each other channel by channel, so that they have the same channels."""

    layers: tuple[Layer | Norm | Skip, ...]
    spaces: tuple[int, ...]


def leaf_of(tree: Tree, path: str) -> Tree:
    """What lies at a path such as "layer1/0/conv1" in nested dicts."""
    for part in path.split("/"):
        tree = tree[int(part)] if part.isdecimal() else tree[part]
    return tree


def model_of(graph: Graph, params: Tree, state: Tree) -> Model:
    """The network of those layers, with the widths that the params have. It computes in float32.

    Args:
      graph: as from `network_graphs.graph_of`. params, state: arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      A `Model`; `init` draws all weights anew.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), (params, state))

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        fresh = jax.tree_util.tree_map_with_path(
            lambda path, leaf: (jnp.ones if path[-1].key in ("scale", "var") else jnp.zeros)(leaf.shape), shapes
        )
        return kaiming_normal(key, fresh[0], ones(fresh[0])), fresh[1]

    def apply(params: Tree, state: Tree, x: jax.Array, train: bool) -> tuple[jax.Array, Tree]:
        state = jax.tree.map(lambda leaf: leaf, state)  # a copy of the dicts
        values = {0: x.astype(jnp.float32)}
        for layer in graph.layers:
            x = values[layer.source]
            if isinstance(layer, Skip):
                y = _skipped(x, layer)
            elif isinstance(layer, Norm):
                y = _normalized(layer, x, None, params, state, train)
            else:
                y = _computed(layer, x, None if layer.add is None else values[layer.add], params, state, train)
            values[layer.to] = y
        return exact(values[graph.layers[-1].to]), state

    return Model(init, apply)


def _skipped(x: jax.Array, skip: Skip) -> jax.Array:
    x = jnp.pad(x[:, :: skip.stride, :: skip.stride], ((0, 0), (0, 0), (0, 0), (0, 1)))  # -1 is the zeros
    return x[..., jnp.asarray(skip.channels)]


def _computed(layer: Layer, x: jax.Array, add: jax.Array | None, params: Tree, state: Tree, train: bool) -> jax.Array:
    of = leaf_of(params, layer.path)
    if layer.view == "map":
        y = conv2d(x, of["kernel"], layer.stride, layer.padding)
    else:
        x = x.mean((1, 2)) if layer.view == "mean" else x.reshape(len(x), -1)
        y = x @ of["kernel"]
    y = y + of["bias"].reshape((1,) * (y.ndim - 1) + (-1,)) if "bias" in of else y
    if layer.norm:
        y = _normalized(layer, y, add, params, state, train)
    else:
        y = y if add is None else y + add
        y = jax.nn.relu(y) if layer.relu else y
    return max_pool(y, *layer.pool) if layer.pool else y


def _normalized(
    layer: Layer | Norm, y: jax.Array, add: jax.Array | None, params: Tree, state: Tree, train: bool
) -> jax.Array:
    parent, _, name = layer.norm.rpartition("/")
    learned = (leaf_of(params, parent) if parent else params).get(name, {})
    statistics = leaf_of(state, layer.norm)
    scale, bias = learned.get("scale"), learned.get("bias")
    if not train:
        return normalize(y, add, statistics["mean"], statistics["var"], scale, bias, EPS, layer.relu)
    y, mean, var = batch_normalize(y, add, scale, bias, EPS, layer.relu)
    count = math.prod(y.shape[:-1])
    moved = {"mean": mean, "var": var * (count / max(count - 1, 1))}
    statistics.update({name: 0.9 * statistics[name] + 0.1 * moved[name] for name in moved})
    return y
