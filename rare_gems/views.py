"""Views: what the network sees of a ticket. `view(ticket, step, key) -> params`, differentiable in both halves.

Leaves whose mask is None are seen as they are.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from rare_gems import init, masks, ste
from rare_gems.phase import Key, Mask, Params, PyTree, Step, Ticket, View

__all__ = ["masked", "reselected", "rounded", "sampled", "support", "top_scored"]


def masked(ticket: Ticket, step: Step, key: Key) -> Params:
    """w * q: the kept weights.

    Example:
      >>> ticket = Ticket([jnp.array([2.0, 3.0])], [None], [jnp.array([True, False])])
      >>> masked(ticket, 0, jax.random.key(0))
      [Array([2., 0.], dtype=float32)]
    """
    del step, key
    return masks.apply(ticket.params, ticket.mask)


def rounded(ticket: Ticket, step: Step, key: Key) -> Params:
    """w * q * 1[p >= 0.5], straight-through in p: dL/dp = dL/dw_eff * w * q.

    Source: Rare Gems, Algorithm 1, line 6.
    """
    del step, key
    return _through(ticket, jax.tree.map(ste.round_half, ticket.scores))


def sampled(ticket: Ticket, step: Step, key: Key) -> Params:
    """w * q * r with r ~ Bernoulli(p), straight-through in p.

    Source: Rare Gems, section 3 (randomised rounding).
    """
    del step
    return _through(ticket, jax.tree.map(ste.drawn, ticket.scores, init.uniform_scores(key, ticket.mask)))


def top_scored(
    num_kept: int | Callable[[Step], PyTree] | PyTree,
    scope: Literal["global", "layer"] = "global",
    invert: bool = False,
) -> View:
    """A view of the `num_kept` weights with the highest |s|, straight-through: dL/ds = dL/dw_eff * w * sign(s).

    Args:
      num_kept: an integer or (scope "layer") a tree of them, or a function of the step that returns either.
      scope: "global" or "layer", as in `masks.keep_top`.
      invert: the lowest |s| instead (the inverted-scores sanity check).
    Source: edge-popup (Ramanujan et al.); "global" and a falling `num_kept` are the variants of Rare Gems, Table 3.
    """

    def view(ticket: Ticket, step: Step, key: Key) -> Params:
        del key
        # A tree of counts can be callable too: an Equinox module that holds them in the place of its kernels.
        is_function = callable(num_kept) and jax.tree_util.all_leaves([num_kept])
        count = num_kept(step) if is_function else num_kept  # type: ignore
        rank = jax.tree.map(lambda s: -jnp.abs(s) if invert else jnp.abs(s), ticket.scores)
        top = masks.keep_top(rank, count, scope, within=ticket.mask)
        return _through(ticket, jax.tree.map(ste.mask_of, ticket.scores, top))

    return view


def reselected(invert: bool = False) -> View:
    """A view of as many weights in each layer as the mask keeps there, wherever it keeps them: those with the highest
    s, straight-through: dL/ds = dL/dw_eff * w.

    Args:
      invert: the lowest s instead (the inverted-scores sanity check).
    Example:
      >>> ticket = Ticket([jnp.array([2.0, 3.0])], [jnp.array([0.1, -0.4])], [jnp.array([False, True])])
      >>> reselected()(ticket, 0, jax.random.key(0))
      [Array([2., 0.], dtype=float32)]

    Source: Lottery Jackpots, Eqs. 4 to 6: the mask gives the budgets of the layers, the scores give the mask.
    """

    def view(ticket: Ticket, step: Step, key: Key) -> Params:
        del step, key
        budgets = jax.tree.map(lambda m: jnp.sum(m, dtype=jnp.int32), ticket.mask)
        rank = jax.tree.map(jnp.negative, ticket.scores) if invert else ticket.scores
        top = masks.keep_top(rank, budgets, "layer")
        return _times(jax.tree.map(ste.chosen, ticket.scores, top), ticket.params)

    return view


def support(view: View, ticket: Ticket, step: Step, key: Key) -> Mask:
    """The effective mask: where the view lets a weight through, whatever its value.

    Found by looking at weights of one, so it holds for every view that chooses by scores, mask, step and key, and not
    by the weights themselves.
    """
    shown = masks.map_kept(jnp.ones_like, ticket.params, ticket.mask)
    whole = jax.tree.map(lambda m, one, w: w if m is None else one, ticket.mask, shown, ticket.params, is_leaf=_is_none)
    return masks.map_kept(lambda w: w != 0, view(ticket._replace(params=whole), step, key), ticket.mask)


def _through(ticket: Ticket, factors: Params) -> Params:
    return _times(factors, masks.apply(ticket.params, ticket.mask))


def _times(factors: Params, params: Params) -> Params:
    return jax.tree.map(lambda f, w: w if f is None else w * f.astype(w.dtype), factors, params, is_leaf=_is_none)


def _is_none(leaf: object) -> bool:
    return leaf is None
