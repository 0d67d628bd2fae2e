"""Smaller networks for sparse tickets: channels that cannot matter are taken out, the outputs stay."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from rare_gems import masks
from rare_gems.models.layer_graph import EPS, Graph, Layer, Norm, Skip, leaf_of, model_of
from rare_gems.models.model import Model
from rare_gems.models.network_graphs import graph_of
from rare_gems.phase import ModelState, Params, Ticket

__all__ = ["Compact", "compact"]

Live = np.ndarray  # float64 for each channel: the constant that it always is, NaN if it depends on the images


class Compact(NamedTuple):
    """A smaller network. model, params, state: as of any network here. graph: its layers. channels: name of the layer
    -> (channels that it had, channels that it has)."""

    model: Model
    params: Params
    state: ModelState
    graph: Graph
    channels: dict[str, tuple[int, int]]


def compact(ticket: Ticket, state: ModelState, network: str) -> Compact:
    """Takes out the channels that cannot change the outputs in evaluation mode.

    A channel goes if no weight that is not zero leads to it from the images, or from it to the logits. What leads
    nowhere is followed backwards and forwards until nothing changes. A channel without inputs may still be a constant
    other than zero, by its bias or BatchNorm: such channels of a layer become one, which is 1 everywhere (also beside
    the zeros at the edge that a convolution pads with), and whose weights are theirs times their constants. The
    channels of a residual stream go where all layers that write or read them agree.

    Args:
      ticket: params and mask of the network. state: its BatchNorm statistics, {} without.
      network: its name, as of `--model`: ResNets, also wide ones, MobileNetV2, VGGs, Conv-2 to 6 and LeNets. Their
        names of leaves stay.

    Returns:
      The smaller network; its outputs in evaluation mode are those of the masked one, within rounding. A layer keeps at
      least one channel. In training mode it normalizes as any network, so that constants are lost.

    Raises:
      ValueError: for another network.

    Example:
      >>> from rare_gems.models.lenet import lenet_300_100
      >>> params, state = lenet_300_100(2, input_size=4).init(jax.random.key(0))
      >>> mask = masks.ones(params)
      >>> mask["linear1"]["kernel"] = mask["linear1"]["kernel"].at[:, 10:].set(False)
      >>> small = compact(Ticket(params, None, mask), state, "lenet_300_100")
      >>> small.channels["linear1"], small.params["linear2"]["kernel"].shape
      ((300, 10), (10, 100))
    """
    graph = graph_of(network, ticket.params)
    params = jax.tree.map(np.asarray, masks.apply(ticket.params, ticket.mask))
    state = jax.tree.map(np.asarray, state)
    links = {to: _links(layer, params, graph, to) for to, layer in _by_value(graph).items()}
    constants = _constants(graph, params, state, links)
    needed = _needed(graph, links, constants)
    plans = _plans(graph, needed, constants)
    small_params, small_state = _taken(graph, params, state, plans, constants)
    layers = tuple(_skip(layer, graph, plans) if isinstance(layer, Skip) else layer for layer in graph.layers)
    small = Graph(layers, graph.spaces)
    sizes = {
        layer.path: (len(constants[layer.to]), leaf_of(small_params, layer.path)["kernel"].shape[-1])
        for layer in layers
        if isinstance(layer, Layer)
    }
    return Compact(model_of(small, small_params, small_state), small_params, small_state, small, sizes)


class _Plan(NamedTuple):
    """kept: the channels of a space that stay. merged: those that become one, with their constants."""

    kept: np.ndarray
    merged: np.ndarray


def _by_value(graph: Graph) -> dict[int, Layer | Norm | Skip]:
    return {layer.to: layer for layer in graph.layers}


def _split(layer: Layer, kernel: np.ndarray, inputs: int) -> np.ndarray:
    """A kernel as [positions, input channels, output channels]."""
    return kernel.reshape(-1, inputs, kernel.shape[-1])


def _links(layer: Layer | Norm | Skip, params: Params, graph: Graph, to: int) -> np.ndarray:
    """[inputs, outputs]: which channels have a weight between them that is not zero."""
    if isinstance(layer, Skip):
        inputs = max(max(layer.channels) + 1, _width(graph, params, layer.source))
        return np.arange(inputs)[:, None] == np.asarray(layer.channels)[None]
    if isinstance(layer, Norm):
        return np.eye(_width(graph, params, layer.source), dtype=bool)
    kernel = leaf_of(params, layer.path)["kernel"]
    if layer.depthwise:
        return np.diag((kernel != 0).any((0, 1, 2)))
    inputs = kernel.shape[2] if kernel.ndim == 4 else _width(graph, params, layer.source) or kernel.shape[0]
    return (_split(layer, kernel, inputs) != 0).any(0)


def _width(graph: Graph, params: Params, value: int) -> int:
    """The channels of a value; 0 for images, whose pixels count each."""
    if value == 0:
        return 0
    layer = _by_value(graph)[value]
    if isinstance(layer, Norm):
        return _width(graph, params, layer.source)
    return len(layer.channels) if isinstance(layer, Skip) else leaf_of(params, layer.path)["kernel"].shape[-1]


def _constants(graph: Graph, params: Params, state: ModelState, links: Mapping[int, np.ndarray]) -> dict[int, Live]:
    """For each value and channel its constant, or NaN."""
    first = graph.layers[0]
    constants = {0: np.full(len(links[first.to]), np.nan)}
    for layer in graph.layers:
        source, linked = constants[layer.source], links[layer.to]
        if isinstance(layer, Skip):
            padded = np.append(source, 0.0)
            constants[layer.to] = padded[np.asarray(layer.channels)]
            continue
        if isinstance(layer, Norm):
            y = _normed(layer, source, params, state)
            constants[layer.to] = np.maximum(y, 0) if layer.relu else y
            continue
        reached = (linked & (np.nan_to_num(source, nan=1.0) != 0)[:, None]).any(0)
        y = _after(layer, np.zeros(linked.shape[1]), params, state)
        y = y if layer.add is None else y + constants[layer.add]
        y = np.maximum(y, 0) if layer.relu else y
        constants[layer.to] = np.where(reached, np.nan, y)
    return constants


def _after(layer: Layer, y: np.ndarray, params: Params, state: ModelState) -> np.ndarray:
    """What bias and BatchNorm make of one number for each channel."""
    y = y + leaf_of(params, layer.path).get("bias", 0.0)
    return _normed(layer, y, params, state) if layer.norm else y


def _normed(layer: Layer | Norm, y: np.ndarray, params: Params, state: ModelState) -> np.ndarray:
    learned, statistics = _norm(layer, params), leaf_of(state, layer.norm)
    factor = learned.get("scale", 1.0) / np.sqrt(statistics["var"].astype(np.float64) + EPS)
    return (y - statistics["mean"]) * factor + learned.get("bias", 0.0)


def _norm(layer: Layer | Norm, tree: Params) -> dict[str, Any]:
    """A BatchNorm's scale and bias, if it has them."""
    parent, _, name = layer.norm.rpartition("/")
    return (leaf_of(tree, parent) if parent else tree).get(name, {})


