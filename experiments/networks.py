"""Every network that `--model` names, and networks of the user's own: `--model=module:function`."""

import functools
import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import options
from experiments.config import Config, UsageError
from rare_gems.models.conv_net import conv2, conv4, conv6
from rare_gems.models.fast_conv import plain_operations
from rare_gems.models.inception_v3 import inception_v3
from rare_gems.models.lenet import lenet_5, lenet_300_100
from rare_gems.models.mobilenet_v2 import mobilenet_v2
from rare_gems.models.model import Model
from rare_gems.models.resnet import resnet20, resnet32
from rare_gems.models.resnet_imagenet import resnet18, resnet50
from rare_gems.models.squeezenet import squeezenet
from rare_gems.models.vgg import vgg16, vgg19
from rare_gems.models.wide_resnet import wide_resnet28_2

__all__ = ["NETWORKS", "Network", "defaults_of", "forward_flop", "input_shape", "network_for"]


class Network(NamedTuple):
    """`make(image_shape, num_classes, **options)`; `options` are those of `--network` that it takes, a bias besides,
    which is there by default if `biased`; `grey` networks take images as they are, the others three channels, so that
    they are the same for all data sets."""

    make: Callable[..., Model]
    options: tuple[str, ...] = ()
    biased: bool = False
    grey: bool = False


def _channels(factory: Callable[..., Model], *taken: str, biased: bool = False) -> Network:
    return Network(lambda shape, n, **given: factory(n, in_channels=shape[-1], **given), taken, biased)


def _sized(factory: Callable[..., Model], *taken: str, biased: bool = False, grey: bool = False) -> Network:
    """A network whose dense layers depend on the size of the images."""

    def make(shape: tuple[int, ...], num_classes: int, **given: Any) -> Model:
        if shape[0] != shape[1]:
            raise UsageError(f"--model: expected square images for this network, got {shape[0]}x{shape[1]}")
        return factory(num_classes, in_channels=shape[-1], image_size=shape[0], **given)

    return Network(make, taken, biased, grey)


def _with_stem(factory: Callable[..., Model]) -> Network:
    def make(shape: tuple[int, ...], num_classes: int, *, stem: str | None = None, **given: Any) -> Model:
        stem = stem or ("cifar" if min(shape[:2]) <= 32 else "imagenet")
        return factory(num_classes, in_channels=shape[-1], stem=stem, **given)

    return Network(make, ("width", "affine", "stem"))


NETWORKS: dict[str, Network] = {
    "resnet20": _channels(resnet20, "width", "shortcut", "affine"),
    "resnet32": _channels(resnet32, "width", "shortcut", "affine"),
    "resnet18": _with_stem(resnet18),
    "resnet50": _with_stem(resnet50),
    "vgg16": _channels(vgg16, "width", "affine"),
    "vgg19": _channels(vgg19, "width", "affine"),
    "mobilenet_v2": _channels(mobilenet_v2, "width", "affine"),
    "wide_resnet28_2": _channels(wide_resnet28_2, "width", "affine"),
    "lenet_300_100": Network(
        lambda shape, n, **given: lenet_300_100(n, math.prod(shape), **given), biased=True, grey=True
    ),
    "lenet_5": _sized(lenet_5, biased=True, grey=True),
    "conv2": _sized(conv2, "width"),
    "conv4": _sized(conv4, "width"),
    "conv6": _sized(conv6, "width"),
    "squeezenet": _channels(squeezenet, "width", biased=True),
    "inception_v3": _channels(inception_v3, "width", "affine"),
}


def defaults_of(name: str) -> options.Network:
    """The values of `--network` that a network has by default."""
    network = NETWORKS.get(name)
    return options.Network(bias=network is not None and network.biased)


