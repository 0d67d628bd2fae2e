"""The compiled programs of a phase: its steps, its rounds, its end; of one run or of many at once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from rare_gems.phase import Context, LossFn, Phase, Ticket
from rare_gems.training import sharding
from rare_gems.training.carry import Carry
from rare_gems.training.feeds import Feed, Stream, advance_fn
from rare_gems.training.step import finish, step_parts, take_round

__all__ = ["MANY", "Programs", "programs_of_phase"]


# What vmap maps of many runs: all but the step, so that they do together what is done every so many steps.
MANY = (
    Carry(None, *[0] * (len(Carry._fields) - 1)),  # type: ignore
    Context(step=None, key=0, batch=0, grads=0, loss=0, given=0),  # type: ignore
)


class Programs(NamedTuple):
    """The compiled programs of a phase and its feed, and what they were made of.

    advance: as of `feeds.advance_fn`. finish: carry -> ticket. take_round: (carry, given, due) -> carry.
    """

    made_of: tuple[Phase, Feed | Stream, LossFn]
    advance: Callable
    finish: Callable
    take_round: Callable


def programs_of_phase(
    own: dict[Any, Programs],
    kept: dict[Any, Programs] | None,
    phase: Phase,
    feed: Feed | Stream,
    *,
    loss_fn: LossFn,
    scan: bool,
    many: bool,
    mesh: Mesh | None,
) -> Programs:
    """The programs of a phase: those that are there, else new ones, which are compiled at their first call.

    Args:
      own, kept: dicts of this call, and of this and later ones (None: no such), by identity of what programs are made
        of. A phase without steps is kept in `own`.
      phase, feed, loss_fn, scan, many, mesh: as of `trainer.epochs`.
    """
    where = own if kept is None or phase.num_steps == 0 else kept
    name = id(phase), id(feed), id(loss_fn), scan, many, mesh  # what these name stays alive in `made_of`
    if name not in where:
        axes = MANY if many else None
        where[name] = Programs(
            made_of=(phase, feed, loss_fn),
            advance=advance_fn(*step_parts(loss_fn, phase, mesh), phase, feed, scan, axes, mesh),
            finish=_finish_fn(phase, many, mesh),
            take_round=_round_fn(phase, many, mesh),
        )
    return where[name]


# Each of these makes functions of its own: what JAX has compiled of them goes when they do.
def _finish_fn(phase: Phase, many: bool, mesh: Mesh | None) -> Callable:
    def finish_one(carry: Carry) -> Ticket:
        return finish(phase, carry)

    def finish_all(carry: Carry) -> Ticket:
        return sharding.over_runs(finish_one, mesh, MANY[:1], 0)(carry)

    return jax.jit(finish_all if many else finish_one)


def _round_fn(phase: Phase, many: bool, mesh: Mesh | None) -> Callable:
    """The compiled `take_round`, of one run or of many; it donates the carry."""

    def one(carry: Carry, given: Any, due: Any) -> Carry:
        return take_round(phase, carry, given, due, mesh)

    def each(carry: Carry, given: Any, due: Any) -> Carry:
        return sharding.over_runs(one, mesh, (MANY[0], 0, 0), MANY[0])(carry, given, due)

    return jax.jit(each if many else one, donate_argnums=0)