def _needed(graph: Graph, links: Mapping[int, np.ndarray], constants: Mapping[int, Live]) -> dict[int, np.ndarray]:
    """For each space which channels the logits depend on."""
    needed = {graph.spaces[to]: np.zeros(len(live), bool) for to, live in constants.items()}
    needed[0][:] = True
    needed[graph.spaces[graph.layers[-1].to]][:] = True
    before = -1
    while before != (before := sum(int(some.sum()) for some in needed.values())):
        for layer in reversed(graph.layers):
            live, source = constants[layer.to], constants[layer.source]
            wanted = needed[graph.spaces[layer.to]] & np.isnan(live)
            into = needed[graph.spaces[layer.source]]
            into |= (links[layer.to] & wanted[None]).any(1) & (np.nan_to_num(source, nan=1.0) != 0)
    return needed


def _plans(graph: Graph, needed: Mapping[int, np.ndarray], constants: Mapping[int, Live]) -> dict[int, _Plan]:
    plans = {}
    for space, wanted in needed.items():
        values = [constants[to] for to, of in enumerate(graph.spaces) if of == space]
        zero = np.all([value == 0 for value in values], 0)
        fixed = ~np.isnan(values[0]) if len(values) == 1 else np.zeros_like(wanted)
        whole = space in (0, graph.spaces[graph.layers[-1].to])
        merged = wanted & fixed & ~zero if not whole else np.zeros_like(wanted)
        kept = wanted if whole else wanted & ~zero & ~merged
        if not kept.any() and not merged.any():
            kept = np.arange(len(wanted)) == 0
        plans[space] = _Plan(np.flatnonzero(kept), np.flatnonzero(merged))
    return plans


def _taken(
    graph: Graph, params: Params, state: ModelState, plans: Mapping[int, _Plan], constants: Mapping[int, Live]
) -> tuple[Params, ModelState]:
    """The leaves of the smaller network, in trees like those."""
    params, state = (jax.tree.map(lambda leaf: leaf, tree) for tree in (params, state))
    for layer in graph.layers:
        if isinstance(layer, Skip):
            continue
        read, made = plans[graph.spaces[layer.source]], plans[graph.spaces[layer.to]]
        leaves = []
        if isinstance(layer, Layer):
            of = leaf_of(params, layer.path)
            of["kernel"] = _kernel(layer, of["kernel"], read, made, constants[layer.source])
            leaves = [(of, "bias", 0.0 if layer.norm else 1.0)]
        if layer.norm:
            learned, statistics = _norm(layer, params), leaf_of(state, layer.norm)
            leaves += [(learned, "scale", 1.0), (learned, "bias", 0.0)]
            leaves += [(statistics, "mean", -1.0), (statistics, "var", 1 - EPS)]
        for leaf, name, value in leaves:  # what makes a 1 of zeros, in a channel of constants
            if name in leaf:
                ones = np.full(min(len(made.merged), 1), value, leaf[name].dtype)
                leaf[name] = np.concatenate([leaf[name][made.kept], ones])
    return jax.device_put((params, state))  # jnp.asarray would compile a program for each shape


def _kernel(layer: Layer, kernel: np.ndarray, read: _Plan, made: _Plan, source: Live) -> np.ndarray:
    if layer.depthwise:  # of a space of several values, which has no channel of constants
        return kernel[..., made.kept]
    split = _split(layer, kernel, len(source))
    parts = [split[:, read.kept]]
    if len(read.merged):
        constants = source[read.merged]
        parts.append(np.einsum("kio,i->ko", split[:, read.merged].astype(np.float64), constants)[:, None])
    small = np.concatenate(parts, 1)[..., made.kept]
    small = np.pad(small, ((0, 0), (0, 0), (0, min(len(made.merged), 1)))).astype(kernel.dtype)
    shape = (*kernel.shape[:2], *small.shape[1:]) if kernel.ndim == 4 else (math.prod(small.shape[:2]), small.shape[2])
    return small.reshape(shape)


def _skip(layer: Skip, graph: Graph, plans: Mapping[int, _Plan]) -> Skip:
    """The shortcut between the channels that are left; a stream has no channel of constants."""
    read, made = (plans[graph.spaces[value]].kept for value in (layer.source, layer.to))
    place = {int(channel): i for i, channel in enumerate(read)}
    return layer._replace(channels=tuple(place.get(layer.channels[j], -1) for j in made.tolist()))
