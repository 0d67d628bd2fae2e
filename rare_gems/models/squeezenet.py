"""SqueezeNet 1.0 and 1.1 (Iandola et al. 2016): fire modules, no normalization, no dense layer."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from rare_gems.models.fast_norm import exact
from rare_gems.models.layers import Conv, max_pool, to_compute_dtype
from rare_gems.models.model import Model, check_sizes, from_module, scaled

__all__ = ["Fire", "SqueezeNet", "squeezenet"]

Version = Literal["1.0", "1.1"]

# (squeeze channels, channels of each of the two expansions) of the eight fire modules
FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
# Stem channels and size, the fire modules with a max-pool before them, the smallest image.
VERSIONS = {"1.0": (96, 7, (0, 3, 7), 21), "1.1": (64, 3, (0, 2, 4), 17)}


class Fire(nnx.Module):
    """s = relu(conv1(x)), then relu(conv2(s)) and relu(conv3(s)) side by side: 1x1 squeeze, 1x1 and 3x3 expand."""

    def __init__(self, inputs: int, squeeze: int, expand: int, *, use_bias: bool = True):
        self.conv1 = Conv(inputs, squeeze, 1, use_bias=use_bias)
        self.conv2 = Conv(squeeze, expand, 1, use_bias=use_bias)
        self.conv3 = Conv(squeeze, expand, 3, use_bias=use_bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.conv1(x))
        return jax.nn.relu(jnp.concatenate([self.conv2(x), self.conv3(x)], -1))


class SqueezeNet(nnx.Module):
    """A convolution of stride 2, eight fire modules with max-pools between, a 1x1 convolution, ReLU, global mean."""

    def __init__(
        self,
        version: Version,
        num_classes: int,
        *,
        in_channels: int = 3,
        width: float = 1,
        use_bias: bool = True,
        compute_dtype: Any = jnp.float32,
    ):
        channels, size, self.pooled, self.least = VERSIONS[version]
        self.compute_dtype = compute_dtype
        channels = scaled(channels, width)
        self.conv1 = Conv(in_channels, channels, size, 2, padding=0, use_bias=use_bias)
        fires = []
        for squeeze, expand in FIRES:
            fires.append(Fire(channels, scaled(squeeze, width), scaled(expand, width), use_bias=use_bias))
            channels = 2 * scaled(expand, width)
        self.fires = nnx.List(fires)
        self.head = Conv(channels, num_classes, 1, use_bias=use_bias)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        if min(x.shape[1:3]) < self.least:
            raise ValueError(f"images: expected {self.least} x {self.least} pixels or more, got {x.shape[1:3]}")
        x = jax.nn.relu(self.conv1(to_compute_dtype(x, self.compute_dtype)))
        for i, fire in enumerate(self.fires):
            x = fire(max_pool(x, 3, 2, ceil=True) if i in self.pooled else x)
        return exact(jax.nn.relu(self.head(x))).mean((1, 2))


def squeezenet(
    num_classes: int = 1000,
    *,
    version: Version = "1.1",
    in_channels: int = 3,
    width: float = 1,
    use_bias: bool = True,
    compute_dtype: Any = jnp.float32,
) -> Model:
    """SqueezeNet: 26 prunable layers; 1,231,552 weights (and 3,944 biases) in version 1.1, 1,244,448 in 1.0.

    Args:
      num_classes: number of logits.
      version: "1.0" is the paper's, with a 7x7 stem of 96 channels; "1.1" has a 3x3 stem of 64 and pools earlier: 2.4
        times less to compute.
      in_channels: channels of the images, [batch, height, width, in_channels]; 224 x 224 pixels for ImageNet, 17 x 17
        or more (version 1.0: 21 x 21).
      width: multiplies the channels; may be a fraction.
      use_bias: whether all layers have biases (never prunable).
      compute_dtype: dtype of activations and products; params and logits stay float32.

    Returns:
      A `Model`; params `conv1`, `fires/0/conv1` (squeeze), `fires/0/conv2`, `fires/0/conv3` (expand by 1x1 and 3x3),
      ..., `head`, each with a `bias` (zero at first) and a `kernel`; its state is {}. The logits are not negative.

    Raises:
      ValueError: if a size is not positive or the version is neither; from `apply`, if the images are too small.

    Example:
      >>> params, state = jax.eval_shape(squeezenet().init, jax.random.key(0))
      >>> sum(p.size for p in jax.tree.leaves(params)), state
      (1235496, {})

    Source: Iandola et al., SqueezeNet, 2016, Table 1, and the authors' release 1.1, both in torchvision's form;
    Frankle et al., Stabilizing the Lottery Ticket Hypothesis, 2020, uses SqueezeNet on ImageNet.
    Deviations: no dropout before `head` (0.5); `head` is drawn as the others (torchvision: standard deviation 0.01).
    """
    check_sizes(num_classes=num_classes, in_channels=in_channels, width=width)
    if version not in VERSIONS:
        raise ValueError(f"version: expected one of {', '.join(VERSIONS)}, got {version!r}")
    return from_module(
        lambda: SqueezeNet(
            version, num_classes, in_channels=in_channels, width=width, use_bias=use_bias, compute_dtype=compute_dtype
        )
    )
