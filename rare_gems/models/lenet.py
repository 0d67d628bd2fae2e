"""LeNet-300-100, the fully connected network of the first lottery ticket papers (LeCun et al. 1998)."""

import jax
from flax import nnx

from rare_gems.models.layers import Linear
from rare_gems.models.model import Model, check_sizes, from_module

__all__ = ["LeNet", "lenet_300_100"]


class LeNet(nnx.Module):
    """Three dense layers with biases, of 300, 100 and `num_classes` units, ReLU between them."""

    def __init__(self, num_classes: int, input_size: int):
        self.linear1 = Linear(input_size, 300)
        self.linear2 = Linear(300, 100)
        self.linear3 = Linear(100, num_classes)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        x = x.reshape(x.shape[0], -1)
        x = jax.nn.relu(self.linear1(x))
        return self.linear3(jax.nn.relu(self.linear2(x)))


def lenet_300_100(num_classes: int = 10, input_size: int = 784) -> Model:
    """LeNet-300-100: 266,200 prunable weights for MNIST, and 410 biases that are not prunable.

    Args:
      num_classes: number of logits.
      input_size: values in one image; images of any shape [batch, ...] are flattened.

    Returns:
      A `Model` whose params are `linear1`, `linear2`, `linear3`, each with a `bias` (zero at first) and a
      `kernel`; its state is {}.

    Raises:
      ValueError: if a size is not positive.

    Example:
      >>> params, state = jax.eval_shape(lenet_300_100().init, jax.random.key(0))
      >>> sum(p["kernel"].size for p in params.values()), sum(p["bias"].size for p in params.values())
      (266200, 410)
    """
    check_sizes(num_classes=num_classes, input_size=input_size)
    return from_module(lambda: LeNet(num_classes, input_size))
