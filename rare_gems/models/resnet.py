"""The CIFAR ResNets: ResNet-20 and ResNet-32 (He et al. 2016, section 4.2), with shortcuts of option A or B."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from rare_gems.models.fast_norm import exact
from rare_gems.models.layers import BatchNorm, Conv, Linear, option_a_shortcut, to_compute_dtype
from rare_gems.models.model import Model, check_sizes, from_module, scaled

__all__ = ["BasicBlock", "Downsample", "ResNet", "resnet20", "resnet32"]

Shortcut = Literal["A", "B"]


class Downsample(nnx.Module):
    """The shortcut of option B: a 1x1 convolution with the stride, normalized."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, affine: bool = False):
        self.bn = BatchNorm(outputs, affine=affine)
        self.conv = Conv(inputs, outputs, 1, stride)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return self.bn(self.conv(x), train)


class BasicBlock(nnx.Module):
    """relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x)))))), 3x3 convolutions, the first with the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, affine: bool = False, shortcut: Shortcut = "A"):
        self.outputs, self.stride = outputs, stride
        self.conv1 = Conv(inputs, outputs, stride=stride)
        self.bn1 = BatchNorm(outputs, affine=affine)
        self.conv2 = Conv(outputs, outputs)
        self.bn2 = BatchNorm(outputs, affine=affine)
        changes = stride > 1 or inputs != outputs
        self.downsample = Downsample(inputs, outputs, stride, affine=affine) if changes and shortcut == "B" else None

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self.conv2(self.bn1(self.conv1(x), train, relu=True))
        if self.downsample is None:
            shortcut = option_a_shortcut(x, self.outputs, self.stride)
        else:  # the last layer of the block, where the papers count it
            shortcut = self.downsample(x, train)
        return self.bn2(y, train, shortcut=shortcut, relu=True)


class ResNet(nnx.Module):
    """A 3x3 stem, three stages of basic blocks at 1, 2 and 4 times the channels, global mean, a dense layer."""

    def __init__(
        self,
        blocks: int,
        num_classes: int,
        *,
        in_channels: int = 3,
        width: float = 1,
        shortcut: Shortcut = "A",
        affine: bool = False,
        use_bias: bool = False,
        compute_dtype: Any = jnp.float32,
    ):
        self.compute_dtype = compute_dtype
        channels = scaled(16, width)

        def stage(inputs: int, outputs: int, stride: int) -> nnx.List:
            sizes = [(inputs, stride)] + [(outputs, 1)] * (blocks - 1)
            return nnx.List([BasicBlock(i, outputs, s, affine=affine, shortcut=shortcut) for i, s in sizes])

        # The names sort in network order: ticket files list the layers by leaf order.
        self.conv1 = Conv(in_channels, channels)
        self.bn1 = BatchNorm(channels, affine=affine)
        self.layer1 = stage(channels, channels, 1)
        self.layer2 = stage(channels, 2 * channels, 2)
        self.layer3 = stage(2 * channels, 4 * channels, 2)
        self.linear = Linear(4 * channels, num_classes, use_bias=use_bias)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.bn1(self.conv1(to_compute_dtype(x, self.compute_dtype)), train, relu=True)
        for block in [*self.layer1, *self.layer2, *self.layer3]:
            x = block(x, train)
        return exact(self.linear(x.mean((1, 2))))


def resnet20(
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    width: float = 1,
    shortcut: Shortcut = "A",
    affine: bool = False,
    use_bias: bool = False,
    compute_dtype: Any = jnp.float32,
) -> Model:
    """ResNet-20 for small images, as Rare Gems uses it: 20 prunable layers, 268,336 weights by default.

    Args:
      num_classes: number of logits.
      in_channels: channels of the images, [batch, height, width, in_channels] of any height and width.
      width: multiplies the channels, which are 16, 32 and 64 at 1; may be a fraction.
      shortcut: where the size changes, "A" takes each second pixel and adds zero channels, "B" has a 1x1 convolution
        (22 prunable layers, 270,896 weights).
      affine: whether BatchNorm learns a scale and a bias (never prunable).
      use_bias: whether the dense layer has a bias (never prunable).
      compute_dtype: dtype of activations and products; params, statistics and logits stay float32.

    Returns:
      A `Model`; params `conv1`, `layer1/0/conv1`, ..., `layer3/2/conv2`, `linear`, each with a `kernel`.

    Raises:
      ValueError: if a size is not positive, or the shortcut is neither.

    Example:
      >>> model = resnet20()
      >>> params, state = jax.eval_shape(model.init, jax.random.key(0))
      >>> sum(p.size for p in jax.tree.leaves(params))
      268336

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2; Rare Gems (v1), Table 5.
    """
    return _resnet(3, num_classes, in_channels, width, shortcut, affine, use_bias, compute_dtype)


def resnet32(
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    width: float = 1,
    shortcut: Shortcut = "A",
    affine: bool = False,
    use_bias: bool = False,
    compute_dtype: Any = jnp.float32,
) -> Model:
    """ResNet-32: `resnet20` with five blocks in a stage; 461,872 prunable weights, 1,845,344 at `width=2`.

    Args, Returns, Raises, Source: as `resnet20`.

    Example:
      >>> params, _ = jax.eval_shape(resnet32(100, width=2).init, jax.random.key(0))
      >>> sum(p.size for p in jax.tree.leaves(params))
      1856864
    """
    return _resnet(5, num_classes, in_channels, width, shortcut, affine, use_bias, compute_dtype)


def _resnet(
    blocks: int, num_classes: int, in_channels: int, width: float, shortcut: Shortcut, affine: bool, use_bias: bool,
    compute_dtype: Any,
) -> Model:  # fmt: skip
    check_sizes(num_classes=num_classes, in_channels=in_channels, width=width)
    if shortcut not in ("A", "B"):
        raise ValueError(f"shortcut: expected 'A' or 'B', got {shortcut!r}")
    return from_module(
        lambda: ResNet(
            blocks, num_classes, in_channels=in_channels, width=width, shortcut=shortcut, affine=affine,
            use_bias=use_bias, compute_dtype=compute_dtype,
        )
    )  # fmt: skip
