"""MobileNetV2 for small images (Sandler et al. 2018), as Rare Gems uses it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rare_gems.models.fast_norm import exact
from rare_gems.models.layers import BatchNorm, Conv, Linear, to_compute_dtype
from rare_gems.models.model import Model, check_sizes, from_module, scaled
from rare_gems.models.resnet import Downsample

__all__ = ["STAGES", "InvertedResidual", "MobileNetV2", "mobilenet_v2"]

# Expansion, outputs, blocks, and the first one's stride, of each stage.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nnx.Module):
    """bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))), which a 1x1 convolution widens and another narrows.

    The 3x3 convolution between sees each channel alone and has the stride. With stride 1 a shortcut is added: x, or a
    normalized 1x1 convolution of it where the number of channels changes.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, *, affine: bool = False):
        self.stride, hidden = stride, expansion * inputs
        self.conv1 = Conv(inputs, hidden, 1)
        self.bn1 = BatchNorm(hidden, affine=affine)
        self.conv2 = Conv(hidden, hidden, stride=stride, groups=hidden)
        self.bn2 = BatchNorm(hidden, affine=affine)
        self.conv3 = Conv(hidden, outputs, 1)
        self.bn3 = BatchNorm(outputs, affine=affine)
        changes = stride == 1 and inputs != outputs
        self.downsample = Downsample(inputs, outputs, 1, affine=affine) if changes else None

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self.bn1(self.conv1(x), train, relu=True)
        y = self.conv3(self.bn2(self.conv2(y), train, relu=True))
        shortcut = x if self.stride == 1 else None
        if self.downsample is not None:  # the last layer of the block, as in the ResNets
            shortcut = self.downsample(x, train)
        return self.bn3(y, train, shortcut=shortcut)


class Pointwise(nnx.Module):
    """relu(bn(conv(x))) with a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, *, affine: bool = False):
        self.conv = Conv(inputs, outputs, 1)
        self.bn = BatchNorm(outputs, affine=affine)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return self.bn(self.conv(x), train, relu=True)


class MobileNetV2(nnx.Module):
    """A 3x3 stem, inverted residuals, a 1x1 convolution to 1280 channels, global mean, a dense layer.

    `stages` is as `STAGES`: expansion, outputs, number of blocks and the first one's stride.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        stages: Sequence[tuple[int, int, int, int]] = STAGES,
        in_channels: int = 3,
        width: float = 1,
        affine: bool = False,
        use_bias: bool = False,
        compute_dtype: Any = jnp.float32,
    ):
        self.compute_dtype = compute_dtype
        inputs, last = scaled(32, width), scaled(1280, width)

        # The names sort in network order: ticket files list the layers by leaf order.
        self.conv1 = Conv(in_channels, inputs)
        self.bn1 = BatchNorm(inputs, affine=affine)
        blocks = []
        for expansion, outputs, count, first_stride in stages:
            for stride in [first_stride] + [1] * (count - 1):
                blocks.append(InvertedResidual(inputs, scaled(outputs, width), expansion, stride, affine=affine))
                inputs = scaled(outputs, width)
        self.layer1 = nnx.List(blocks)
        self.layer2 = Pointwise(inputs, last, affine=affine)
        self.linear = Linear(last, num_classes, use_bias=use_bias)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.bn1(self.conv1(to_compute_dtype(x, self.compute_dtype)), train, relu=True)
        for block in self.layer1:
            x = block(x, train)
        return exact(self.linear(self.layer2(x, train).mean((1, 2))))


def mobilenet_v2(
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    width: float = 1,
    affine: bool = False,
    use_bias: bool = False,
    compute_dtype: Any = jnp.float32,
) -> Model:
    """MobileNetV2 for small images: 58 prunable layers, 2,261,824 weights for ten classes, 2,505,024 for 200.

    Args:
      num_classes: number of logits.
      in_channels: channels of the images, [batch, height, width, in_channels] of any height and width.
      width: multiplies the channels of every layer, rounded down; may be a fraction.
      affine: whether BatchNorm learns a scale and a bias (never prunable).
      use_bias: whether the dense layer has a bias (never prunable).
      compute_dtype: dtype of activations and products; params, statistics and logits stay float32.

    Returns:
      A `Model`; params `conv1`, `layer1/0/conv1`, ..., `layer1/16/conv3`, `layer2/conv`, `linear`, each with a
      `kernel`, [3, 3, 1, channels] where a convolution sees each channel alone. Blocks 0, 1, 10 and 16 have a
      `downsample/conv` after their others.

    Raises:
      ValueError: if a size is not positive.

    Example:
      >>> model = mobilenet_v2()
      >>> params, state = jax.eval_shape(model.init, jax.random.key(0))
      >>> sum(p.size for p in jax.tree.leaves(params))
      2261824

    Source: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018, Table 2; Rare Gems (v1),
    Table 7, and its code.
    Deviations: from the first paper, as Rare Gems' code: the stem and the second stage have stride 1; ReLU, not ReLU6;
    the first block has a 1x1 convolution though it does not widen; where the channels change and the stride is 1 a 1x1
    convolution is the shortcut (58,240 weights). From that code: the mean is global; its average over 4x4 is equal on
    32x32 images and fails on 64x64. At another width, the first paper rounds channels to multiples of eight.
    """
    check_sizes(num_classes=num_classes, in_channels=in_channels, width=width)
    return from_module(
        lambda: MobileNetV2(
            num_classes, in_channels=in_channels, width=width, affine=affine, use_bias=use_bias,
            compute_dtype=compute_dtype,
        )
    )  # fmt: skip
