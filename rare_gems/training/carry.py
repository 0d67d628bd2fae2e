"""What a training step reads and writes, and how it begins."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rare_gems import leaves, masks
from rare_gems.phase import Key, ModelState, Phase, State, Ticket
from rare_gems.training import optimizer

__all__ = ["Carry", "Totals", "begin"]


class Totals(NamedTuple):
    """Sums over the steps of the present epoch (float32), their number, and the first step of the phase whose
    loss was not finite (int32, -1: none)."""

    loss: jax.Array
    accuracy: jax.Array
    num_steps: jax.Array
    first_bad: jax.Array


class Carry(NamedTuple):
    """All that a step reads and writes: to save it is to save the run. `step` counts the steps done (int32);
    `first_state` is the model state at the phase's start, where the phase rewinds it (None elsewhere); `data_key` the
    randomness of batches, where it is not that of the phase."""

    step: jax.Array
    key: Key
    ticket: Ticket
    model_state: ModelState
    first_state: ModelState
    opt_state: Any
    during: State
    rounds: State
    after: State
    totals: Totals
    data_key: Key | None = None


def begin(phase: Phase, ticket: Ticket, model_state: ModelState, key: Key, data_key: Key | None = None) -> Carry:
    """The carry at the start of a phase: fresh optimizer and transform states, no buffer shared with the caller.

    Params of integers, bools and PRNG keys stay as they are: neither gradient nor optimizer sees them.

    Raises:
      ValueError: if the phase trains scores that the ticket does not have, or that holds
        what is no array, or one of NumPy that JAX would cut to 32 bits.
    """
    if phase.trains not in ("params", "scores"):
        raise ValueError(f"phase {phase.name!r}: trains: expected 'params' or 'scores', got {phase.trains!r}")
    if jax.tree.structure(ticket.scores) != jax.tree.structure(ticket.mask):
        raise ValueError("ticket: expected scores and mask of one structure, got different ones")
    for name, tree in (*ticket._asdict().items(), ("state", model_state)):
        leaves.check_arrays(name, tree)
    if phase.hold_dead and phase.trains == "params":
        ticket = ticket._replace(params=masks.apply(ticket.params, ticket.mask))
    zero = jnp.float32(0)
    carry = Carry(
        step=jnp.int32(0),
        key=key,
        ticket=ticket,
        model_state=model_state,
        first_state=model_state if phase.rewind_state else None,
        opt_state=optimizer.init(phase.optimizer, leaves.split(getattr(ticket, phase.trains))[0]),
        during=phase.during.init(ticket),
        rounds=() if phase.rounds is None else phase.rounds.transform.init(ticket),
        after=phase.after.init(ticket),
        totals=Totals(zero, zero, jnp.int32(0), jnp.int32(-1)),
        data_key=data_key,
    )
    # A copy each: the step donates its carry, and no buffer may be donated twice or belong to somebody else.
    return jax.tree.map(lambda x: jnp.array(x, dtype=x.dtype, copy=True), carry)
