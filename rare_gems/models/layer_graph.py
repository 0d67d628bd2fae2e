"""Our chain and residual networks as lists of layers: what reads what, so that single channels can be followed."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rare_gems.init import kaiming_normal
from rare_gems.masks import ones
from rare_gems.models.fast_conv import conv2d
from rare_gems.models.fast_norm import batch_normalize, exact, normalize
from rare_gems.models.layers import max_pool
from rare_gems.models.model import Model

__all__ = ["EPS", "Graph", "Layer", "Skip", "graph_of", "leaf_of", "model_of"]

EPS = 1e-5  # of BatchNorm
Tree = Any


class Layer(NamedTuple):
    """A convolution or dense layer. path, norm: of its kernel's and its BatchNorm's modules ("" for none). source, to:
    numbers of the values that it reads and makes; 0 are the images. view: how it reads: "map", "flat" or "mean" of one.
    add: the number of a value that is added before the ReLU. pool: size, stride and padding of a max-pool behind it."""

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


class Skip(NamedTuple):
    """A shortcut without weights: each stride-th pixel of channel `channels[j]` in channel j, zero where that is -1."""

    source: int
    to: int
    stride: int
    channels: tuple[int, ...]


class Graph(NamedTuple):
    """layers: in the order of computation. spaces: for each value the number of the space of its channels: values of
    one space are added to each other, so that they have the same channels."""

    layers: tuple[Layer | Skip, ...]
    spaces: tuple[int, ...]


def leaf_of(tree: Tree, path: str) -> Tree:
    """What lies at a path such as "layer1/0/conv1" in nested dicts."""
    for part in path.split("/"):
        tree = tree[int(part)] if part.isdecimal() else tree[part]
    return tree


def graph_of(network: str, params: Tree) -> Graph:
    """The layers of a network of ours.

    Args:
      network: its name, as of `--model`. params: as from `Model.init`, of any width.

    Raises:
      ValueError: for a network that is neither a chain nor a residual network with normalization behind convolutions.

    Example:
      >>> from rare_gems.models.lenet import lenet_300_100
      >>> params, _ = jax.eval_shape(lenet_300_100().init, jax.random.key(0))
      >>> [layer.path for layer in graph_of("lenet_300_100", params).layers]
      ['linear1', 'linear2', 'linear3']
    """
    if network not in _GRAPHS:
        raise ValueError(f"expected a chain or a residual network, one of {', '.join(_GRAPHS)}, got {network}")
    try:
        return _GRAPHS[network](params)
    except (KeyError, TypeError) as error:
        raise ValueError(f"expected the params of {network}, got others ({error!r})") from None


def _chain(layers: list[Layer]) -> Graph:
    layers[-1] = layers[-1]._replace(relu=False)
    return Graph(tuple(layers), tuple(range(len(layers) + 1)))


def _vgg(pools: tuple[int, ...]) -> Callable[[Tree], Graph]:
    """pools: how many convolutions are before each max-pool."""

    def make(params: Tree) -> Graph:
        layers = [
            Layer(f"layers/{i}/conv", i, i + 1, norm=f"layers/{i}/bn", pool=(2, 2, 0) if i + 1 in pools else None)
            for i in range(len(params["layers"]))
        ]
        return _chain([*layers, Layer("linear", len(layers), len(layers) + 1, view="mean")])

    return make


def _conv_net(params: Tree) -> Graph:
    num, dense = len(params["convs"]), len(params["linear"])
    layers = [Layer(f"convs/{i}", i, i + 1, pool=(2, 2, 0) if i % 2 else None) for i in range(num)]
    return _chain([*layers, *(Layer(f"linear/{i}", num + i, num + i + 1, view="flat") for i in range(dense))])


def _lenet_5(params: Tree) -> Graph:
    del params
    convs = [Layer(f"conv{i + 1}", i, i + 1, padding=0, relu=False, pool=(2, 2, 0)) for i in range(2)]
    return _chain([*convs, *(Layer(f"linear{i}", i + 1, i + 2, view="flat") for i in (1, 2))])


def _lenet_300_100(params: Tree) -> Graph:
    return _chain([Layer(f"linear{i + 1}", i, i + 1, view="flat") for i in range(len(params))])


def _resnet(params: Tree) -> Graph:
    """Residual networks with shortcuts of option A or B, and basic or bottleneck blocks."""
    size = params["conv1"]["kernel"].shape[0]
    layers: list[Layer | Skip] = [
        Layer("conv1", 0, 1, norm="bn1", stride=2 if size == 7 else 1, padding=size // 2,
              pool=(3, 2, 1) if size == 7 else None)
    ]  # fmt: skip
    spaces, stream = [0, 1], 1
    for stage in range(1, sum(name.startswith("layer") for name in params) + 1):
        for i, block in sorted(params[f"layer{stage}"].items()):  # a file has them in another order
            at, stride = f"layer{stage}/{i}", 2 if stage > 1 and i == 0 else 1
            convs = [name for name in ("conv1", "conv2", "conv3") if name in block]
            inputs, outputs = block["conv1"]["kernel"].shape[2], block[convs[-1]]["kernel"].shape[3]
            source, shortcut = stream, stream
            if stride > 1 or inputs != outputs:
                shortcut = len(spaces)
                spaces.append(max(spaces) + 1)  # a new space, that of the stage
                if "downsample" in block:
                    of, bn = f"{at}/downsample/conv", f"{at}/downsample/bn"
                    layers.append(Layer(of, source, shortcut, norm=bn, stride=stride, padding=0, relu=False))
                else:
                    layers.append(Skip(source, shortcut, stride, _option_a(inputs, outputs)))
            for name in convs:
                last, to = name == convs[-1], len(spaces)
                spaces.append(spaces[shortcut] if last else max(spaces) + 1)
                kernel = block[name]["kernel"].shape[0]
                step = stride if name == ("conv2" if len(convs) == 3 else "conv1") else 1
                layers.append(
                    Layer(f"{at}/{name}", source, to, norm=f"{at}/bn{name[-1]}", stride=step, padding=kernel // 2,
                          add=shortcut if last else None)
                )  # fmt: skip
                source = to
            stream = source
    layers.append(Layer("linear", stream, len(spaces), view="mean", relu=False))
    return Graph(tuple(layers), (*spaces, max(spaces) + 1))


def _option_a(inputs: int, outputs: int) -> tuple[int, ...]:
    before = (outputs - inputs) // 2
    return tuple(j - before if 0 <= j - before < inputs else -1 for j in range(outputs))


_GRAPHS: dict[str, Callable[[Tree], Graph]] = {
    "resnet20": _resnet, "resnet32": _resnet, "resnet18": _resnet, "resnet50": _resnet,
    "vgg16": _vgg((2, 4, 7, 10, 13)), "vgg19": _vgg((2, 4, 8, 12)), "lenet_300_100": _lenet_300_100,
    "lenet_5": _lenet_5, "conv2": _conv_net, "conv4": _conv_net, "conv6": _conv_net,
}  # fmt: skip


def model_of(graph: Graph, params: Tree, state: Tree) -> Model:
    """The network of those layers, with the widths that the params have. It computes in float32.

    Args:
      graph: as from `graph_of`. params, state: arrays or `jax.ShapeDtypeStruct`s.

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
            values[layer.to] = _skipped(x, layer) if isinstance(layer, Skip) else _computed(
                layer, x, None if layer.add is None else values[layer.add], params, state, train
            )  # fmt: skip
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
    elif layer.relu:
        y = jax.nn.relu(y)
    return max_pool(y, *layer.pool) if layer.pool else y


def _normalized(layer: Layer, y: jax.Array, add: jax.Array | None, params: Tree, state: Tree, train: bool) -> jax.Array:
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
