"""Conv-2, Conv-4 and Conv-6: small VGG-like networks without normalization (Frankle & Carbin 2019)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rare_gems.models.fast_norm import exact
from rare_gems.models.layers import Conv, Linear, max_pool, to_compute_dtype
from rare_gems.models.model import Model, check_sizes, from_module, scaled

__all__ = ["ConvNet", "conv2", "conv4", "conv6"]


class ConvNet(nnx.Module):
    """`pairs` times two 3x3 convolutions and a max-pool, flattened; dense layers of 256, 256 and `num_classes`."""

    def __init__(
        self,
        pairs: int,
        num_classes: int,
        *,
        in_channels: int = 3,
        image_size: int = 32,
        width: float = 1,
        use_bias: bool = False,
        compute_dtype: Any = jnp.float32,
    ):
        self.image_size, self.compute_dtype = image_size, compute_dtype
        outputs = [scaled(channels, width) for channels in (64, 128, 256)[:pairs] for _ in range(2)]
        convs = zip([in_channels, *outputs], outputs, strict=False)
        self.convs = nnx.List([Conv(i, o, use_bias=use_bias) for i, o in convs])
        units, flat = scaled(256, width), (image_size // 2**pairs) ** 2 * outputs[-1]
        denses = ((flat, units), (units, units), (units, num_classes))
        self.linear = nnx.List([Linear(i, o, use_bias=use_bias) for i, o in denses])

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        if x.shape[1:3] != (self.image_size, self.image_size):
            raise ValueError(f"images: expected {self.image_size} x {self.image_size} pixels, got {x.shape[1:3]}")
        x = to_compute_dtype(x, self.compute_dtype)
        for i, conv in enumerate(self.convs):
            x = jax.nn.relu(conv(x))
            x = max_pool(x) if i % 2 else x
        x = x.reshape(x.shape[0], -1)
        for i, linear in enumerate(self.linear):
            x = jax.nn.relu(linear(x)) if i < 2 else exact(linear(x))
        return x


def conv4(
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    image_size: int = 32,
    width: float = 1,
    use_bias: bool = False,
    compute_dtype: Any = jnp.float32,
) -> Model:
    """Conv-4: 7 prunable layers, 2,425,024 weights for CIFAR-10; 64, 64, pool, 128, 128, pool, 256, 256, classes.

    Args:
      num_classes: number of logits.
      in_channels: channels of the images, [batch, image_size, image_size, in_channels].
      image_size: their height and width in pixels, on which the first dense layer depends.
      width: multiplies the channels and the 256 units of the dense layers; may be a fraction.
      use_bias: whether all layers have biases (never prunable).
      compute_dtype: dtype of activations and products; params and logits stay float32.

    Returns:
      A `Model`; params `convs/0`, ..., `linear/0`, `linear/1`, `linear/2`, each with a `kernel`; its state is {}.
      The map is flattened by rows, columns, channels: row (i columns + j) channels + c of `linear/0/kernel` belongs
      to pixel (i, j) and channel c. PyTorch flattens by channels, rows, columns; its weights need permuting.

    Raises:
      ValueError: if a size is not positive, or the images too small for the pools or not of `image_size`.

    Example:
      >>> params, state = jax.eval_shape(conv4().init, jax.random.key(0))
      >>> sum(p.size for p in jax.tree.leaves(params)), state
      (2425024, {})

    Source: Frankle & Carbin, The Lottery Ticket Hypothesis, 2019, Figure 2; Ramanujan et al., What's Hidden in a
    Randomly Weighted Neural Network?, 2020. Deviations: none from the latter, which has no biases; the former has
    them (`use_bias=True`), and draws Glorot-normal weights.
    """
    return _conv_net(2, num_classes, in_channels, image_size, width, use_bias, compute_dtype)


def conv2(
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    image_size: int = 32,
    width: float = 1,
    use_bias: bool = False,
    compute_dtype: Any = jnp.float32,
) -> Model:
    """Conv-2: `conv4` with the first pair of convolutions only; 5 prunable layers, 4,300,992 weights for CIFAR-10.

    Args, Returns, Raises, Source: as `conv4`.

    Example:
      >>> params, _ = jax.eval_shape(conv2().init, jax.random.key(0))
      >>> params["linear"][0]["kernel"].shape
      (16384, 256)
    """
    return _conv_net(1, num_classes, in_channels, image_size, width, use_bias, compute_dtype)


def conv6(
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    image_size: int = 32,
    width: float = 1,
    use_bias: bool = False,
    compute_dtype: Any = jnp.float32,
) -> Model:
    """Conv-6: `conv4` with a third pair, of 256 channels; 9 prunable layers, 2,261,184 weights for CIFAR-10.

    Args, Returns, Raises, Source: as `conv4`.

    Example:
      >>> params, _ = jax.eval_shape(conv6().init, jax.random.key(0))
      >>> params["linear"][0]["kernel"].shape
      (4096, 256)
    """
    return _conv_net(3, num_classes, in_channels, image_size, width, use_bias, compute_dtype)


def _conv_net(
    pairs: int, num_classes: int, in_channels: int, image_size: int, width: float, use_bias: bool, compute_dtype: Any
) -> Model:
    check_sizes(num_classes=num_classes, in_channels=in_channels, width=width)
    if image_size < 2**pairs:
        raise ValueError(f"image_size: expected {2**pairs} or more for {pairs} pools, got {image_size}")
    return from_module(
        lambda: ConvNet(
            pairs, num_classes, in_channels=in_channels, image_size=image_size, width=width, use_bias=use_bias,
            compute_dtype=compute_dtype,
        )
    )  # fmt: skip
