"""What `prune` remembers in an optimizer's state, and how to read it there."""

from typing import Any, NamedTuple

import jax

from rare_gems import masks as mask_ops
from rare_gems.phase import Mask, Params, Scores, State

__all__ = ["SparseState", "found_states", "masks", "sparsity"]


class SparseState(NamedTuple):
    """All that `prune` remembers: `step` counts the updates (int32), `key` is key data (uint32), `mask` is bool in
    the structure of the params (None where a leaf is not prunable), `scores` (None where the method needs none) and
    `edits` belong to the method, `inner` is the state of the optimizer inside."""

    step: jax.Array
    key: jax.Array
    mask: Mask
    scores: Scores
    edits: State
    inner: Any


def masks(state: Any, params: Params | None = None) -> Mask:
    """The masks in an optimizer state, wherever in it they are: bool arrays in the structure of the params.

    Args:
      state: an optimizer state. params: makes the structure theirs, where a library has wrapped the leaves of the
        state in a type of its own, as `nnx.Optimizer` does, or left placeholders there, as `optax.masked` does: then
        `masks.apply(params, ...)` takes them.
    Raises:
      ValueError: unless exactly one `SparseState` is in it, and for params with other leaves than it was made for.
    """
    mask = _only(state).mask
    if params is None:
        return mask
    named = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(mask)}
    shaped = jax.tree_util.tree_map_with_path(lambda path, w: named.pop(_name(path), None), params)
    if named:
        raise ValueError(f"params: expected leaves named {', '.join(named)}, got none of them")
    return shaped


def _name(path: tuple) -> str:
    return mask_ops.path_name(path).removesuffix("/value")


def sparsity(state: Any) -> Any:
    """The fraction of the prunable weights that is removed; a float, or under tracing a float32 scalar.

    Raises:
      ValueError: as `masks`.
    """
    return mask_ops.sparsity(masks(state))


def found_states(state: Any) -> list[SparseState]:
    """All states of `prune` in an optimizer state, wherever in it they are.

    Example:
      >>> found_states((1, {"a": 2}))
      []
    """
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, SparseState))
    return [node for node in nodes if isinstance(node, SparseState)]


def _only(state: Any) -> SparseState:
    found = found_states(state)
    if len(found) != 1:
        more = "; give the part of the state that is meant" if found else ""
        raise ValueError(
            f"state: expected an optimizer state with one SparseState in it, as `prune` makes, got {len(found)}{more}"
        )
    return found[0]
