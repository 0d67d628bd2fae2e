"""Transforms of a ticket, and the combinators that join them. Each is a pure `Transform(init, update)`.

`context.step` is the index, from 0, of the step just taken in its phase (`num_steps` in `after`).
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from rare_gems import masks, views
from rare_gems.phase import Context, Phase, Scores, State, Step, Ticket, Transform

__all__ = ["accumulate_scores", "chain", "clip_scores", "drop_and_grow", "edit", "identity", "keep_rounded",
           "keep_top", "rewind", "scores_from", "when"]  # fmt: skip

ScoreFn = Callable[[Ticket, Context], Scores]


def _stateless(fn: Callable[[Ticket, Context], Ticket]) -> Transform:
    return Transform(lambda ticket: (), lambda ticket, state, context: (fn(ticket, context), state))


_IDENTITY = _stateless(lambda ticket, context: ticket)


def identity() -> Transform:
    """Changes nothing. Always the same object, so that the trainer can tell it."""
    return _IDENTITY


def chain(*transforms: Transform) -> Transform:
    """The transforms one after the other, each with a state of its own."""

    def init(ticket: Ticket) -> State:
        return tuple(t.init(ticket) for t in transforms)

    def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        after = []
        for transform, before in zip(transforms, state, strict=True):
            ticket, new = transform.update(ticket, before, context)
            after.append(new)
        return ticket, tuple(after)

    return Transform(init, update)


def when(predicate: Callable[[Step], jax.Array], transform: Transform) -> Transform:
    """`transform` where `predicate(step)` holds, nothing elsewhere: a `lax.cond`."""

    def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        return jax.lax.cond(
            predicate(context.step),
            lambda t, s: transform.update(t, s, context),
            lambda t, s: (t, s),
            ticket,
            state,
        )

    return Transform(transform.init, update)


def edit(*transforms: Transform) -> Phase:
    """A phase of zero steps that only applies `transforms`."""
    return Phase(views.masked, "params", optax.set_to_zero(), identity(), chain(*transforms), 0, False, "edit")


def scores_from(fn: ScoreFn) -> Transform:
    """scores = fn(ticket, context), in the dtype they had.

    Example:
      >>> magnitude = scores_from(lambda ticket, context: jax.tree.map(jnp.abs, ticket.params))
      >>> ticket = Ticket([jnp.array([-2.0])], [jnp.array([0.0])], [jnp.array([True])])
      >>> magnitude.update(ticket, (), Context(0, jax.random.key(0), None, None))[0].scores
      [Array([2.], dtype=float32)]
    """
    return _stateless(lambda t, context: t._replace(scores=_like(fn(t, context), t.scores)))


def accumulate_scores(fn: ScoreFn) -> Transform:
    """scores = the sum of fn(ticket, context) over the updates of this phase, whatever they were before."""

    def init(ticket: Ticket) -> State:
        return jax.tree.map(jnp.zeros_like, ticket.scores)

    def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        total = jax.tree.map(jnp.add, state, _like(fn(ticket, context), state))
        return ticket._replace(scores=total), total

    return Transform(init, update)


def clip_scores(low: float = 0.0, high: float = 1.0) -> Transform:
    """scores projected to [low, high]. Source: Rare Gems, Algorithm 1, line 9."""
    if not low < high:
        raise ValueError(f"clip_scores: expected low < high, got {low} and {high}")
    return _stateless(lambda t, _: t._replace(scores=jax.tree.map(lambda s: jnp.clip(s, low, high), t.scores)))


def keep_top(
    num_kept: Any | Callable[[Step], Any],
    scope: Literal["global", "layer"] = "global",
    score: Callable[[Ticket], Scores] = lambda ticket: ticket.scores,
    revive: bool = False,
) -> Transform:
    """mask = the `num_kept` highest scores among the kept weights.

    Args:
      num_kept: an integer or (scope "layer") a tree of them, or a function of the step that returns either.
      scope: as in `masks.keep_top`.
      score: what ranks the weights; by default the ticket's scores.
      revive: choose among all prunable weights rather than among those kept.
    """

    def fn(ticket: Ticket, context: Context) -> Ticket:
        count = num_kept(context.step) if callable(num_kept) else num_kept
        within = None if revive else ticket.mask
        return ticket._replace(mask=masks.keep_top(score(ticket), count, scope, within))

    return _stateless(fn)


def keep_rounded() -> Transform:
    """mask = q and 1[p >= 0.5]. Source: Rare Gems, Algorithm 1, output."""
    return _stateless(lambda t, _: t._replace(mask=jax.tree.map(lambda q, p: q & (p >= 0.5), t.mask, t.scores)))


def rewind() -> Transform:
    """params = what they were at the start of this phase, bit for bit.

    So a recipe `(train k steps, round, round, ...)`, whose rounds end in `chain(keep_top(...), rewind())`, rewinds
    to iteration k. Source: Stabilizing the Lottery Ticket Hypothesis, Algorithm 2.
    """
    return Transform(
        lambda ticket: jax.tree.map(jnp.copy, ticket.params),
        lambda ticket, start, context: (ticket._replace(params=start), start),
    )


def drop_and_grow(drop_fraction: Callable[[Step], jax.Array], grow: ScoreFn) -> Transform:
    """In each layer, drops that fraction of the kept weights by lowest |w| and grows as many by highest score.

    What grows starts from zero; a weight just dropped may grow again, from zero.

    Args:
      drop_fraction: step -> float32 in [0, 1].
      grow: for example |dL/dw| from `context.grads` (RigL), or noise from `context.key` (SET).
    Source: Evci et al., Rigging the Lottery, Algorithm 1; Mocanu et al. (SET).
    """

    def fn(ticket: Ticket, context: Context) -> Ticket:
        fraction = drop_fraction(context.step)
        magnitude = masks.map_kept(jnp.abs, ticket.params, ticket.mask)
        kept = jax.tree.map(lambda m: jnp.sum(m, dtype=jnp.int32), ticket.mask)
        dropped = jax.tree.map(lambda k: jnp.round(fraction * k.astype(jnp.float32)).astype(jnp.int32), kept)
        stay = masks.keep_top(magnitude, jax.tree.map(jnp.subtract, kept, dropped), "layer", ticket.mask)
        free = jax.tree.map(jnp.logical_not, stay)
        grown = masks.keep_top(grow(ticket, context), dropped, "layer", free)
        return ticket._replace(params=masks.apply(ticket.params, stay), mask=jax.tree.map(jnp.logical_or, stay, grown))

    return _stateless(fn)


def _like(new: Scores, old: Scores) -> Scores:
    return jax.tree.map(lambda o, n: n.astype(o.dtype), old, new)
