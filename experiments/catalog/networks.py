"""Every network that `--model` names, a row each. What a network takes is read off its signature."""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from experiments.terminal.errors import UsageError
from rare_gems.models.conv_net import conv2, conv4, conv6
from rare_gems.models.inception_v3 import inception_v3
from rare_gems.models.lenet import lenet_5, lenet_300_100
from rare_gems.models.mobilenet_v2 import mobilenet_v2
from rare_gems.models.model import Model
from rare_gems.models.resnet import resnet20, resnet32
from rare_gems.models.resnet_imagenet import resnet18, resnet50
from rare_gems.models.squeezenet import squeezenet
from rare_gems.models.vgg import vgg16, vgg19
from rare_gems.models.wide_resnet import wide_resnet28_2

__all__ = ["NETWORKS", "Network", "NetworkOptions", "check_options", "defaults_of", "input_shape", "make_network"]


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """Variants of the network; which of them it takes is said where one is not taken."""

    width: float = 1.0
    """multiplies the channels"""
    affine: bool = False
    """BatchNorm learns a scale and a bias, which are never pruned"""
    bias: bool = False
    """layers have the biases that they had in the original network, which are never pruned"""
    shortcut: Literal["A", "B"] | None = None
    """of ResNet-20 and -32, where the size changes: zero channels (A), or a 1x1 convolution (B)"""
    stem: Literal["cifar", "imagenet"] | None = None
    """of ResNet-18 and -50: a 3x3 convolution (default up to 32 pixels), or 7x7 with stride 2 and a max-pool"""


class Network(NamedTuple):
    """A row of the catalogue: the factory in `rare_gems.models`, called with those of num_classes, in_channels,
    image_size, input_size, use_bias, compute_dtype, width, affine, shortcut and stem that it has; a line for those who
    choose; and whether a step of it gains nothing from a second core. Grey images have one channel where the factory
    expects grey ones, else three equal ones."""

    make: Callable[..., Model]
    what: str
    one_core: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """The options of `--network` that it takes."""
        names = inspect.signature(self.make).parameters
        return ("bias", *(field.name for field in dataclasses.fields(NetworkOptions) if field.name in names))

    @property
    def takes_grey(self) -> bool:
        """Whether it takes images of one channel as they are."""
        names = inspect.signature(self.make).parameters
        return "input_size" in names or names["in_channels"].default == 1


NETWORKS: dict[str, Network] = {
    "resnet20": Network(resnet20, "CIFAR ResNet of 20 layers"),
    "resnet32": Network(resnet32, "CIFAR ResNet of 32 layers; --network.width=2 in two of the papers"),
    "resnet18": Network(resnet18, "ImageNet ResNet of 18 layers, with a small stem for small images"),
    "resnet50": Network(resnet50, "ImageNet ResNet of 50 layers"),
    "vgg16": Network(vgg16, "VGG-16 with BatchNorm and one dense layer"),
    "vgg19": Network(vgg19, "VGG-19 with BatchNorm and one dense layer"),
    "mobilenet_v2": Network(mobilenet_v2, "MobileNetV2 for CIFAR"),
    "wide_resnet28_2": Network(wide_resnet28_2, "wide ResNet of 28 layers, width 2"),
    "lenet_300_100": Network(lenet_300_100, "three dense layers", one_core=True),
    "lenet_5": Network(lenet_5, "two convolutions, two dense layers"),
    "conv2": Network(conv2, "two convolutions, three dense layers"),
    "conv4": Network(conv4, "four convolutions, three dense layers"),
    "conv6": Network(conv6, "six convolutions, three dense layers"),
    "squeezenet": Network(squeezenet, "SqueezeNet 1.1"),
    "inception_v3": Network(inception_v3, "Inception v3 without its auxiliary classifier"),
}


def defaults_of(name: str) -> NetworkOptions:
    """The values of `--network` that a network has by default."""
    network = NETWORKS.get(name)
    return NetworkOptions(bias=network is not None and inspect.signature(network.make).parameters["use_bias"].default)


def check_options(name: str, options: NetworkOptions) -> None:
    """Raises UsageError for an option that the network does not take."""
    asked, usual, network = vars(options), vars(defaults_of(name)), NETWORKS.get(name)
    takes = network.options if network else ()
    for option in asked:
        if asked[option] != usual[option] and option not in takes:
            told = ", ".join(f"--network.{taken}" for taken in takes) or "none of them"
            raise UsageError(f"--network.{option}: {name} has no such option; it takes {told}")


def input_shape(name: str, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which the network gets images of `image_shape`: grey ones in three equal channels, for most."""
    network = NETWORKS.get(name)
    colour = network is not None and not network.takes_grey and image_shape[-1] == 1
    return (*image_shape[:2], 3) if colour else image_shape


def make_network(
    name: str, image_shape: tuple[int, ...], num_classes: int, options: NetworkOptions, compute_dtype: Any
) -> Model:
    """The network of that name in the catalogue, for images of that shape.

    Raises:
      ValueError: for what the network refuses.
    """
    network = NETWORKS[name]
    names = inspect.signature(network.make).parameters
    if "image_size" in names and image_shape[0] != image_shape[1]:
        raise ValueError(f"expected square images for this network, got {image_shape[0]}x{image_shape[1]}")
    stem = "cifar" if min(image_shape[:2]) <= 32 else "imagenet"
    given = {
        "in_channels": image_shape[-1], "image_size": image_shape[0], "input_size": math.prod(image_shape),
        "use_bias": options.bias, "compute_dtype": compute_dtype, "width": options.width, "affine": options.affine,
        "stem": options.stem or stem,
    } | ({} if options.shortcut is None else {"shortcut": options.shortcut})  # fmt: skip
    return network.make(num_classes, **{argument: value for argument, value in given.items() if argument in names})
