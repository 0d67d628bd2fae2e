"""The layers the networks share: convolution, dense layer, batch normalization, in torch's conventions.

Kernels are made as zeros; `model.from_module` draws them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rare_gems.models.fast_conv import conv2d
from rare_gems.models.fast_norm import batch_normalize, normalize

__all__ = ["BatchNorm", "Conv", "ConvBN", "Linear", "avg_pool", "max_pool", "option_a_shortcut", "to_compute_dtype"]


class Conv(nnx.Module):
    """A convolution, by default without bias; NHWC, kernel HWIO, zero padding of size // 2 on all four sides.

    The padding is explicit because torch's stride-2 3x3 padding of 1 is not "SAME" (which pads 0 and 1). With
    `groups`, each group of inputs has outputs of its own; a bias starts at zero.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int] = 3,
        stride: int = 1,
        *,
        padding: int | tuple[int, int] | None = None,
        groups: int = 1,
        use_bias: bool = False,
    ):
        rows, columns = (size, size) if isinstance(size, int) else size
        self.stride, self.padding = stride, (rows // 2, columns // 2) if padding is None else padding
        self.kernel = nnx.Param(jnp.zeros((rows, columns, inputs // groups, outputs), jnp.float32))
        self.use_bias = use_bias
        if use_bias:
            self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = conv2d(x, self.kernel[...].astype(x.dtype), self.stride, self.padding)
        return y + self.bias[...].astype(x.dtype)[None, None, None] if self.use_bias else y


class Linear(nnx.Module):
    """A dense layer x W + b; the bias starts at zero and is left out on request."""

    def __init__(self, inputs: int, outputs: int, *, use_bias: bool = True):
        self.kernel = nnx.Param(jnp.zeros((inputs, outputs), jnp.float32))
        self.use_bias = use_bias
        if use_bias:
            self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...].astype(x.dtype)
        return y + self.bias[...].astype(x.dtype)[None] if self.use_bias else y


class BatchNorm(nnx.Module):
    """Batch normalization (x - mean) / sqrt(var + eps) over all axes but the last, by default not affine.

    The batch is normalized by its biased variance; the running statistics move by
    `running = momentum * running + (1 - momentum) * batch` with the unbiased variance, as torch's do (whose
    momentum is our 1 - momentum; flax.nnx.BatchNorm keeps the biased variance). Statistics are float32. It
    can also add a shortcut and then clip at zero, which saves passes over memory.
    """

    def __init__(self, features: int, *, affine: bool = False, eps: float = 1e-5, momentum: float = 0.9):
        self.affine, self.eps, self.momentum = affine, eps, momentum
        self.mean = nnx.BatchStat(jnp.zeros(features, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(features, jnp.float32))
        if affine:
            self.scale = nnx.Param(jnp.ones(features, jnp.float32))
            self.bias = nnx.Param(jnp.zeros(features, jnp.float32))

    def __call__(
        self, x: jax.Array, train: bool, *, shortcut: jax.Array | None = None, relu: bool = False
    ) -> jax.Array:
        scale, bias = (self.scale[...], self.bias[...]) if self.affine else (None, None)
        if not train:
            return normalize(x, shortcut, self.mean[...], self.var[...], scale, bias, self.eps, relu)
        y, mean, var = batch_normalize(x, shortcut, scale, bias, self.eps, relu)
        count = x.size // x.shape[-1]
        unbiased = var * (count / max(count - 1, 1))
        self.mean[...] = self.momentum * self.mean[...] + (1 - self.momentum) * mean
        self.var[...] = self.momentum * self.var[...] + (1 - self.momentum) * unbiased
        return y


class ConvBN(nnx.Module):
    """relu(bn(conv(x))): a convolution (see `Conv`), normalized."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int] = 3,
        stride: int = 1,
        *,
        padding: int | None = None,
        affine: bool = False,
        use_bias: bool = False,
        eps: float = 1e-5,
    ):
        self.bn = BatchNorm(outputs, affine=affine, eps=eps)
        self.conv = Conv(inputs, outputs, size, stride, padding=padding, use_bias=use_bias)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return self.bn(self.conv(x), train, relu=True)


def option_a_shortcut(x: jax.Array, outputs: int, stride: int) -> jax.Array:
    """The parameter-free shortcut of He et al. (2016, section 3.3, option A).

    Args:
      x: [batch, height, width, inputs].
      outputs: number of channels to reach; `outputs - inputs` zero channels are added, half on each side.
      stride: keeps each stride-th row and column, from the first.

    Returns:
      [batch, ceil(height / stride), ceil(width / stride), outputs].

    Example:
      >>> option_a_shortcut(jnp.ones((1, 4, 4, 2)), 4, 2)[0, 0, 0].tolist()
      [0.0, 1.0, 1.0, 0.0]
    """
    extra = outputs - x.shape[-1]
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))


def max_pool(
    x: jax.Array, size: int = 2, stride: int | None = None, padding: int = 0, *, ceil: bool = False
) -> jax.Array:
    """The largest value of each size x size window; `stride` is `size` unless given, -inf is padded.

    Where a window of 2x2 has its largest value twice, the two share the gradient (torch gives it to the first).

    Args:
      x: [batch, height, width, features].
      ceil: also a last window that is cut off (torch's ceil_mode).

    Returns:
      [batch, (height + 2 padding - size) // stride + 1, the same of the width, features]; `ceil` rounds up.

    Example:
      >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]
    """
    stride = stride or size
    if size == stride == 2 and not padding and not ceil:  # its gradient takes a fifth of the time
        height, width = (n // 2 * 2 for n in x.shape[1:3])
        rows = jnp.maximum(x[:, 0:height:2, :width], x[:, 1:height:2, :width])
        return jnp.maximum(rows[:, :, 0::2], rows[:, :, 1::2])
    over = [(padding, _pad_after(n, size, stride, padding) if ceil else padding) for n in x.shape[1:3]]
    return nnx.max_pool(x, (size, size), (stride, stride), over)


def _pad_after(n: int, size: int, stride: int, padding: int) -> int:
    """What fills a last window that is cut off; none begins in the padding behind, as in torch."""
    over = -(n + 2 * padding - size) % stride
    last = n + 2 * padding + over - size  # where it begins, the padding before counted
    return padding + over - (stride if last >= n + padding else 0)


def avg_pool(x: jax.Array, size: int = 2, stride: int | None = None, padding: int = 0) -> jax.Array:
    """The mean of each size x size window; `stride` is `size` unless given; padded zeros count, as in torch.

    Example:
      >>> avg_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
      [[2.5, 4.5], [10.5, 12.5]]
    """
    stride, pads = stride or size, [(padding, padding)] * 2
    return nnx.pool(x, 0.0, jax.lax.add, (size, size), (stride, stride), pads) / size**2


def to_compute_dtype(x: jax.Array, dtype: Any) -> jax.Array:
    """x in the dtype that a network computes in; float64 stays, since SynFlow asks for it."""
    return x if x.dtype == jnp.float64 else x.astype(dtype)
