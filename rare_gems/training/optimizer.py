"""What a phase's optimizer is given, what of its state belongs to dead weights, and which optimizers are refused."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rare_gems.masks import path_name
from rare_gems.phase import Mask, PyTree
from rare_gems.training.hyperparams import Variant

__all__ = ["check", "hold", "init", "sum_of", "update"]


def init(optimizer: Any, trained: PyTree) -> Any:
    """The optimizer's first state, numbers as arrays.

    Args:
      optimizer: any `optax.GradientTransformation`, or `optax.MultiSteps`. trained: params or scores.
    """
    with jax.numpy_dtype_promotion("standard"):  # some optimizers mix integer counts and floats
        return jax.tree.map(jnp.asarray, _transformation(optimizer).init(trained))


def update(
    optimizer: Any, grads: PyTree, state: Any, trained: PyTree, value: jax.Array, value_fn: Callable[[PyTree], Any]
) -> tuple[PyTree, Any]:
    """The updates and the next state, whose leaves keep their dtypes.

    An optimizer that takes more than gradients gets the loss of this step and its gradient (`value`, `grad`: plateau
    rules, Polyak steps, MoMo), and the loss as a function of what is trained on this step's batch (`value_fn`: line
    searches).

    Args:
      grads, trained: of one structure. value: the loss at `trained`. value_fn: trained -> loss, traced if it is used.
    Example:
      >>> optimizer = optax.chain(optax.sgd(1.0), optax.contrib.reduce_on_plateau(patience=1, factor=0.5))
      >>> value, w = jnp.float32(1), jnp.ones(2)
      >>> updates, state = update(optimizer, w, init(optimizer, w), w, value, lambda w: value)
      >>> updates.tolist(), float(state[1].best_value)
      ([-1.0, -1.0], 1.0)
    """
    more = {"value": value, "grad": grads, "value_fn": value_fn}
    with jax.numpy_dtype_promotion("standard"):
        try:
            updates, new = _transformation(optimizer).update(grads, state, trained, **more)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            updates, new = _transformation(optimizer).update(grads, state, trained)  # SAM takes none of them
    return updates, jax.tree.map(_in_dtype_of, new, state)


def hold(state: Any, trained: PyTree, mask: Mask) -> Any:
    """The optimizer's state with zero for what belongs to dead weights, in any optax chain.

    That are the slots which lie in a tree like `trained` and have the shape of their weight: momentum, moments,
    accumulated gradients, copies of the weights. What has another shape is left: placeholders (`optax.masked`), rows
    and columns (Adafactor, SM3), low ranks (GaLore), histories (L-BFGS, whose products must fit them).

    Args:
      state: as from `init`. trained: params or scores. mask: bool, None where a leaf is not prunable.
    Example:
      >>> w, mask = {"w": jnp.ones(3)}, {"w": jnp.array([True, False, True])}
      >>> hold(optax.TraceState({"w": jnp.ones(3)}), w, mask).trace["w"].tolist()
      [1.0, 0.0, 1.0]
    """
    structure = jax.tree.structure(trained)
    held = structure.flatten_up_to(mask)

    def is_like_trained(node: Any) -> bool:
        return jax.tree.structure(node, is_leaf=_is_placeholder) == structure

    def is_leaf(node: Any) -> bool:
        return isinstance(node, Variant) or is_like_trained(node)

    def held_tree(node: Any) -> Any:
        if isinstance(node, Variant):  # its numbers are not of weights, though they may have the shape of one
            return node._replace(inner=jax.tree.map(held_tree, node.inner, is_leaf=is_leaf))
        if not is_like_trained(node):
            return node
        slots = jax.tree.leaves(node, is_leaf=_is_placeholder)
        return structure.unflatten([_held(slot, m) for slot, m in zip(slots, held, strict=True)])

    return jax.tree.map(held_tree, state, is_leaf=is_leaf)


def _held(slot: Any, mask: Any) -> Any:
    fits = mask is not None and mask.shape == getattr(slot, "shape", None)
    return jnp.where(mask, slot, jnp.zeros_like(slot)) if fits else slot


def sum_of(tree: PyTree, start: jax.Array) -> jax.Array:
    """`start` plus all numbers of the tree: stands for the loss where only shapes or programs are looked at."""
    return sum((jnp.sum(leaf).astype(start.dtype) for leaf in jax.tree.leaves(tree)), start)


def check(optimizer: Any, trained: PyTree, name: str) -> None:
    """Raises ValueError if the optimizer cannot train these leaves in a phase; nothing is computed.

    Args:
      trained: params or scores, arrays or `ShapeDtypeStruct`s. name: the phase's.
    Raises:
      ValueError: if it needs what a phase does not give, with what it says itself; or if its state or its updates
        change in structure, shape or dtype kind.
    Example:
      >>> check(optax.sgd(0.1), [jnp.ones(3)], "search")
      >>> check(optax.contrib.sophia(0.1), [jnp.ones(3)], "search")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ValueError: phase 'search': optimizer: expected ... obj_fn must be provided to hutchinson update function.
    """
    wanted = "expected one that needs gradients, params, value, grad and value_fn at most, and trains a tree of arrays"

    def step(trained: PyTree, value: jax.Array) -> tuple[Any, Any, PyTree]:
        state = init(optimizer, trained)
        updates, after = update(optimizer, trained, state, trained, value, lambda tree: sum_of(tree, value))
        return state, after, optax.apply_updates(trained, updates)

    try:
        before, after, moved = jax.eval_shape(step, trained, jax.ShapeDtypeStruct((), jnp.float32))
    except Exception as error:
        said = " ".join(str(error).split())
        raise ValueError(f"phase {name!r}: optimizer: {wanted}; got {type(error).__name__}: {said}") from error
    for what, old, new in (("its state", before, after), ("what it trains", trained, moved)):
        changed = _changed(old, new)
        if changed:
            raise ValueError(f"phase {name!r}: optimizer: expected {what} to keep its shapes, got {changed}")


def _changed(old: Any, new: Any) -> str:
    if jax.tree.structure(old) != jax.tree.structure(new):
        return f"{jax.tree.structure(new)} after {jax.tree.structure(old)}"
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(old), jax.tree.leaves(new), strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{b.dtype}{list(b.shape)} after {a.dtype}{list(a.shape)} in {path_name(path)}"
    return ""


def _transformation(optimizer: Any) -> Any:
    if isinstance(optimizer, optax.MultiSteps):  # its own update passes nothing on to those who cannot take it
        optimizer = optimizer.gradient_transformation()
    return optax.with_extra_args_support(optimizer)


def _in_dtype_of(new: Any, old: Any) -> jax.Array:
    return new if jnp.issubdtype(old.dtype, jax.dtypes.extended) else jnp.asarray(new).astype(old.dtype)


def _is_placeholder(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
