"""Transforms of a ticket, and the combinators that join them. Each is a pure `Transform(init, update)`.

`context.step` is the index, from 0, of the step just taken in its phase (`num_steps` in `after`). Outside of `jit`
tickets may hold arrays of NumPy; those of 64 bits are refused by name where JAX's 64-bit mode is off.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from rare_gems import masks, views
from rare_gems.keep_transforms import (
    keep_given,
    keep_next,
    keep_rounded,
    keep_top,
    kept_whole,
    magnitude,
    stack_counts,
    stateless,
)
from rare_gems.phase import Context, Phase, Scores, State, Step, Ticket, Transform

__all__ = ["accumulate_scores", "chain", "clip_scores", "drop_and_grow", "edit", "identity", "keep_given",
           "keep_next", "keep_rounded", "keep_top", "magnitude", "rewind", "scores_from", "stack_counts",
           "when"]  # fmt: skip

ScoreFn = Callable[[Ticket, Context], Scores]

_IDENTITY = stateless(lambda ticket, context: ticket)


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
    """`transform` where `predicate(step)` holds, nothing elsewhere: a `lax.cond`.

    For what needs the gradient of its step. What does not, and comes at times that are known, belongs in the `rounds`
    of a phase: a condition in the step slows every step.
    """

    def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        return jax.lax.cond(
            predicate(context.step),
            lambda t, s: transform.update(t, s, context),
            lambda t, s: (t, s),
            kept_whole(ticket),
            state,
        )

    return Transform(transform.init, update)


def edit(*transforms: Transform) -> Phase:
    """A phase of zero steps that only applies `transforms`."""
    return Phase(
        view=views.masked,
        trains="params",
        optimizer=optax.set_to_zero(),
        during=identity(),
        after=chain(*transforms),
        num_steps=0,
        hold_dead=False,
        name="edit",
    )


def scores_from(fn: ScoreFn) -> Transform:
    """scores = fn(ticket, context), in the dtype they had.

    Example:
      >>> magnitude = scores_from(lambda ticket, context: jax.tree.map(jnp.abs, ticket.params))
      >>> ticket = Ticket([jnp.array([-2.0])], [jnp.array([0.0])], [jnp.array([True])])
      >>> magnitude.update(ticket, (), Context(0, jax.random.key(0), None, None))[0].scores
      [Array([2.], dtype=float32)]
    """
    return stateless(lambda t, context: t._replace(scores=_like(fn(t, context), t.scores)))


def accumulate_scores(fn: ScoreFn) -> Transform:
    """scores = the sum of fn(ticket, context) over the updates of this phase, whatever they were before."""

    def init(ticket: Ticket) -> State:
        return jax.tree.map(jnp.zeros_like, kept_whole(ticket).scores)

    def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        total = jax.tree.map(jnp.add, state, _like(fn(kept_whole(ticket), context), state))
        return ticket._replace(scores=total), total

    return Transform(init, update)


def clip_scores(low: float = 0.0, high: float = 1.0) -> Transform:
    """scores projected to [low, high]. Source: Rare Gems, Algorithm 1, line 9."""
    if not low < high:
        raise ValueError(f"clip_scores: expected low < high, got {low} and {high}")
    return stateless(lambda t, _: t._replace(scores=jax.tree.map(lambda s: jnp.clip(s, low, high), t.scores)))


def rewind() -> Transform:
    """params = what they were at the start of this phase, bit for bit.

    So a recipe `(train k steps, round, round, ...)`, whose rounds end in `chain(keep_top(...), rewind())`, rewinds
    to iteration k. Source: Stabilizing the Lottery Ticket Hypothesis, Algorithm 2.
    """
    return Transform(
        lambda ticket: jax.tree.map(jnp.copy, kept_whole(ticket).params),
        lambda ticket, start, context: (ticket._replace(params=start), start),
    )


def drop_and_grow(drop_fraction: Callable[[Step], jax.Array], grow: ScoreFn) -> Transform:
    """In each layer, drops that fraction of the kept weights by lowest |w| and grows as many by highest score.

    What grows starts from zero; a weight that is dropped and grows again at once keeps its value, so that a layer
    which keeps everything is left alone.

    Args:
      drop_fraction: step -> float32 in [0, 1].
      grow: for example |dL/dw| from `context.grads` (RigL), or noise from `context.key` (SET).
    Source: Evci et al., Rigging the Lottery, Algorithm 1; Mocanu et al. (SET).
    """

    def fn(ticket: Ticket, context: Context) -> Ticket:
        fraction = drop_fraction(context.step)
        kept = jax.tree.map(lambda m: jnp.sum(m, dtype=jnp.int32), ticket.mask)
        share = lambda k: jnp.round(fraction * k.astype(jnp.float32)).astype(jnp.int32)  # noqa: E731
        dropped = jax.tree.map(lambda k: jnp.minimum(share(k), k), kept)  # float32 rounds up beyond 2^24
        stay = masks.keep_top(magnitude(ticket), jax.tree.map(jnp.subtract, kept, dropped), "layer", ticket.mask)
        free = jax.tree.map(jnp.logical_not, stay)
        grown = masks.keep_top(grow(ticket, context), dropped, "layer", free)
        mask = jax.tree.map(jnp.logical_or, stay, grown)
        older = jax.tree.map(jnp.logical_and, mask, ticket.mask)
        return ticket._replace(params=masks.apply(ticket.params, older), mask=mask)

    return stateless(fn)


def _like(new: Scores, old: Scores) -> Scores:
    return jax.tree.map(lambda o, n: n.astype(o.dtype), old, new)
