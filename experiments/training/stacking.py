"""Several runs as one tree with a leading axis of runs, and one run's part of it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rare_gems.training import trainer

__all__ = ["EACH", "moment_of", "pick", "stack", "stack_carries"]

# What vmap maps of many runs' carry: all but the step, which they share.
EACH = trainer.Carry(None, *[0] * (len(trainer.Carry._fields) - 1))  # type: ignore


def stack(trees: Sequence[Any]) -> Any:
    """Trees of one structure as one, each leaf with a leading axis of runs."""
    return _stack(tuple(trees))


def stack_carries(carries: Sequence[Any]) -> trainer.Carry:
    """Stacks the carries of several runs, which share the step."""
    return trainer.Carry(carries[0].step, *stack([carry[1:] for carry in carries]))


@jax.jit
def pick(tree: Any, i: jax.Array | int) -> Any:
    """One run's part of a tree: copies of all leaves, made by one dispatch, whichever the run."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False), tree)


def moment_of(moment: trainer.Moment, i: int | None) -> trainer.Moment:
    """What one of many runs would have been handed; for None the moment as it is."""
    if i is None:
        return moment
    if not moment.ended:
        carry = trainer.Carry(moment.carry.step, *pick(moment.carry[1:], i))
        return moment._replace(carry=carry, ticket=carry.ticket, model_state=carry.model_state)
    parts, ticket, state = pick((moment.carry[1:], moment.ticket, moment.model_state), i)
    return moment._replace(carry=trainer.Carry(moment.carry.step, *parts), ticket=ticket, model_state=state)


@jax.jit
def _stack(trees: tuple[Any, ...]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
