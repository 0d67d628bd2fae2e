"""WRN-28-2, a wide residual network for small images (Zagoruyko and Komodakis 2016)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rare_gems.models.fast_norm import exact
from rare_gems.models.layers import BatchNorm, Conv, Linear, to_compute_dtype
from rare_gems.models.model import Model, check_sizes, from_module, scaled

__all__ = ["WideBlock", "WideResNet", "wide_resnet28_2"]


class WideBlock(nnx.Module):
    """x + conv2(relu(bn2(conv1(a)))) with a = relu(bn1(x)), 3x3 convolutions, the first with the stride.

    Where the number of channels changes, a 1x1 convolution of a with the stride stands for x.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, affine: bool = False):
        if stride > 1 and inputs == outputs:
            raise ValueError(f"stride: expected 1 where the channels stay {inputs}, got {stride}")
        self.bn1 = BatchNorm(inputs, affine=affine)
        self.conv1 = Conv(inputs, outputs, stride=stride)
        self.bn2 = BatchNorm(outputs, affine=affine)
        self.conv2 = Conv(outputs, outputs)
        self.shortcut = Conv(inputs, outputs, 1, stride) if inputs != outputs else None

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        a = self.bn1(x, train, relu=True)
        y = self.conv2(self.bn2(self.conv1(a), train, relu=True))
        return y + (x if self.shortcut is None else self.shortcut(a))


class WideResNet(nnx.Module):
    """A 3x3 stem, three stages of wide blocks, BatchNorm and ReLU, global mean, a dense layer.

    The stem has 16 channels, the stages `factor` times 16, 32 and 64, all times the width.
    """

    def __init__(
        self,
        blocks: int,
        factor: int,
        num_classes: int,
        *,
        in_channels: int = 3,
        width: float = 1,
        affine: bool = False,
        use_bias: bool = False,
        compute_dtype: Any = jnp.float32,
    ):
        self.compute_dtype = compute_dtype
        channels = scaled(16, width)
        wide = factor * channels

        def stage(inputs: int, outputs: int, stride: int) -> nnx.List:
            sizes = [(inputs, stride)] + [(outputs, 1)] * (blocks - 1)
            return nnx.List([WideBlock(i, outputs, s, affine=affine) for i, s in sizes])

        # The names sort in network order: ticket files list the layers by leaf order.
        self.conv1 = Conv(in_channels, channels)
        self.layer1 = stage(channels, wide, 1)
        self.layer2 = stage(wide, 2 * wide, 2)
        self.layer3 = stage(2 * wide, 4 * wide, 2)
        self.bn1 = BatchNorm(4 * wide, affine=affine)
        self.linear = Linear(4 * wide, num_classes, use_bias=use_bias)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.conv1(to_compute_dtype(x, self.compute_dtype))
        for block in [*self.layer1, *self.layer2, *self.layer3]:
            x = block(x, train)
        return exact(self.linear(self.bn1(x, train, relu=True).mean((1, 2))))


def wide_resnet28_2(
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    width: float = 1,
    affine: bool = False,
    use_bias: bool = False,
    compute_dtype: Any = jnp.float32,
) -> Model:
    """WRN-28-2, normalized before each convolution: 29 prunable layers, 1,463,984 weights for ten classes.

    Args:
      num_classes: number of logits.
      in_channels: channels of the images, [batch, height, width, in_channels] of any height and width.
      width: multiplies the channels, which are 16, then 32, 64 and 128 at 1; may be a fraction.
      affine: whether BatchNorm learns a scale and a bias (never prunable).
      use_bias: whether the dense layer has a bias (never prunable).
      compute_dtype: dtype of activations and products; params, statistics and logits stay float32.

    Returns:
      A `Model`; params `conv1`, `layer1/0/conv1`, ..., `layer3/3/conv2`, `linear`, each with a `kernel`; the first
      block of each layer has a `shortcut` after its others. `bn1` is the last BatchNorm, before the mean.

    Raises:
      ValueError: if a size is not positive.

    Example:
      >>> model = wide_resnet28_2()
      >>> params, state = jax.eval_shape(model.init, jax.random.key(0))
      >>> sum(p.size for p in jax.tree.leaves(params))
      1463984

    Source: Zagoruyko and Komodakis, Wide Residual Networks, 2016, Table 1; Rare Gems (v1), Table 5, and its code.
    Deviations: no dropout, as in Rare Gems' code. The mean is global; its average over 8x8 is equal on 32x32 images.
    """
    check_sizes(num_classes=num_classes, in_channels=in_channels, width=width)
    return from_module(
        lambda: WideResNet(
            4, 2, num_classes, in_channels=in_channels, width=width, affine=affine, use_bias=use_bias,
            compute_dtype=compute_dtype,
        )
    )  # fmt: skip
