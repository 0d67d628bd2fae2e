"""ResNet-18 and ResNet-50 (He et al. 2016, section 4.1), with a stem for small or for large images."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from rare_gems.models.fast_norm import exact
from rare_gems.models.layers import BatchNorm, Conv, Linear, max_pool, to_compute_dtype
from rare_gems.models.model import Model, check_sizes, from_module, scaled
from rare_gems.models.resnet import BasicBlock, Downsample

__all__ = ["Bottleneck", "ResNet", "resnet18", "resnet50"]

Stem = Literal["cifar", "imagenet"]


class Bottleneck(nnx.Module):
    """relu(shortcut(x) + bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x))))))))), convolutions of 1x1, 3x3 and 1x1.

    The first two have `channels` outputs, the third four times as many. The 3x3 convolution has the stride. The
    shortcut is x, or of option B where the size changes.
    """

    def __init__(self, inputs: int, channels: int, stride: int, *, affine: bool = False):
        outputs = 4 * channels
        self.conv1 = Conv(inputs, channels, 1)
        self.bn1 = BatchNorm(channels, affine=affine)
        self.conv2 = Conv(channels, channels, stride=stride)
        self.bn2 = BatchNorm(channels, affine=affine)
        self.conv3 = Conv(channels, outputs, 1)
        self.bn3 = BatchNorm(outputs, affine=affine)
        changes = stride > 1 or inputs != outputs
        self.downsample = Downsample(inputs, outputs, stride, affine=affine) if changes else None

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self.bn1(self.conv1(x), train, relu=True)
        y = self.conv3(self.bn2(self.conv2(y), train, relu=True))
        shortcut = x if self.downsample is None else self.downsample(x, train)  # after the others, as papers count it
        return self.bn3(y, train, shortcut=shortcut, relu=True)


class ResNet(nnx.Module):
    """A stem, four stages of blocks at 1, 2, 4 and 8 times the channels, global mean, a dense layer.

    `blocks` says how many each stage has; they are bottlenecks on request.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int,
        *,
        bottleneck: bool,
        stem: Stem = "imagenet",
        in_channels: int = 3,
        width: float = 1,
        affine: bool = False,
        use_bias: bool = False,
        compute_dtype: Any = jnp.float32,
    ):
        self.stem, self.compute_dtype = stem, compute_dtype
        channels, expansion = scaled(64, width), 4 if bottleneck else 1

        def block(inputs: int, channels: int, stride: int) -> nnx.Module:
            if bottleneck:
                return Bottleneck(inputs, channels, stride, affine=affine)
            return BasicBlock(inputs, channels, stride, affine=affine, shortcut="B")

        def stage(inputs: int, factor: int, count: int, stride: int) -> nnx.List:
            sizes = [(inputs, stride)] + [(factor * channels * expansion, 1)] * (count - 1)
            return nnx.List([block(i, factor * channels, s) for i, s in sizes])

        # The names sort in network order: ticket files list the layers by leaf order.
        self.conv1 = Conv(in_channels, channels, 3 if stem == "cifar" else 7, 1 if stem == "cifar" else 2)
        self.bn1 = BatchNorm(channels, affine=affine)
        self.layer1 = stage(channels, 1, blocks[0], 1)
        self.layer2 = stage(channels * expansion, 2, blocks[1], 2)
        self.layer3 = stage(2 * channels * expansion, 4, blocks[2], 2)
        self.layer4 = stage(4 * channels * expansion, 8, blocks[3], 2)
        self.linear = Linear(8 * channels * expansion, num_classes, use_bias=use_bias)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.bn1(self.conv1(to_compute_dtype(x, self.compute_dtype)), train, relu=True)
        if self.stem == "imagenet":
            x = max_pool(x, 3, 2, 1)
        for block in [*self.layer1, *self.layer2, *self.layer3, *self.layer4]:
            x = block(x, train)
        return exact(self.linear(x.mean((1, 2))))


