"""Wraps an optax optimizer, so that masks live in its state and removed weights stay at zero."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rare_gems import masks as mask_ops
from rare_gems.leaves import is_key, wide
from rare_gems.phase import Context, Key, Mask, Params, Scores, Ticket, Transform
from rare_gems.sparse.boxes import boxed, unboxed
from rare_gems.sparse.inner import checked, shown
from rare_gems.sparse.inner import init as init_inner
from rare_gems.sparse.inner import update as update_inner
from rare_gems.sparse.methods import Method, fixed
from rare_gems.sparse.plan import Plan, plan_of
from rare_gems.sparse.sparse_state import SparseState, found_states
from rare_gems.sparse.stacked import Axes, Stacked, axes_of, join, split
from rare_gems.sparse.updates import check_alike, difference, shaped_like, to_zero
from rare_gems.training.optimizer import hold

__all__ = ["prune"]


def prune(
    optimizer: optax.GradientTransformation | optax.MultiSteps,
    method: Method | Transform | Mask,
    *,
    prunable: Callable[[tuple, Any], bool] | None = None,
    stacked: Stacked | None = None,
    key: Key | int = 0,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that trains a sparse network: what it removes is exactly zero after every `optax.apply_updates`.

      u = optimizer(g * q);  w' = (w + u) * q;  the method edits (w', q) with the dense gradient g;  update = w' - w

    Take the gradient at the params as they are: removed weights are zero there, so g is dL/dw at the masked weights,
    also for weights that are removed. Nothing else in a training loop changes. This must be the outermost
    transformation: what a later one does to its updates (such as `optax.scale`) would undo the zeros. It may lie
    inside `optax.MultiSteps`, `optax.masked` and `optax.multi_transform`.

    Args:
      optimizer: any optax optimizer; extra arguments of `update` reach it. `value`, if given, is the loss that a
        method may look at.
      method: one of `rare_gems.sparse` (`magnitude`, `rigl`, ...), a `Transform` that is applied after every step to
        a network that starts whole, or a mask (bool arrays like the params) that stays as it is.
      prunable: (key path, leaf) -> bool; by default the rule of `masks.ones`, as `masks.report` tells it.
      stacked: (key path, leaf) -> True where the first axis counts layers (as `nn.scan` makes them by default), or
        the axis that does (1: MaxText). Each slice is then a layer of its own to the method. By default a leaf is one.
      key: for methods that draw; a typed key, also a traced one (a key for each run under `vmap`), or a seed.
    Returns:
      a transformation whose state is a `SparseState`.
    Raises:
      ValueError: for what is no optimizer; in `init` as `masks.ones` and the method do, for a mask of another
        structure, and where the optimizer is pruned already or cannot train these params (`optax.lookahead`, which
        wants pairs); in `update` without params, or without the extra arguments that the optimizer needs.

    Weights that are NaN or infinite when they are removed stay so, since an update is added to them. Where such
    gradients can come, refuse them, or put `optax.apply_if_finite` around this: within it guards the weights alone, and
    methods that score by gradients would rank NaN.
    Removed weights that are not zero at the start become zero at the first update, whose gradient has then seen them.
    To start from zero: `params = masks.apply(params, sparse.masks(state))`.

    Example:
      >>> params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
      >>> tx = prune(optax.sgd(0.5, momentum=0.9), {"kernel": jnp.array([[True, False], [True, False]])})
      >>> updates, state = tx.update({"kernel": jnp.ones((2, 2))}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["kernel"].tolist()
      [[0.5, 0.0], [2.5, 0.0]]

    Deviations: a step of JaxPruner's RigL and gradual pruning skips the optimizer where the mask changes; here none is
    skipped, as in the trainer of this library.
    """
    if isinstance(optimizer, Method | Transform):
        raise ValueError("optimizer: expected an optax transformation first, got a method; prune(optimizer, method)")
    inner = checked(optimizer)
    method = _as_method(method)
    if method.mask is not None and not _may_keep(method.mask):
        raise ValueError("mask: expected to keep a weight, got none in the whole network")
    typed = jax.random.key(int(key)) if isinstance(key, int | np.integer) else key
    if not is_key(typed) or typed.shape:
        got = f"{getattr(typed, 'dtype', type(key).__name__)}{list(np.shape(typed))}"
        raise ValueError(f"key: expected one typed key (jax.random.key) or a seed, got {got}")
    data, impl = jax.random.key_data(typed), jax.random.key_impl(typed)  # plain numbers can be saved anywhere
    follow_traced = functools.partial(_follow, method, stacked, impl)
    follow_compiled = jax.jit(follow_traced)  # else each call outside of `jit` would compile the method's branches anew

    def init(params: Params) -> SparseState:
        given, params = params, unboxed(params)
        whole = mask_ops.ones(params, prunable)
        axes = axes_of(stacked, params, whole)
        plan = _plan(method, whole, axes)
        blank = Ticket(params=params, scores=_blank(params, whole), mask=whole)
        ticket = Ticket(*(split(half, axes) for half in blank))
        ticket = plan.start(ticket, jax.random.wrap_key_data(data, impl=impl))
        edits = plan.init(ticket)
        ticket = Ticket(*(join(half, axes) for half in ticket))
        # What copies the params at first (schedule-free) is to copy zeros where weights are removed.
        inside = init_inner(inner, boxed(mask_ops.apply(params, ticket.mask), given))
        if found_states(inside):
            raise ValueError("optimizer: expected one that is not pruned, got one that `prune` made")
        return SparseState(
            step=jnp.int32(0),
            key=jnp.array(data),  # a copy: a step may donate its state
            mask=boxed(ticket.mask, given),
            scores=boxed(ticket.scores, given) if method.keeps_scores and plan.moves else None,
            edits=edits,
            inner=inside,
        )

    def update(
        grads: Params, state: SparseState, params: Params | None = None, **extra: Any
    ) -> tuple[Params, SparseState]:
        if params is None:
            raise ValueError("update: expected the params as the third argument, got none")
        if not isinstance(state, SparseState):
            raise ValueError(f"state: expected the SparseState that `init` makes, got {type(state).__name__}")
        check_alike("grads", grads, params)
        mask = unboxed(state.mask)
        seen, shown_params = (boxed(mask_ops.apply(unboxed(tree), mask), params) for tree in (grads, params))
        made = update_inner(inner, seen, shown_params, state.inner, extra)
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((grads, state, params)))
        follow = follow_traced if traced else follow_compiled
        return follow(made, grads, state, params, extra.get("value"))

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore


