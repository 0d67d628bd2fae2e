"""VGG-16 and VGG-19 for small images (Simonyan & Zisserman 2015), with batch normalization and one dense layer."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rare_gems.models.fast_norm import exact
from rare_gems.models.layers import ConvBN, Linear, max_pool, to_compute_dtype
from rare_gems.models.model import Model, check_sizes, from_module, scaled

__all__ = ["VGG", "vgg16", "vgg19"]

Stages = tuple[tuple[int, int], ...]  # (channels, number of convolutions)


class VGG(nnx.Module):
    """Stages of 3x3 convolutions, the first `pools` of them with a max-pool behind; mean over the map, dense layer."""

    def __init__(
        self,
        stages: Stages,
        pools: int,
        num_classes: int,
        *,
        in_channels: int = 3,
        width: float = 1,
        affine: bool = False,
        use_bias: bool = False,
        compute_dtype: Any = jnp.float32,
    ):
        self.compute_dtype, self.least = compute_dtype, 2**pools
        outputs = [scaled(channels, width) for channels, number in stages for _ in range(number)]
        ends = [sum(number for _, number in stages[: i + 1]) for i in range(pools)]
        self.pooled = tuple(i + 1 in ends for i in range(len(outputs)))
        pairs = zip([in_channels, *outputs], outputs, strict=False)
        self.layers = nnx.List([ConvBN(i, o, affine=affine, use_bias=use_bias) for i, o in pairs])
        self.linear = Linear(outputs[-1], num_classes, use_bias=use_bias)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if min(x.shape[1:3]) < self.least:
            raise ValueError(f"images: expected {self.least} x {self.least} pixels or more, got {x.shape[1:3]}")
        x = to_compute_dtype(x, self.compute_dtype)
        for layer, pooled in zip(self.layers, self.pooled, strict=True):
            x = layer(x, train)
            x = max_pool(x) if pooled else x
        return exact(self.linear(x.mean((1, 2))))


def vgg16(
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    width: float = 1,
    affine: bool = False,
    use_bias: bool = False,
    compute_dtype: Any = jnp.float32,
) -> Model:
    """VGG-16 as Rare Gems uses it: 14 prunable layers, 14,715,584 weights by default (200 classes: 14,812,864).

    Thirteen 3x3 convolutions, each with batch normalization and ReLU: two of 64 channels, two of 128, three of 256,
    three and three of 512; a max-pool behind each of these five stages, then one dense layer.

    Args:
      num_classes: number of logits.
      in_channels: channels of the images, [batch, height, width, in_channels] of 32 x 32 pixels or more.
      width: multiplies the channels; may be a fraction.
      affine: whether BatchNorm learns a scale and a bias (never prunable).
      use_bias: whether the convolutions and the dense layer have biases (never prunable).
      compute_dtype: dtype of activations and products; params, statistics and logits stay float32.

    Returns:
      A `Model`; params `layers/0/conv`, ..., `layers/12/conv`, `linear`, each with a `kernel`.

    Raises:
      ValueError: if a size is not positive; from `apply`, if the images are too small for the pools.

    Example:
      >>> params, state = jax.eval_shape(vgg16().init, jax.random.key(0))
      >>> sum(p.size for p in jax.tree.leaves(params))
      14715584

    Source: Simonyan & Zisserman, Very Deep Convolutional Networks, 2015, configuration D; Rare Gems (v1), Appendix A.
    Deviations: of the three dense layers one remains, as in all pruning papers. The map behind the last pool, one
    pixel for 32 x 32 images, is averaged; the Rare Gems code classifies each pixel, which yields 800 logits for the
    200 classes of 64 x 64 images (a bug). Some codes average where the fifth max-pool is, as `vgg19` does.
    """
    stages = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    return _vgg(stages, 5, num_classes, in_channels, width, affine, use_bias, compute_dtype)


def vgg19(
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    width: float = 1,
    affine: bool = False,
    use_bias: bool = False,
    compute_dtype: Any = jnp.float32,
) -> Model:
    """VGG-19 of the sanity-checking and jackpot papers: 17 prunable layers, 20,024,000 weights (100 classes:
    20,070,080).

    Sixteen convolutions, 2, 2, 4, 4 and 4 in a stage. Four max-pools, none behind the last stage: the map that is
    left (2 x 2 for 32 x 32 images, 4 x 4 for 64 x 64) is averaged. Images need 16 x 16 pixels.

    Args, Returns, Raises: as `vgg16`.

    Example:
      >>> params, _ = jax.eval_shape(vgg19(100).init, jax.random.key(0))
      >>> sum(p.size for p in jax.tree.leaves(params))
      20070080

    Source: Simonyan & Zisserman, 2015, configuration E; Su et al., Sanity-Checking Pruning Methods, 2020; Zhang et
    al., Lottery Jackpots, 2022. Deviations: one dense layer, and the mean, as in the code of both.
    """
    stages = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
    return _vgg(stages, 4, num_classes, in_channels, width, affine, use_bias, compute_dtype)


def _vgg(
    stages: Stages, pools: int, num_classes: int, in_channels: int, width: float, affine: bool, use_bias: bool,
    compute_dtype: Any,
) -> Model:  # fmt: skip
    check_sizes(num_classes=num_classes, in_channels=in_channels, width=width)
    return from_module(
        lambda: VGG(
            stages, pools, num_classes, in_channels=in_channels, width=width, affine=affine, use_bias=use_bias,
            compute_dtype=compute_dtype,
        )
    )  # fmt: skip
