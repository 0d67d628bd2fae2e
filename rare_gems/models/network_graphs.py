"""Our chain and residual networks as lists of layers, by their names."""

import re
from collections.abc import Callable
from typing import Any

from rare_gems.models.layer_graph import Graph, Layer, Norm, Skip
from rare_gems.models.mobilenet_v2 import STAGES

__all__ = ["graph_of"]

Tree = Any


def graph_of(network: str, params: Tree) -> Graph:
    """The layers of a network of ours.

    Args:
      network: its name, as of `--model`. params: as from `Model.init`, of any width.

    Raises:
      ValueError: for a network that joins branches (SqueezeNet, Inception-v3), or is not ours.

    Example:
      >>> import jax
      >>> from rare_gems.models.lenet import lenet_300_100
      >>> params, _ = jax.eval_shape(lenet_300_100().init, jax.random.key(0))
      >>> [layer.path for layer in graph_of("lenet_300_100", params).layers]
      ['linear1', 'linear2', 'linear3']
    """
    if network not in _GRAPHS:
        why = ", whose branches are joined channel by channel, which is not followed" if network in _JOINED else ""
        raise ValueError(f"expected a chain or a residual network, one of {', '.join(_GRAPHS)}, got {network}{why}")
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


def _wide_resnet(params: Tree) -> Graph:
    """Residual networks with BatchNorm and ReLU in front of convolutions."""
    layers: list[Layer | Norm | Skip] = [Layer("conv1", 0, 1, relu=False)]
    spaces, stream = [0, 1], 1
    for at, block, first in _blocks(params):
        stride = 2 if first and not at.startswith("layer1/") else 1
        active, inner = len(spaces), len(spaces) + 1
        spaces += [spaces[stream], max(spaces) + 1]
        layers.append(Norm(stream, active, f"{at}/bn1"))
        layers.append(Layer(f"{at}/conv1", active, inner, norm=f"{at}/bn2", stride=stride))
        shortcut = stream
        if "shortcut" in block:
            shortcut = len(spaces)
            spaces.append(max(spaces) + 1)
            layers.append(Layer(f"{at}/shortcut", active, shortcut, stride=stride, padding=0, relu=False))
        stream = len(spaces)
        spaces.append(spaces[shortcut])
        layers.append(Layer(f"{at}/conv2", inner, stream, relu=False, add=shortcut))
    active = len(spaces)
    layers += [Norm(stream, active, "bn1"), Layer("linear", active, active + 1, view="mean", relu=False)]
    return Graph(tuple(layers), (*spaces, spaces[stream], max(spaces) + 1))


def _mobilenet_v2(params: Tree) -> Graph:
    """Inverted residuals: a 1x1 convolution widens, a depthwise one has the stride, another 1x1 narrows."""
    layers: list[Layer | Norm | Skip] = [Layer("conv1", 0, 1, norm="bn1")]
    spaces, stream = [0, 1], 1
    strides = [stride if i == 0 else 1 for _, _, count, stride in STAGES for i in range(count)]
    for (at, block, _), stride in zip(_blocks({"layer1": params["layer1"]}), strides, strict=True):
        wide, narrow = len(spaces), len(spaces) + 1
        spaces += [max(spaces) + 1] * 2
        layers.append(Layer(f"{at}/conv1", stream, wide, norm=f"{at}/bn1", padding=0))
        layers.append(Layer(f"{at}/conv2", wide, narrow, norm=f"{at}/bn2", stride=stride, depthwise=True))
        shortcut = stream if stride == 1 else None
        if "downsample" in block:
            shortcut = len(spaces)
            spaces.append(max(spaces) + 1)
            of, bn = f"{at}/downsample/conv", f"{at}/downsample/bn"
            layers.append(Layer(of, stream, shortcut, norm=bn, padding=0, relu=False))
        stream = len(spaces)
        spaces.append(max(spaces) + 1 if shortcut is None else spaces[shortcut])
        layers.append(Layer(f"{at}/conv3", narrow, stream, norm=f"{at}/bn3", padding=0, relu=False, add=shortcut))
    last = len(spaces)
    layers.append(Layer("layer2/conv", stream, last, norm="layer2/bn", padding=0))
    layers.append(Layer("linear", last, last + 1, view="mean", relu=False))
    return Graph(tuple(layers), (*spaces, max(spaces) + 1, max(spaces) + 2))


def _blocks(params: Tree) -> list[tuple[str, Tree, bool]]:
    """The path of each block of the stages, the block, and whether it is the first of its stage."""
    stages = sorted(name for name in params if re.fullmatch(r"layer\d", name))
    return [(f"{stage}/{i}", block, i == 0) for stage in stages for i, block in sorted(params[stage].items())]


_GRAPHS: dict[str, Callable[[Tree], Graph]] = {
    "resnet20": _resnet, "resnet32": _resnet, "resnet18": _resnet, "resnet50": _resnet,
    "vgg16": _vgg((2, 4, 7, 10, 13)), "vgg19": _vgg((2, 4, 8, 12)), "lenet_300_100": _lenet_300_100,
    "lenet_5": _lenet_5, "conv2": _conv_net, "conv4": _conv_net, "conv6": _conv_net,
    "wide_resnet28_2": _wide_resnet, "mobilenet_v2": _mobilenet_v2,
}  # fmt: skip
_JOINED = ("squeezenet", "inception_v3")