def resnet18(
    num_classes: int = 10,
    *,
    stem: Stem = "imagenet",
    in_channels: int = 3,
    width: float = 1,
    affine: bool = False,
    use_bias: bool = False,
    compute_dtype: Any = jnp.float32,
) -> Model:
    """ResNet-18: 21 prunable layers; 11,164,352 weights for CIFAR-10, 11,269,312 for TinyImageNet.

    Args:
      num_classes: number of logits.
      stem: "cifar" is a 3x3 convolution and keeps the size; "imagenet" is one of 7x7 with stride 2 and a 3x3 max-pool
        with stride 2, for 64x64 and for 224x224 images alike.
      in_channels: channels of the images, [batch, height, width, in_channels] of any height and width.
      width: multiplies the channels, which are 64, 128, 256 and 512 at 1; may be a fraction.
      affine: whether BatchNorm learns a scale and a bias (never prunable).
      use_bias: whether the dense layer has a bias (never prunable).
      compute_dtype: dtype of activations and products; params, statistics and logits stay float32.

    Returns:
      A `Model`; params `conv1`, `layer1/0/conv1`, ..., `layer4/1/conv2`, `linear`, each with a `kernel`; the first
      block of layers 2 to 4 has a `downsample/conv` after its others.

    Raises:
      ValueError: if a size is not positive, or the stem is neither.

    Example:
      >>> model = resnet18(stem="cifar")
      >>> params, state = jax.eval_shape(model.init, jax.random.key(0))
      >>> sum(p.size for p in jax.tree.leaves(params))
      11164352

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, Table 1; Rare Gems (v1), Table 5 and code.
    Deviations: the down-sampling convolutions are prunable and counted; Rare Gems' code forgets those of its
    TinyImageNet network (172,032 weights), which stay dense in its tickets. Its paper prints a 3x3 stem for that
    network; we follow the code, which has 7x7. The mean is global; their average over 4x4 is equal on 32x32 images.
    """
    return _resnet((2, 2, 2, 2), False, num_classes, stem, in_channels, width, affine, use_bias, compute_dtype)


def resnet50(
    num_classes: int = 1000,
    *,
    stem: Stem = "imagenet",
    in_channels: int = 3,
    width: float = 1,
    affine: bool = False,
    use_bias: bool = False,
    compute_dtype: Any = jnp.float32,
) -> Model:
    """ResNet-50, with the stride in the 3x3 convolutions: 54 prunable layers, 25,502,912 weights for ImageNet.

    Args, Returns, Raises: as `resnet18`; blocks have a `conv3`, and the first of each of the four layers a
    `downsample/conv`; their outputs have four times the channels. With 200 classes 23,864,512 weights, with 101
    23,661,760. Pre-trained weights need `affine=True, use_bias=True`.

    Example:
      >>> params, _ = jax.eval_shape(resnet50(200).init, jax.random.key(0))
      >>> sum(p.size for p in jax.tree.leaves(params))
      23864512

    Source: He et al., 2016, Table 1, with the stride where torchvision has it ("v1.5"); Rare Gems (v1), Table 5.
    Deviations: the down-sampling convolutions (2,768,896 weights) are prunable and counted, as in Lottery Jackpots;
    Rare Gems' code forgets them, and has 1000 outputs for TinyImageNet's 200 classes.
    """
    return _resnet((3, 4, 6, 3), True, num_classes, stem, in_channels, width, affine, use_bias, compute_dtype)


def _resnet(
    blocks: Sequence[int], bottleneck: bool, num_classes: int, stem: Stem, in_channels: int, width: float, affine: bool,
    use_bias: bool, compute_dtype: Any,
) -> Model:  # fmt: skip
    check_sizes(num_classes=num_classes, in_channels=in_channels, width=width)
    if stem not in ("cifar", "imagenet"):
        raise ValueError(f"stem: expected 'cifar' or 'imagenet', got {stem!r}")
    return from_module(
        lambda: ResNet(
            blocks, num_classes, bottleneck=bottleneck, stem=stem, in_channels=in_channels, width=width, affine=affine,
            use_bias=use_bias, compute_dtype=compute_dtype,
        )
    )  # fmt: skip
