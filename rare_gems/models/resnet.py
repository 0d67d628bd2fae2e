"""The CIFAR ResNets: ResNet-20 and ResNet-32 with parameter-free shortcuts (He et al. 2016, section 4.2)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rare_gems.models.fast_norm import exact
from rare_gems.models.layers import BatchNorm, Conv, Linear, option_a_shortcut
from rare_gems.models.model import Model, from_module

__all__ = ["BasicBlock", "ResNet", "resnet20", "resnet32"]


class BasicBlock(nnx.Module):
    """relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x)))))), 3x3 convolutions, the first with the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, affine: bool = False):
        self.outputs, self.stride = outputs, stride
        self.conv1 = Conv(inputs, outputs, stride=stride)
        self.bn1 = BatchNorm(outputs, affine=affine)
        self.conv2 = Conv(outputs, outputs)
        self.bn2 = BatchNorm(outputs, affine=affine)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = self.bn1(self.conv1(x), train, relu=True)
        return self.bn2(self.conv2(y), train, shortcut=option_a_shortcut(x, self.outputs, self.stride), relu=True)


class ResNet(nnx.Module):
    """A 3x3 stem, three stages of basic blocks at 1, 2 and 4 times the width, global mean, a dense layer."""

    def __init__(
        self,
        blocks: int,
        num_classes: int,
        *,
        in_channels: int = 3,
        width: int = 16,
        affine: bool = False,
        compute_dtype: Any = jnp.float32,
    ):
        self.compute_dtype = compute_dtype

        def stage(inputs: int, outputs: int, stride: int) -> nnx.List:
            sizes = [(inputs, stride)] + [(outputs, 1)] * (blocks - 1)
            return nnx.List([BasicBlock(i, outputs, s, affine=affine) for i, s in sizes])

        # The names sort in network order: reports list the layers by leaf order.
        self.conv1 = Conv(in_channels, width)
        self.bn1 = BatchNorm(width, affine=affine)
        self.layer1 = stage(width, width, 1)
        self.layer2 = stage(width, 2 * width, 2)
        self.layer3 = stage(2 * width, 4 * width, 2)
        self.linear = Linear(4 * width, num_classes, use_bias=False)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = x if x.dtype == jnp.float64 else x.astype(self.compute_dtype)  # SynFlow asks for float64
        x = self.bn1(self.conv1(x), train, relu=True)
        for block in [*self.layer1, *self.layer2, *self.layer3]:
            x = block(x, train)
        return exact(self.linear(x.mean((1, 2))))


def resnet20(
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    width: int = 16,
    affine: bool = False,
    compute_dtype: Any = jnp.float32,
) -> Model:
    """ResNet-20 for small images, as Rare Gems uses it: 20 prunable layers, 268,336 weights by default.

    Args:
      num_classes: number of logits.
      in_channels: channels of the images, [batch, height, width, in_channels] of any height and width.
      width: channels of the first stage; the others have twice and four times as many.
      affine: whether BatchNorm learns a scale and a bias (never prunable).
      compute_dtype: dtype of activations and products; params, statistics and logits stay float32.

    Returns:
      A `Model`; params `conv1`, `layer1/0/conv1`, ..., `layer3/2/conv2`, `linear`, each with a `kernel`.

    Raises:
      ValueError: if a size is not positive.

    Example:
      >>> model = resnet20()
      >>> params, state = jax.eval_shape(model.init, jax.random.key(0))
      >>> sum(p.size for p in jax.tree.leaves(params))
      268336
    """
    return _resnet(3, num_classes, in_channels, width, affine, compute_dtype)


def resnet32(
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    width: int = 16,
    affine: bool = False,
    compute_dtype: Any = jnp.float32,
) -> Model:
    """ResNet-32: `resnet20` with five blocks in a stage; 461,872 prunable weights, 1,845,344 at `width=32`.

    Args, Returns, Raises: as `resnet20`.

    Example:
      >>> params, _ = jax.eval_shape(resnet32(100, width=32).init, jax.random.key(0))
      >>> sum(p.size for p in jax.tree.leaves(params))
      1856864
    """
    return _resnet(5, num_classes, in_channels, width, affine, compute_dtype)


def _resnet(blocks: int, num_classes: int, in_channels: int, width: int, affine: bool, compute_dtype: Any) -> Model:
    if min(num_classes, in_channels, width) < 1:
        raise ValueError(f"expected positive sizes, got {num_classes=}, {in_channels=}, {width=}")
    return from_module(
        lambda: ResNet(
            blocks,
            num_classes,
            in_channels=in_channels,
            width=width,
            affine=affine,
            compute_dtype=compute_dtype,
        )
    )
