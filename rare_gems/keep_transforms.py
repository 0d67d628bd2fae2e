"""Transforms that choose which weights a ticket keeps: the highest scores, or those that round up."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems import leaves, masks
from rare_gems.phase import Context, Scores, State, Step, Ticket, Transform

__all__ = ["keep_given", "keep_next", "keep_rounded", "keep_top", "kept_whole", "magnitude", "stack_counts",
           "stateless"]  # fmt: skip


def keep_top(
    num_kept: Any | Callable[[Step], Any],
    scope: Literal["global", "layer"] = "global",
    score: Callable[[Ticket], Scores] = lambda ticket: ticket.scores,
    revive: bool = False,
    invert: bool = False,
    at: Callable[[Step], Any] | None = None,
    at_least: Any = None,
) -> Transform:
    """mask = the `num_kept` highest scores among the kept weights.

    The counts and floors lie in the transform's state (int32), so that runs which differ in them share a program.

    Args:
      num_kept: an integer or (scope "layer") a tree of them; or a function of the step that returns either, whose
        numbers are constants of the program.
      scope: as in `masks.keep_top`.
      score: what ranks the weights; by default the ticket's scores.
      revive: choose among all prunable weights rather than among those kept.
      invert: keep the lowest scores instead (the inverted-scores sanity check).
      at: step -> int32, which of several counts: `num_kept` is then a sequence of what it is otherwise.
      at_least: how many each layer keeps at least in the scope "global": an integer or a tree of them, as in
        `masks.keep_top`; None for no floors.
    Raises:
      ValueError: if the counts or floors are not integers of 0 or more.
    Example:
      >>> rounds = keep_top([2, 1], at=lambda step: step // 10)
      >>> ticket = Ticket([jnp.zeros(3)], [jnp.array([0.3, 0.1, 0.2])], [jnp.array([True, True, True])])
      >>> rounds.update(ticket, rounds.init(ticket), Context(jnp.int32(19), jax.random.key(0), None, None))[0].mask
      [Array([ True, False, False], dtype=bool)]
    """

    floors = None if at_least is None else jax.tree.map(lambda count: _as_counts(count, "at_least"), at_least)

    def select(ticket: Ticket, counts: Any, floors: Any) -> Ticket:
        within = None if revive else kept_whole(ticket).mask
        return ticket._replace(mask=masks.keep_top(_ranked(score(ticket), invert), counts, scope, within, floors))

    if callable(num_kept) and jax.tree_util.all_leaves([num_kept]):  # a tree can be callable: an Equinox module
        if at is not None:
            raise ValueError("keep_top: expected counts beside `at`, got a function")
        return stateless(lambda ticket, context: select(ticket, num_kept(context.step), floors))
    table = jax.tree.map(_as_counts, num_kept) if at is None else stack_counts(num_kept)  # type: ignore
    start = table if floors is None else (table, floors)

    def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        counts, least = (state, None) if floors is None else state
        if at is not None:
            row = at(context.step)
            counts = jax.tree.map(lambda column: column[row], counts)
        return select(ticket, counts, least), state

    return Transform(lambda ticket: jax.tree.map(jnp.asarray, start), update)


def keep_given(
    scope: Literal["global", "layer"] = "global",
    score: Callable[[Ticket], Scores] = lambda ticket: ticket.scores,
    revive: bool = False,
    invert: bool = False,
    at_least: Any = None,
) -> Transform:
    """mask = as many of the highest scores among the kept weights as the round is given.

    Args:
      scope, score, revive, invert, at_least: as in `keep_top`; a round is given an integer or (scope "layer") a tree
        of them.
    Example:
      >>> context = Context(19, jax.random.key(0), None, None, given=2)
      >>> ticket = Ticket([jnp.zeros(3)], [jnp.array([0.3, 0.1, 0.2])], [jnp.array([True, True, True])])
      >>> keep_given().update(ticket, (), context)[0].mask
      [Array([ True, False,  True], dtype=bool)]
    """

    floors = None if at_least is None else jax.tree.map(lambda count: _as_counts(count, "at_least"), at_least)

    def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        within = None if revive else kept_whole(ticket).mask
        least = None if floors is None else state
        mask = masks.keep_top(_ranked(score(ticket), invert), context.given, scope, within, least)
        return ticket._replace(mask=mask), state

    return Transform(lambda ticket: () if floors is None else jax.tree.map(jnp.asarray, floors), update)


def keep_next(
    counts: Sequence[int], score: Callable[[Ticket], Scores] = lambda ticket: ticket.scores, invert: bool = False
) -> Transform:
    """mask = its highest scores, as many as the next count below what it keeps: a round of a schedule.

    Which round it is, the mask itself tells, so that all rounds are the same transform and compile once. The counts
    lie in its state, as in `keep_top`.

    Args:
      counts: falling integers, such as `schedules.exponential_counts`; below the last nothing is removed.
      score: what ranks the kept weights (over the whole network). invert: keep the lowest scores instead.
    Raises:
      ValueError: if the counts do not fall, or to 0.
    Example:
      >>> rounds = keep_next([2, 1])
      >>> ticket = Ticket([jnp.zeros(3)], [jnp.array([0.3, 0.1, 0.2])], [jnp.array([True, True, True])])
      >>> ticket, state = rounds.update(ticket, rounds.init(ticket), Context(0, jax.random.key(0), None, None))
      >>> rounds.update(ticket, state, Context(0, jax.random.key(0), None, None))[0].mask
      [Array([ True, False, False], dtype=bool)]
    """
    if any(low >= high for high, low in itertools.pairwise(counts)) or any(count < 1 for count in counts):
        raise ValueError(f"counts: expected them to fall at every round, to 1 or more, got {list(counts)}")
    table = stack_counts(counts)

    def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        kept = jnp.int32(masks.num_kept(kept_whole(ticket).mask))
        lower = jnp.where(state < kept, state, 0).max()
        count = jnp.where(lower > 0, lower, kept)
        mask = masks.keep_top(_ranked(score(ticket), invert), count, within=ticket.mask)
        return ticket._replace(mask=mask), state

    return Transform(lambda ticket: jnp.asarray(table), update)


def keep_rounded() -> Transform:
    """mask = q and 1[p >= 0.5]. Source: Rare Gems, Algorithm 1, output."""
    return stateless(lambda t, _: t._replace(mask=jax.tree.map(lambda q, p: q & (p >= 0.5), t.mask, t.scores)))


def stack_counts(rows: Sequence[Any]) -> Any:
    """One array for all rounds: int32 [R] from R integers, or from R trees of integers a tree of such arrays.

    Raises:
      ValueError: if they are not integers.
    Example:
      >>> stack_counts([{"a": 5, "b": 3}, {"a": 2, "b": 1}])
      {'a': array([5, 2], dtype=int32), 'b': array([3, 1], dtype=int32)}
    """
    return jax.tree.map(lambda *column: np.stack([_as_counts(count) for count in column]), *rows)


def _as_counts(count: Any, name: str = "num_kept") -> np.ndarray:
    array = np.asarray(count)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected an integer, got {count!r}")
    if np.any(array < 0):
        raise ValueError(f"{name}: expected 0 or more, got {count!r}")
    if np.any(array > np.iinfo(np.int32).max):
        raise ValueError(f"{name}: expected integers that int32 holds, got {count!r}")
    return array.astype(np.int32)


def magnitude(ticket: Ticket) -> Scores:
    """|w| of the prunable weights, None elsewhere: a `score` for `keep_top` and `keep_next`."""
    return masks.map_kept(jnp.abs, ticket.params, ticket.mask)


def _ranked(scores: Scores, invert: bool) -> Scores:
    return jax.tree.map(jnp.negative, scores) if invert else scores


def stateless(fn: Callable[[Ticket, Context], Ticket]) -> Transform:
    """The transform that is a function of the ticket and its context, and keeps no state.

    Raises:
      ValueError: in its `update`, if JAX would cut a leaf of the ticket.
    Example:
      >>> stateless(lambda ticket, context: ticket._replace(scores=None)).init(None)
      ()
    """
    return Transform(lambda ticket: (), lambda ticket, state, context: (fn(kept_whole(ticket), context), state))


def kept_whole(ticket: Ticket) -> Ticket:
    """The ticket, unless JAX would cut a leaf of it."""
    leaves.check_kept("ticket", ticket)
    return ticket