def _follow(
    method: Method, stacked: Stacked | None, impl: Any, made: tuple[Params, Any], grads: Params, state: SparseState,
    params: Params, loss: Any,
) -> tuple[Params, SparseState]:  # fmt: skip
    """What follows the optimizer: the method's edits, the updates that lead to them, and the state that remains.

    Args:
      method, stacked: as of `prune`. impl: of the key. made: the updates of the optimizer inside, and its new state.
      grads, state, params: as of `update`. loss: None where it is not known.
    """
    updates, held = made
    given, grads, params, mask, updates = params, *(unboxed(tree) for tree in (grads, params, state.mask, updates))
    axes = axes_of(stacked, params, mask)
    plan = _plan(method, mask, axes)
    if not plan.moves:  # what the optimizer holds of removed weights is never used
        new = state._replace(step=state.step + 1, inner=held)
        return boxed(to_zero(updates, params, mask), given), new
    updates = mask_ops.apply(updates, mask)
    if plan.num_scoring:  # the weights rest while the method looks at gradients
        scoring = state.step < plan.num_scoring
        updates = _where(scoring, jax.tree.map(jnp.zeros_like, updates), updates)
        held = _where(scoring, state.inner, held)
    with jax.numpy_dtype_promotion("standard"):  # updates may be narrower than the params
        moved = optax.apply_updates(params, updates)
    before = Ticket(
        params=mask_ops.apply(moved, mask),
        scores=_blank(params, mask) if state.scores is None else unboxed(state.scores),
        mask=mask,
    )
    context = Context(
        step=state.step,
        key=jax.random.fold_in(jax.random.wrap_key_data(state.key, impl=impl), state.step),
        batch=None,
        grads=split(grads, axes),
        loss=loss,
    )
    parts = Ticket(*(split(half, axes) for half in before))
    ticket, edits = plan.update(parts, state.edits, context)
    after = Ticket(*(join(half, axes) for half in ticket))
    after = after._replace(params=mask_ops.apply(after.params, after.mask))
    masked = boxed(after.mask, given)
    new = SparseState(
        step=state.step + 1,
        key=state.key,
        mask=masked,
        scores=None if state.scores is None else boxed(after.scores, given),
        edits=edits,
        inner=hold(held, given, masked),
    )
    return boxed(difference(after, moved, updates, params), given), new


def _as_method(method: Any) -> Method:
    if isinstance(method, Method):
        return method
    if isinstance(method, Transform):
        return Method(recipe=lambda mask: method)
    if not any(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(method)):
        raise ValueError(
            "method: expected one of rare_gems.sparse, such as sparse.magnitude(0.9), a Transform, a mask, or "
            f"sparse.Method(lambda mask: recipe), got {shown(method)}"
        )
    return fixed(method)


def _may_keep(mask: Mask) -> bool:
    """Whether some leaf may be True: one is, or cannot be looked at here."""

    def unseen(leaf: Any) -> bool:
        return isinstance(leaf, jax.core.Tracer) or not getattr(leaf, "is_fully_addressable", True)

    return any(unseen(leaf) or np.any(leaf) for leaf in jax.tree.leaves(mask))


def _plan(method: Method, mask: Mask, axes: Axes | None) -> Plan:
    if method.mask is not None:
        method = fixed(split(shaped_like("mask", unboxed(method.mask), mask, "the prunable params"), axes))
    shapes = jax.tree.map(lambda m: jax.ShapeDtypeStruct(np.shape(m), bool), split(mask, axes))
    return plan_of(method.recipe(shapes))


def _blank(params: Params, mask: Mask) -> Scores:
    """Zeros, in float32 at least: in 16 bits random draws are ties, and sums of many gradients stand still."""
    return mask_ops.map_kept(lambda weights: jnp.zeros_like(weights, dtype=wide(weights.dtype)), params, mask)


def _where(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
