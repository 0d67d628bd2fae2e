"""Inception-v3 (Szegedy et al. 2016), in torchvision's form and with its names of the branches."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rare_gems.models.fast_norm import exact
from rare_gems.models.layers import ConvBN, Linear, avg_pool, max_pool, to_compute_dtype
from rare_gems.models.model import Model, check_sizes, from_module, scaled

__all__ = ["InceptionA", "InceptionB", "InceptionC", "InceptionD", "InceptionE", "InceptionV3", "inception_v3"]

ROW, COLUMN = (1, 7), (7, 1)


class Maker(NamedTuple):
    """What all convolutions share: how their channels are multiplied, and whether their BatchNorm is affine."""

    width: float
    affine: bool

    def one(
        self, inputs: int, outputs: int, size: int | tuple[int, int] = 1, stride: int = 1, padding: int | None = None
    ) -> ConvBN:
        """A normalized convolution; with a stride it has no padding, else it keeps the size unless told otherwise."""
        padding = 0 if stride > 1 else padding
        outputs = scaled(outputs, self.width)  # the inputs are scaled already
        return ConvBN(inputs, outputs, size, stride, padding=padding, affine=self.affine, eps=1e-3)

    def chain(self, inputs: int, *layers: tuple[Any, ...]) -> list[ConvBN]:
        """One behind the other, each given by what `one` takes after the inputs."""
        convs = []
        for layer in layers:
            convs.append(self.one(inputs, *layer))
            inputs = _outputs(convs[-1])
        return convs


def _outputs(*convs: ConvBN) -> int:
    return sum(conv.conv.kernel.shape[-1] for conv in convs)


def _through(x: jax.Array, train: bool, *convs: ConvBN) -> jax.Array:
    for conv in convs:
        x = conv(x, train)
    return x


def _beside(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, -1)


class InceptionA(nnx.Module):
    """Branches 1x1, 5x5, twice 3x3, and a mean pool, side by side in this order (35 x 35 pixels at full size)."""

    def __init__(self, inputs: int, pooled: int, make: Maker):
        self.branch1x1 = make.one(inputs, 64)
        self.branch5x5_1, self.branch5x5_2 = make.chain(inputs, (48,), (64, 5))
        convs = make.chain(inputs, (64,), (96, 3), (96, 3))
        self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3 = convs
        self.branch_pool = make.one(inputs, pooled)
        self.outputs = _outputs(self.branch1x1, self.branch5x5_2, self.branch3x3dbl_3, self.branch_pool)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return _beside(
            self.branch1x1(x, train),
            _through(x, train, self.branch5x5_1, self.branch5x5_2),
            _through(x, train, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3),
            self.branch_pool(avg_pool(x, 3, 1, 1), train),
        )


class InceptionB(nnx.Module):
    """Halves the size: 3x3, twice 3x3, and a max-pool, all of stride 2 (to 17 x 17)."""

    def __init__(self, inputs: int, make: Maker):
        self.branch3x3 = make.one(inputs, 384, 3, 2)
        convs = make.chain(inputs, (64,), (96, 3), (96, 3, 2))
        self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3 = convs
        self.outputs = _outputs(self.branch3x3, self.branch3x3dbl_3) + inputs

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return _beside(
            self.branch3x3(x, train),
            _through(x, train, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3),
            max_pool(x, 3, 2),
        )


class InceptionC(nnx.Module):
    """Branches 1x1, 7x7, twice 7x7 (each as 1x7 and 7x1), and a mean pool (17 x 17)."""

    def __init__(self, inputs: int, inner: int, make: Maker):
        self.branch1x1 = make.one(inputs, 192)
        convs = make.chain(inputs, (inner,), (inner, ROW), (192, COLUMN))
        self.branch7x7_1, self.branch7x7_2, self.branch7x7_3 = convs
        convs = make.chain(inputs, (inner,), (inner, COLUMN), (inner, ROW), (inner, COLUMN), (192, ROW))
        self.branch7x7dbl_1, self.branch7x7dbl_2, self.branch7x7dbl_3 = convs[:3]
        self.branch7x7dbl_4, self.branch7x7dbl_5 = convs[3:]
        self.branch_pool = make.one(inputs, 192)
        self.outputs = _outputs(self.branch1x1, self.branch7x7_3, self.branch7x7dbl_5, self.branch_pool)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        double = self.branch7x7dbl_1, self.branch7x7dbl_2, self.branch7x7dbl_3, self.branch7x7dbl_4, self.branch7x7dbl_5
        return _beside(
            self.branch1x1(x, train),
            _through(x, train, self.branch7x7_1, self.branch7x7_2, self.branch7x7_3),
            _through(x, train, *double),
            self.branch_pool(avg_pool(x, 3, 1, 1), train),
        )


class InceptionD(nnx.Module):
    """Halves the size: 3x3, 7x7 (as 1x7 and 7x1) and 3x3, and a max-pool (to 8 x 8)."""

    def __init__(self, inputs: int, make: Maker):
        self.branch3x3_1, self.branch3x3_2 = make.chain(inputs, (192,), (320, 3, 2))
        convs = make.chain(inputs, (192,), (192, ROW), (192, COLUMN), (192, 3, 2))
        self.branch7x7x3_1, self.branch7x7x3_2, self.branch7x7x3_3, self.branch7x7x3_4 = convs
        self.outputs = _outputs(self.branch3x3_2, self.branch7x7x3_4) + inputs

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        convs = self.branch7x7x3_1, self.branch7x7x3_2, self.branch7x7x3_3, self.branch7x7x3_4
        return _beside(
            _through(x, train, self.branch3x3_1, self.branch3x3_2), _through(x, train, *convs), max_pool(x, 3, 2)
        )


class InceptionE(nnx.Module):
    """Branches 1x1; 3x3 and twice 3x3, the last of each as 1x3 beside 3x1; and a mean pool (8 x 8)."""

    def __init__(self, inputs: int, make: Maker):
        self.branch1x1 = make.one(inputs, 320)
        self.branch3x3_1 = make.one(inputs, 384)
        inner = _outputs(self.branch3x3_1)
        self.branch3x3_2a, self.branch3x3_2b = make.one(inner, 384, (1, 3)), make.one(inner, 384, (3, 1))
        self.branch3x3dbl_1, self.branch3x3dbl_2 = make.chain(inputs, (448,), (384, 3))
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = make.one(inner, 384, (1, 3)), make.one(inner, 384, (3, 1))
        self.branch_pool = make.one(inputs, 192)
        self.outputs = _outputs(self.branch1x1, self.branch_pool) + 4 * inner

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        alone = self.branch1x1(x, train)
        once = self.branch3x3_1(x, train)
        once = self.branch3x3_2a(once, train), self.branch3x3_2b(once, train)
        twice = _through(x, train, self.branch3x3dbl_1, self.branch3x3dbl_2)
        twice = self.branch3x3dbl_3a(twice, train), self.branch3x3dbl_3b(twice, train)
        return _beside(alone, *once, *twice, self.branch_pool(avg_pool(x, 3, 1, 1), train))


BLOCKS: tuple[tuple[Any, ...], ...] = (
    (InceptionA, 32), (InceptionA, 64), (InceptionA, 64), (InceptionB,),  # 5b 5c 5d 6a
    (InceptionC, 128), (InceptionC, 160), (InceptionC, 160), (InceptionC, 192),  # 6b 6c 6d 6e
    (InceptionD,), (InceptionE,), (InceptionE,),  # 7a 7b 7c
)  # fmt: skip


class InceptionV3(nnx.Module):
    """A stem of five convolutions and two max-pools, eleven blocks of branches, global mean, a dense layer."""

    def __init__(
        self, num_classes: int, *, in_channels: int, width: float, affine: bool, use_bias: bool, compute_dtype: Any
    ):
        self.compute_dtype = compute_dtype
        make = Maker(width, affine)
        stem = (32, 3, 2), (32, 3, 1, 0), (64, 3), (80,), (192, 3, 1, 0)  # 1a 2a 2b 3b 4a
        self.conv = nnx.List(make.chain(in_channels, *stem))
        blocks, outputs = [], _outputs(self.conv[-1])
        for kind, *more in BLOCKS:
            blocks.append(kind(outputs, *more, make))
            outputs = blocks[-1].outputs
        self.inception = nnx.List(blocks)
        self.linear = Linear(outputs, num_classes, use_bias=use_bias)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if min(x.shape[1:3]) < 75:
            raise ValueError(f"images: expected 75 x 75 pixels or more, got {x.shape[1:3]}")
        x = to_compute_dtype(x, self.compute_dtype)
        x = max_pool(_through(x, train, *self.conv[:3]), 3, 2)
        x = max_pool(_through(x, train, *self.conv[3:]), 3, 2)
        for block in self.inception:
            x = block(x, train)
        return exact(self.linear(x.mean((1, 2))))


def inception_v3(
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    width: float = 1,
    affine: bool = False,
    use_bias: bool = False,
    compute_dtype: Any = jnp.float32,
) -> Model:
    """Inception-v3: 95 prunable layers, 23,799,136 weights by default.

    Args:
      num_classes: number of logits.
      in_channels: channels of the images, [batch, height, width, in_channels]; 299 x 299 pixels, 75 x 75 or more.
      width: multiplies the channels; may be a fraction.
      affine: whether BatchNorm (eps 0.001) learns a scale and a bias (34,432 more, never prunable).
      use_bias: whether the dense layer has a bias (never prunable).
      compute_dtype: dtype of activations and products; params, statistics and logits stay float32.

    Returns:
      A `Model`; params `conv/0/conv` to `conv/4/conv` (torchvision's Conv2d_1a, 2a, 2b, 3b, 4a), `inception/0/...` to
      `inception/10/...` (Mixed_5b, 5c, 5d, 6a to 6e, 7a, 7b, 7c) with torchvision's branches, e.g.
      `inception/0/branch5x5_1/conv`, and `linear`; each has a `kernel`. The leaves of parallel branches
      are sorted by name; they are used in torchvision's order: 1x1, 5x5 or 7x7, twice 3x3 or 7x7, pool.

    Raises:
      ValueError: if a size is not positive; from `apply`, if the images are too small.

    Example:
      >>> params, state = jax.eval_shape(inception_v3().init, jax.random.key(0))
      >>> sum(p.size for p in jax.tree.leaves(params))
      23799136

    Source: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016, as in torchvision; Frankle
    et al., Stabilizing the Lottery Ticket Hypothesis, 2020, prunes it on ImageNet.
    Deviations: no auxiliary classifier (3,326,696 of torchvision's 27,161,264 parameters), no dropout (0.5), initial
    weights as in this library's other networks. Mean pools count padded zeros, as torchvision's do and the paper's
    code does not.
    """
    check_sizes(num_classes=num_classes, in_channels=in_channels, width=width)
    return from_module(
        lambda: InceptionV3(
            num_classes, in_channels=in_channels, width=width, affine=affine, use_bias=use_bias,
            compute_dtype=compute_dtype,
        )
    )  # fmt: skip
