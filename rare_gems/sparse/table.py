"""What a sparse training has kept, as a table for people."""

from typing import Any

import jax
import numpy as np

from rare_gems import masks as mask_ops
from rare_gems.phase import Params
from rare_gems.sparse.sparse_state import masks

__all__ = ["report"]


def report(params: Params, state: Any) -> str:
    """A table with a line for each layer: name, shape, weights kept and prunable, sparsity. On the host only.

    Args:
      params: as they are now. state: an optimizer state with one `SparseState` in it.
    Returns:
      lines of text, one a layer, then their sum; a line more where removed weights are not zero yet, or NaN.
    Raises:
      ValueError: as `sparse.masks`, and for params of another structure.
    Example:
      >>> import jax.numpy as jnp, optax
      >>> from rare_gems import sparse
      >>> params = {"kernel": jnp.array([[3.0, -1.0], [0.5, -2.0]])}
      >>> state = sparse.prune(optax.sgd(0.1), sparse.magnitude(0.5)).init(params)
      >>> print(report(params, state))
      layer   shape  kept  prunable  sparsity
      kernel  2x2       2         4   50.00 %
      all               2         4   50.00 %
      2 removed weights are not zero yet; the next update makes them so
    """
    mask = masks(state, params)
    rows = [("layer", "shape", "kept", "prunable", "sparsity")]
    counts = mask_ops.layer_counts(mask)
    shapes = {mask_ops.path_name(p): leaf.shape for p, leaf in jax.tree_util.tree_leaves_with_path(mask)}
    for name, (kept, n) in counts.items():
        rows.append((name, "x".join(map(str, shapes[name])), *_numbers(kept, n)))
    rows.append(("all", "", *_numbers(*(sum(c[i] for c in counts.values()) for i in (0, 1)))))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = ["  ".join([*map(str.ljust, row[:2], widths[:2]), *map(str.rjust, row[2:], widths[2:])]) for row in rows]
    removed = [_removed(m, w) for m, w in zip(jax.tree.leaves(mask), _prunable(params, mask), strict=True)]
    wrong = sum(int(np.count_nonzero(np.isfinite(w) & (w != 0))) for w in removed)
    lost = sum(int(np.count_nonzero(~np.isfinite(w))) for w in removed)
    if wrong:
        lines.append(f"{wrong} removed weights are not zero yet; the next update makes them so")
    if lost:
        lines.append(f"{lost} removed weights are NaN or infinite, which no update undoes")
    return "\n".join(lines)


def _removed(mask: Any, weights: Any) -> np.ndarray:
    if np.shape(mask) != np.shape(weights):
        raise ValueError(f"params: expected a leaf of shape {np.shape(mask)}, got {np.shape(weights)}")
    return np.asarray(weights)[~np.asarray(mask)].astype(np.float64)


def _numbers(kept: int, n: int) -> tuple[str, str, str]:
    return f"{kept:,}", f"{n:,}", f"{100 * (1 - kept / n) if n else 0:.2f} %"


def _prunable(params: Params, mask: Any) -> list:
    return jax.tree.leaves(mask_ops.map_kept(lambda w: w, params, mask))
