"""The mask of the highest scores, once what is asked is seen to be possible. Needs JAX and NumPy only."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from rare_gems import selection
from rare_gems.leaf_names import path_name
from rare_gems.leaves import as_jax
from rare_gems.mask_counts import check_bool, check_integer, is_concrete, num_kept, num_prunable
from rare_gems.structures import check_structure

__all__ = ["keep_top"]

PyTree = Any


def keep_top(
    scores: PyTree,
    num_kept: Any,
    scope: Literal["global", "layer"] = "global",
    within: PyTree | None = None,
    at_least: Any = None,
) -> PyTree:
    """The mask of exactly `num_kept` highest scores; ties are broken by leaf order, then flat index.

    With `at_least` each layer first keeps that many of its own highest, then the highest of the rest of all layers
    fill the count.

    Args:
      scores: float arrays, None where not prunable. NaN ranks lowest under tracing. NumPy float64 is refused where
        JAX's 64-bit mode is off.
      num_kept: Python or traced integer; with scope "layer" the number kept in each layer, or a tree of
        integers that matches `scores`.
      scope: compare all scores with each other ("global"), or within each leaf ("layer").
      within: bool, the candidates (default: all). Under tracing, a `num_kept` above the number of candidates
        keeps them all.
      at_least: with scope "global", how many each layer keeps at least: an integer, or a tree of them that matches
        `scores`, Python or traced. A layer with fewer candidates keeps them all. Where floors exceed `num_kept` and
        are traced, the count holds: the highest scores of what the floors would keep are kept.
    Returns:
      a mask in the structure of `scores`.
    Raises:
      ValueError: if a score is not float, a count is not an integer, or the structures differ; outside tracing
        also where a score is NaN, a count is not between 0 and the candidates, or floors exceed the count.
    Example:
      >>> keep_top({"a": jnp.array([0.1, 0.3]), "b": jnp.array([0.3, 0.2])}, 1)
      {'a': Array([False,  True], dtype=bool), 'b': Array([False, False], dtype=bool)}
      >>> keep_top({"a": jnp.array([0.9, 0.8]), "b": jnp.array([0.3, 0.2])}, 2, at_least=1)
      {'a': Array([ True, False], dtype=bool), 'b': Array([ True, False], dtype=bool)}
    """
    if scope not in ("global", "layer"):
        raise ValueError(f"scope: expected 'global' or 'layer', got {scope!r}")
    counts = num_kept
    if scope == "layer" and jax.tree.structure(num_kept) == jax.tree.structure(0):
        counts = jax.tree.map(lambda _: num_kept, scores)
    if within is not None:
        check_structure("within", within, scores, "scores")
    for path, leaf in jax.tree_util.tree_leaves_with_path(within):
        check_bool("within", path, leaf)
    scores = jax.tree_util.tree_map_with_path(_as_scores, scores)
    _check_counts(scores, counts, within, scope)
    if at_least is not None:
        floors = _floors(scores, counts, within, at_least, scope)
        return selection.top_mask_with_floors(scores, counts, floors, within)
    if scope == "global":
        return selection.top_mask(scores, counts, within)
    return selection.top_mask_per_leaf(scores, counts, within)


def _as_scores(path: tuple, leaf: Any) -> jax.Array:
    name = f"scores of {path_name(path)}"
    is_array = hasattr(leaf, "dtype") and not isinstance(leaf, jax.ShapeDtypeStruct)
    if not is_array and not isinstance(leaf, bool | int | float | complex):
        raise ValueError(f"{name}: expected a float array, got {leaf!r}")
    dtype = leaf.dtype if is_array else type(leaf)  # NumPy's own, not what JAX makes of it
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name}: expected a floating dtype, got {leaf.dtype if is_array else type(leaf).__name__}")
    scores = as_jax(name, leaf)
    if is_concrete(scores):
        with jax.ensure_compile_time_eval():
            has_nan = bool(selection.has_nan(scores))
        if has_nan:
            raise ValueError(f"{name}: expected numbers, got NaN")
    return scores


def _check_counts(scores: PyTree, counts: Any, within: PyTree | None, scope: str) -> None:
    if scope == "layer":
        check_structure("num_kept", counts, scores, "scores")
    for path, count in [((), counts)] if scope == "global" else jax.tree_util.tree_leaves_with_path(counts):
        check_integer(f"num_kept of {path_name(path)}" if path else "num_kept", count)
    if not is_concrete(counts, within):
        return
    candidates = scores if within is None else within
    size = num_prunable if within is None else num_kept
    named = [("num_kept", counts, size(candidates))]
    if scope == "layer":
        layers = zip(jax.tree_util.tree_leaves_with_path(candidates), jax.tree.leaves(counts), strict=True)
        named = [(f"num_kept of {path_name(path)}", count, size(leaf)) for (path, leaf), count in layers]
    for name, count, most in named:
        if not 0 <= int(count) <= most:
            raise ValueError(f"{name}: expected an integer from 0 to {most}, got {count}")


def _floors(scores: PyTree, count: Any, within: PyTree | None, at_least: Any, scope: str) -> PyTree:
    """`at_least` as a tree like `scores`, checked as far as values are known."""
    if scope != "global":
        raise ValueError(f"at_least: expected the scope 'global', whose layers it holds up, got {scope!r}")
    if jax.tree.structure(at_least) == jax.tree.structure(0):
        at_least = jax.tree.map(lambda _: at_least, scores)
    check_structure("at_least", at_least, scores, "scores")
    for path, floor in jax.tree_util.tree_leaves_with_path(at_least):
        check_integer(f"at_least of {path_name(path)}", floor)
        if is_concrete(floor) and int(floor) < 0:
            raise ValueError(f"at_least of {path_name(path)}: expected an integer of 0 or more, got {floor}")
    if is_concrete(count, at_least, within):
        size, candidates = (num_prunable, scores) if within is None else (num_kept, within)
        pairs = zip(jax.tree.leaves(at_least), jax.tree.leaves(candidates), strict=True)
        total = sum(min(int(floor), size(leaf)) for floor, leaf in pairs)
        if total > int(count):
            raise ValueError(
                f"at_least: expected floors that sum to at most the {int(count)} weights kept, got {total}"
            )
    return at_least