def input_shape(config: Config, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which the network gets images of `image_shape`: grey ones in three equal channels, for most."""
    network = NETWORKS.get(config.model)
    colour = network is not None and not network.grey and image_shape[-1] == 1
    return (*image_shape[:2], 3) if colour else image_shape


def network_for(config: Config, image_shape: tuple[int, ...], num_classes: int) -> Model:
    """The network of `--model`, for images of that shape (see `input_shape`).

    Raises:
      UsageError: for an unknown name, a module or function that is not there, or an option that it does not take.
    """
    asked, usual, network = vars(config.network), vars(defaults_of(config.model)), NETWORKS.get(config.model)
    takes = ("bias", *network.options) if network else ()
    for name in asked:
        if asked[name] != usual[name] and name not in takes:
            told = ", ".join(f"--network.{option}" for option in takes) or "none of them"
            raise UsageError(f"--network.{name}: {config.model} has no such option; it takes {told}")
    if network is None:
        if config.precision != "float32":
            raise UsageError(f"--precision: {config.model} decides itself what it computes in; expected no such flag")
        return _checked(config.model, _own(config.model, image_shape, num_classes), image_shape, num_classes)
    given = {name: asked[name] for name in network.options if asked[name] is not None}
    kind = config.network.bias, config.precision, tuple(given.items())
    return _ours(config.model, image_shape, num_classes, *kind)


@functools.lru_cache(maxsize=16)
def _ours(name: str, image_shape: tuple[int, ...], num_classes: int, bias: bool, precision: str, given: tuple) -> Model:
    """The same object for the same arguments: it is checked once, and what is compiled for it is found again."""
    options = {"use_bias": bias, "compute_dtype": jnp.dtype(precision)} | dict(given)
    try:
        model = NETWORKS[name].make(image_shape, num_classes, **options)
    except ValueError as error:
        raise UsageError(f"--model: {name}: {error}") from None
    return _checked(name, model, image_shape, num_classes)


def _checked(name: str, model: Model, image_shape: tuple[int, ...], num_classes: int) -> Model:
    """The model, once its shapes are seen to be right, without computing anything."""
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    try:
        params, state = jax.eval_shape(model.init, jax.random.key(0))
        for train in (True, False):
            logits, after = jax.eval_shape(
                lambda p, s, x, train=train: model.apply(p, s, x, train), params, state, images
            )
            if getattr(logits, "shape", None) != (2, num_classes):
                raise ValueError(f"expected logits of shape (2, {num_classes}) for two images, got {logits}")
            if jax.tree.map(jnp.shape, after) != jax.tree.map(jnp.shape, state):
                raise ValueError("expected apply to return a state like the one it was given, got another")
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise UsageError(f"--model: {name}, for images of {'x'.join(map(str, image_shape))}: {kind}{error}") from None
    return model


def forward_flop(model: Model, image_shape: tuple[int, ...]) -> float:
    """Floating-point operations of the forward pass of one image, as XLA counts them before it optimizes."""
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with plain_operations():
        lowered = jax.jit(lambda p, s, x: model.apply(p, s, x, False)[0]).lower(params, state, image)
    cost: Any = lowered.cost_analysis()
    return float((cost or {}).get("flops", 0.0))


def _own(name: str, image_shape: tuple[int, ...], num_classes: int) -> Model:
    """A user's network: what `function(image_shape, num_classes)` of a module returns, with `init` and `apply`."""
    module_name, colon, function_name = name.partition(":")
    if not (colon and module_name and function_name) or module_name.startswith("."):
        known = ", ".join(NETWORKS)
        raise UsageError(f"--model: expected one of {known}, or module:function of your own, got {name!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise UsageError(f"--model: {name}: {error}; looked in {here} and the installed packages") from None
    except AttributeError:
        raise UsageError(f"--model: the module {module_name} has no {function_name!r}") from None
    except (Exception, SystemExit) as error:
        raise UsageError(f"--model: importing {module_name} failed: {type(error).__name__}: {error}") from error
    try:
        made = function(image_shape, num_classes)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"--model: {name}(image_shape, num_classes) failed: {type(error).__name__}: {error}"
        ) from error
    init, apply = (getattr(made, part, None) for part in ("init", "apply"))
    if not callable(init) or not callable(apply):
        raise UsageError(
            f"--model: {name}: expected something with init(key) -> (params, state) and "
            f"apply(params, state, x, train) -> (logits, state), got {type(made).__name__}"
        )
    return Model(init, apply)
