"""Masks with a structure that hardware can use: n of every m weights, whole blocks, and whole channels."""

import math

import jax
import jax.numpy as jnp

from rare_gems import leaves, masks
from rare_gems.phase import Mask, Scores
from rare_gems.pruners.parts.counts import check_whole

__all__ = ["keep_blocks", "keep_channels", "keep_n_of_m"]


def keep_n_of_m(scores: Scores, n: int, m: int, *, axis: int = -2) -> Mask:
    """The mask of the `n` highest scores in every group of `m` neighbours along an axis; ties go to the first.

    Args:
      scores: float arrays, None where not prunable.
      n, m: how many of how many, such as 2 and 4.
      axis: along which the groups lie; -2 is the input of a kernel (..., in, out), over which its products sum.
    Returns:
      bool arrays in the structure of `scores`; exactly n / m of each layer is kept.
    Raises:
      ValueError: unless 1 <= n <= m, and if an axis is missing or `m` does not divide it.
    Example:
      >>> keep_n_of_m([jnp.array([[1.0], [4.0], [3.0], [2.0]])], 2, 4)[0].T.tolist()
      [[False, True, True, False]]
    """
    check_whole(n=n, m=m)
    if not 1 <= n <= m:
        raise ValueError(f"n, m: expected 1 <= n <= m, got {n} and {m}")

    def leaf(path: tuple, s: jax.Array) -> jax.Array:
        size = s.shape[axis] if -s.ndim <= axis < s.ndim else 0
        if not size or size % m:
            raise ValueError(f"scores of {masks.path_name(path)}: expected an axis {axis} that {m} divides, "
                             f"got shape {s.shape}")  # fmt: skip
        last = jnp.moveaxis(s, axis, -1)
        groups = last.reshape(-1, m)
        # Rank within a group by (score descending, position); NaN ranks lowest.
        order = jnp.argsort(jnp.where(jnp.isnan(groups), -jnp.inf, groups), axis=1, descending=True, stable=True)
        kept = jnp.zeros(groups.shape, bool).at[jnp.arange(len(groups))[:, None], order[:, :n]].set(True)
        return jnp.moveaxis(kept.reshape(last.shape), -1, axis)

    return jax.tree_util.tree_map_with_path(leaf, scores)


def keep_blocks(scores: Scores, sparsity: float, block: tuple[int, int]) -> Mask:
    """The mask of whole blocks of the last two axes: in each layer those with the highest sums of scores.

    Blocks at the edge are smaller where the block does not divide the axis. A block as long as an axis removes whole
    rows or columns: `(-1, 1)` outputs of a dense layer, `(1, -1)` its inputs. Of a convolution each place of the window
    has blocks of its own; `keep_channels` removes whole channels.

    Args:
      scores: float arrays of two axes or more, None where not prunable.
      sparsity: the fraction of blocks removed in each layer, in [0, 1); the count is exact in blocks.
      block: rows and columns; -1 is the whole axis.
    Returns:
      bool arrays in the structure of `scores`.
    Raises:
      ValueError: for a block below 1 (other than -1), a leaf of less than two axes, and where a layer keeps nothing.
    Example:
      >>> keep_blocks([jnp.array([[1.0, 1.0, 9.0], [1.0, 1.0, 0.0]])], 0.5, (2, 2))[0].tolist()
      [[False, False, True], [False, False, True]]
    """
    if not isinstance(block, tuple) or len(block) != 2:
        raise ValueError(f"block: expected two sizes, rows and columns, got {block!r}")
    check_whole(-1, rows=block[0], columns=block[1])
    if 0 in block:
        raise ValueError(f"block: expected sizes of 1 or more, or -1, got {block}")

    def leaf(path: tuple, s: jax.Array) -> jax.Array:
        name = masks.path_name(path)
        if s.ndim < 2:
            raise ValueError(f"scores of {name}: expected two axes or more, got shape {s.shape}")
        rows, columns = (size if b == -1 else b for b, size in zip(block, s.shape[-2:], strict=True))
        pads = [(0, 0)] * (s.ndim - 2) + [(0, -s.shape[-2] % rows), (0, -s.shape[-1] % columns)]
        padded = jnp.pad(s, pads)
        high, wide = padded.shape[-2] // rows, padded.shape[-1] // columns
        padded = padded.astype(leaves.wide(s.dtype))  # sums of 16 bits round to ties, or overflow
        sums = padded.reshape(*s.shape[:-2], high, rows, wide, columns).sum((-3, -1))
        top = _top(sums, sparsity, f"blocks of {name}")
        whole = jnp.repeat(jnp.repeat(top, rows, -2), columns, -1)
        return whole[..., : s.shape[-2], : s.shape[-1]]

    return jax.tree_util.tree_map_with_path(leaf, scores)


def keep_channels(scores: Scores, sparsity: float, *, axis: int = -1) -> Mask:
    """The mask of whole channels: in each layer those with the highest sums of scores over all other axes.

    Args:
      scores: float arrays, None where not prunable.
      sparsity: the fraction of channels removed in each layer, in [0, 1); the count is exact in channels.
      axis: along which the channels lie: -1 outputs, -2 inputs of a kernel (..., in, out).
    Returns:
      bool arrays in the structure of `scores`.
    Raises:
      ValueError: where a leaf has no such axis, and where a layer keeps nothing.
    Example:
      >>> keep_channels([jnp.array([[1.0, 2.0, 9.0], [5.0, 5.0, 0.0]])], 0.6)[0].tolist()
      [[False, False, True], [False, False, True]]
    """

    def leaf(path: tuple, s: jax.Array) -> jax.Array:
        name = masks.path_name(path)
        if not -s.ndim <= axis < s.ndim:
            raise ValueError(f"scores of {name}: expected an axis {axis}, got shape {s.shape}")
        others = tuple(i for i in range(s.ndim) if i != axis % s.ndim)
        sums = s.astype(leaves.wide(s.dtype)).sum(others, keepdims=True)  # sums of 16 bits round to ties, or overflow
        return jnp.broadcast_to(_top(sums, sparsity, f"channels of {name}"), s.shape)

    return jax.tree_util.tree_map_with_path(leaf, scores)


def _top(sums: jax.Array, sparsity: float, what: str) -> jax.Array:
    """The mask of the highest of them. what: they are, for the error."""
    size = math.prod(sums.shape)
    kept = masks.count_for(size, sparsity)
    if kept < 1:
        raise ValueError(f"sparsity: {sparsity} keeps none of {size} {what}")
    return masks.keep_top(sums, kept)
