"""Rounds: what a phase does between its steps. Checked here, and joined to its steps for loops that know none."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rare_gems import leaves, transforms
from rare_gems.phase import Context, Phase, PyTree, Rounds, State, Ticket, Transform

__all__ = ["check", "each_step", "given", "in_steps"]


def check(phase: Phase) -> None:
    """Raises ValueError for rounds that no step of the phase comes before, or out of order, and for their numbers."""
    if phase.rounds is None:
        return
    steps, whose = list(phase.rounds.steps), f"phase {phase.name!r}: rounds"
    if not isinstance(phase.rounds.steps, range | tuple):  # phases are hashed: they tell compiled programs apart
        raise ValueError(f"{whose}: expected steps as a range or a tuple, got {type(phase.rounds.steps).__name__}")
    if not all(isinstance(step, int | np.integer) for step in steps):
        raise ValueError(f"{whose}: expected steps that are integers, got {steps[:5]}")
    if steps and not 1 <= min(steps) <= max(steps) <= phase.num_steps:
        raise ValueError(f"{whose}: expected steps from 1 to {phase.num_steps}, got {min(steps)} to {max(steps)}")
    for one, other in itertools.pairwise(steps):
        if one >= other:
            raise ValueError(f"{whose}: expected steps that rise, got {one} and then {other}")
    for r in range(len(steps)):
        given(phase.rounds, r)


def given(rounds: Rounds, r: int) -> PyTree:
    """The numbers of a round as arrays of NumPy, int32 and float32. Raises ValueError for what these do not hold."""
    return leaves.numbers("given", rounds.given(r))


def in_steps(rounds: Rounds) -> Transform:
    """The rounds as a transform that follows every step: a `lax.cond`.

    Example:
      >>> clip = in_steps(Rounds(transforms.clip_scores(), range(2, 7, 2)))
      >>> ticket = Ticket([jnp.zeros(1)], [jnp.array([3.0])], [jnp.array([True])])
      >>> at = lambda step: Context(jnp.int32(step), jax.random.key(0), None, None)
      >>> [clip.update(ticket, (), at(step))[0].scores[0].tolist() for step in (0, 1, 2, 7)]
      [[3.0], [1.0], [3.0], [3.0]]
    """
    steps = np.asarray(rounds.steps, np.int32)
    if not steps.size:
        return Transform(rounds.transform.init, lambda ticket, state, context: (ticket, state))
    table = jax.tree.map(lambda *column: np.stack(column), *(given(rounds, r) for r in range(steps.size)))

    def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        done = jnp.asarray(context.step) + 1
        r = jnp.sum(done > steps, dtype=jnp.int32)

        def take(ticket: Ticket, state: State) -> tuple[Ticket, State]:
            row = jax.tree.map(lambda column: jnp.asarray(column)[r], table)
            return rounds.transform.update(ticket, state, context._replace(given=row))

        return jax.lax.cond(jnp.any(done == steps), take, _unchanged, ticket, state)

    return Transform(rounds.transform.init, update)


def each_step(phase: Phase) -> Transform:
    """What a phase does after each step, its `during` and its rounds, as one transform for a loop of one's own.

    Raises:
      ValueError: as `check`.
    """
    check(phase)
    if phase.rounds is None:
        return phase.during
    between = in_steps(phase.rounds)
    return between if phase.during is transforms.identity() else transforms.chain(phase.during, between)


def _unchanged(ticket: Ticket, state: State) -> tuple[Any, Any]:
    return ticket, state
