"""LeNet-300-100 and LeNet-5, the networks for MNIST of the first lottery ticket papers (after LeCun et al. 1998)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rare_gems.models.fast_norm import exact
from rare_gems.models.layers import Conv, Linear, max_pool, to_compute_dtype
from rare_gems.models.model import Model, check_sizes, from_module

__all__ = ["LeNet", "LeNet5", "lenet_5", "lenet_300_100"]


class LeNet(nnx.Module):
    """Three dense layers of 300, 100 and `num_classes` units, ReLU between them."""

    def __init__(self, num_classes: int, input_size: int, *, use_bias: bool = True, compute_dtype: Any = jnp.float32):
        self.compute_dtype = compute_dtype
        self.linear1 = Linear(input_size, 300, use_bias=use_bias)
        self.linear2 = Linear(300, 100, use_bias=use_bias)
        self.linear3 = Linear(100, num_classes, use_bias=use_bias)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        x = to_compute_dtype(x.reshape(x.shape[0], -1), self.compute_dtype)
        x = jax.nn.relu(self.linear1(x))
        return exact(self.linear3(jax.nn.relu(self.linear2(x))))


class LeNet5(nnx.Module):
    """Two 5x5 convolutions without padding, 20 and 50 channels, each with a max-pool; dense 500, ReLU, dense."""

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 1,
        image_size: int = 28,
        use_bias: bool = True,
        compute_dtype: Any = jnp.float32,
    ):
        self.image_size, self.compute_dtype = image_size, compute_dtype
        side = _side(image_size)
        self.conv1 = Conv(in_channels, 20, 5, padding=0, use_bias=use_bias)
        self.conv2 = Conv(20, 50, 5, padding=0, use_bias=use_bias)
        self.linear1 = Linear(side * side * 50, 500, use_bias=use_bias)
        self.linear2 = Linear(500, num_classes, use_bias=use_bias)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        if x.shape[1:3] != (self.image_size, self.image_size):
            raise ValueError(f"images: expected {self.image_size} x {self.image_size} pixels, got {x.shape[1:3]}")
        x = max_pool(self.conv1(to_compute_dtype(x, self.compute_dtype)))
        x = max_pool(self.conv2(x))
        x = jax.nn.relu(self.linear1(x.reshape(x.shape[0], -1)))
        return exact(self.linear2(x))


def lenet_300_100(
    num_classes: int = 10, input_size: int = 784, *, use_bias: bool = True, compute_dtype: Any = jnp.float32
) -> Model:
    """LeNet-300-100: 266,200 prunable weights for MNIST, and 410 biases that are not prunable.

    Args:
      num_classes: number of logits.
      input_size: values in one image; images of any shape [batch, ...] are flattened.
      use_bias: whether the layers have biases (never prunable).
      compute_dtype: dtype of activations and products; params and logits stay float32.

    Returns:
      A `Model` whose params are `linear1`, `linear2`, `linear3`, each with a `bias` (zero at first) and a
      `kernel`; its state is {}.

    Raises:
      ValueError: if a size is not positive.

    Example:
      >>> params, state = jax.eval_shape(lenet_300_100().init, jax.random.key(0))
      >>> sum(p["kernel"].size for p in params.values()), sum(p["bias"].size for p in params.values())
      (266200, 410)

    Source: LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998, section III.C.4; with ReLU as
    in Frankle & Carbin, The Lottery Ticket Hypothesis, 2019, Figure 2.
    """
    check_sizes(num_classes=num_classes, input_size=input_size)
    return from_module(lambda: LeNet(num_classes, input_size, use_bias=use_bias, compute_dtype=compute_dtype))


def lenet_5(
    num_classes: int = 10,
    *,
    in_channels: int = 1,
    image_size: int = 28,
    use_bias: bool = True,
    compute_dtype: Any = jnp.float32,
) -> Model:
    """LeNet-5 as Caffe and the pruning papers have it: 4 prunable layers, 430,500 weights for MNIST, 580 biases.

    Of the networks of this name it is the one with 20 and 50 channels and 500 units (500 + 25,000 + 400,000 + 5,000
    weights), not LeCun's original of 6 and 16 channels and 120 and 84 units. Its only ReLU is behind the first dense
    layer; the convolutions have none but their max-pools.

    Args:
      num_classes: number of logits.
      in_channels: channels of the images, [batch, image_size, image_size, in_channels].
      image_size: their height and width in pixels, 16 or more.
      use_bias: whether all layers have biases (never prunable).
      compute_dtype: dtype of activations and products; params and logits stay float32.

    Returns:
      A `Model`; params `conv1`, `conv2`, `linear1`, `linear2`, each with a `bias` (zero at first) and a `kernel`;
      its state is {}. The map is flattened by rows, columns, channels (see `conv_net.conv4`).

    Raises:
      ValueError: if a size is not positive, or the images too small for the pools or not of `image_size`.

    Example:
      >>> params, state = jax.eval_shape(lenet_5().init, jax.random.key(0))
      >>> [p["kernel"].size for p in params.values()]
      [500, 25000, 400000, 5000]

    Source: the `lenet` example of Caffe (Jia et al. 2014), after LeCun et al., 1998, section II.B; Han et al., Learning
    both Weights and Connections, 2015, section 4.1. Deviations: none known; images whose size does not suit the
    pools lose the last row and column, where Caffe rounds up.
    """
    check_sizes(num_classes=num_classes, in_channels=in_channels)
    if image_size < 16:
        raise ValueError(f"image_size: expected 16 or more for two 5x5 convolutions and pools, got {image_size}")
    return from_module(
        lambda: LeNet5(
            num_classes, in_channels=in_channels, image_size=image_size, use_bias=use_bias, compute_dtype=compute_dtype
        )
    )


def _side(image_size: int) -> int:
    return ((image_size - 4) // 2 - 4) // 2
