"""The layout of PyTorch's arrays, and ours."""

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["our_shape", "to_ours", "torch_shape"]


def torch_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape in torch of an array of ours: HWIO becomes OIHW, (inputs, outputs) the other way round.

    Example:
      >>> torch_shape((3, 3, 16, 32)), torch_shape((64, 10)), torch_shape((10,))
      ((32, 16, 3, 3), (10, 64), (10,))
    """
    return (*reversed(shape[-2:]), *shape[:-2])


def our_shape(shape: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
    """The shape that a tensor of torch gets in our layout, where a place of shape `wanted` is.

    Example:
      >>> our_shape((32, 16, 3, 3), (3, 3, 16, 32)), our_shape((10, 64, 1, 1), (64, 10))
      ((3, 3, 16, 32), (64, 10))
    """
    if len(shape) == 4 and len(wanted) == 2 and tuple(shape[2:]) == (1, 1):
        shape = shape[:2]
    return (*shape[2:], *shape[1::-1]) if len(shape) in (2, 4) else tuple(shape)


def to_ours(tensor: np.ndarray, to: str, ours: Mapping[str, Sequence[int]], kernels: Sequence[str]) -> np.ndarray:
    """A tensor of torch in our layout.

    Args:
      tensor: whose `our_shape` is that of its place. to: the path of that. ours: the shapes of all paths, and kernels
        the paths of all kernels, in leaf order.

    Example:
      >>> to_ours(np.ones((10, 64, 1, 1)), "linear/kernel", {"linear/kernel": (64, 10)}, ["linear/kernel"]).shape
      (64, 10)
    """
    shape = ours[to]
    if tensor.ndim in (2, 4):
        tensor = np.moveaxis(tensor, (1, 0), (-2, -1)).reshape(shape)
    convolutions = [name for name in kernels if len(ours[name]) == 4]
    if to in ("linear/0/kernel", "linear1/kernel") and convolutions:
        # Its inputs are flattened maps: [channels, height * width] in torch, the other way round here.
        channels = ours[convolutions[-1]][-1]
        tensor = tensor.reshape(channels, -1, shape[-1]).swapaxes(0, 1).reshape(shape)
    return tensor
