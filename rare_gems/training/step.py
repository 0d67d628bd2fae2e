"""One training step, made from a phase, its rounds, and how it ends."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rare_gems import leaves, masks, rounds, transforms
from rare_gems.phase import Batch, Context, Key, LossFn, Params, Phase, PyTree, Ticket
from rare_gems.training import optimizer, sharding
from rare_gems.training.carry import Carry, Totals

__all__ = ["finish", "make_step", "seen", "step_parts", "take_round"]


Descend = Callable[..., tuple[Carry, Context]]
Edit = Callable[[Carry, Context], Carry]


def make_step(loss_fn: LossFn, phase: Phase) -> Callable[[Carry, Batch], Carry]:
    """One training step of a phase, as a pure function (carry, batch) -> carry.

      w = view(ticket);  g = dL/dw (dense);  the optimizer gets the pull-back of g through the view;
      then `during` edits the ticket with g in its context, and after some steps `rounds` without it.

    Args:
      loss_fn: (params, model state, batch, key) -> (loss, (model state, accuracy)), scalars in float32; a
        phase with a `loss_fn` of its own uses that.
      phase: what to train and how.
    Returns:
      the step, not compiled: jit it (donating the carry), scan it or vmap it. Where the phase has rounds they are a
      `lax.cond` of it; the trainer compiles them apart (`take_round`).
    Example:
      >>> from rare_gems import transforms, views
      >>> from rare_gems.training.carry import begin
      >>> phase = Phase(views.masked, "params", optax.sgd(0.5), transforms.identity(), transforms.identity(), 1)
      >>> ticket = Ticket([jnp.array([1.0, 1.0])], [jnp.zeros(2)], [jnp.array([True, False])])
      >>> loss_fn = lambda params, state, batch, key: ((params[0] * batch).sum(), (state, jnp.float32(0)))
      >>> carry = begin(phase, ticket, None, jax.random.key(0))
      >>> make_step(loss_fn, phase)(carry, jnp.array([1.0, 1.0])).ticket.params
      [Array([0.5, 0. ], dtype=float32)]
    """

    rounds.check(phase)
    descend, edit = step_parts(loss_fn, phase)
    between = None if phase.rounds is None else rounds.in_steps(phase.rounds)

    def step(carry: Carry, batch: Batch) -> Carry:
        carry, context = descend(carry, batch)
        carry = edit(carry, context) if edit else carry
        if between is None:
            return carry
        ticket, state = between.update(carry.ticket, carry.rounds, _of_round(carry))
        return _hold_dead(phase, carry._replace(ticket=ticket, rounds=state))

    return step


def step_parts(loss_fn: LossFn, phase: Phase, mesh: Mesh | None = None) -> tuple[Descend, Edit | None]:
    """The two halves of a step: gradient and optimizer, then the `during` transform (None where it is identity).

    Where `during` has a `lax.cond` or a loop, they are faster on CPU if compiled one by one: it keeps XLA from running
    the operations of a program side by side, which costs a ResNet-20 step an eighth of its time.

    Args:
      loss_fn, phase: as in `make_step`. mesh: where arrays lie (see `sharding`); the batch is split already.
    Returns:
      `descend(carry, batch, known=None) -> (carry, context)` and `edit(carry, context) -> carry`. known: what `seen`
      makes of the carry, where the step before has made it.
    """

    def descend(carry: Carry, batch: Batch, known: Params | None = None) -> tuple[Carry, Context]:
        _, key_loss, key_during = _keys(carry.key, carry.step)
        trained, rest = leaves.split(getattr(carry.ticket, phase.trains))
        view = _view(phase, carry)
        seen, pull_back, fixed = jax.vjp(view, trained, has_aux=True)
        if known is not None:
            is_none = lambda leaf: leaf is None  # noqa: E731
            seen = jax.tree.map(lambda made, own: own if made is None else made, known, seen, is_leaf=is_none)
        grad_fn = leaves.value_and_grad(phase.loss_fn or loss_fn)
        network = leaves.join(sharding.whole(seen, mesh), fixed)
        (loss, (model_state, accuracy)), dense_grads = grad_fn(network, carry.model_state, batch, key_loss)
        dense_grads = sharding.pin(dense_grads, mesh)
        (grads,) = pull_back(dense_grads)

        def value_fn(trained: Any) -> jax.Array:
            seen, fixed = view(trained)
            network = leaves.join(sharding.whole(seen, mesh), fixed)
            return (phase.loss_fn or loss_fn)(network, carry.model_state, batch, key_loss)[0]

        updates, opt_state = optimizer.update(phase.optimizer, grads, carry.opt_state, trained, loss, value_fn)
        if phase.hold_dead:
            updates = masks.apply(updates, carry.ticket.mask)
        trained = leaves.join(optax.apply_updates(trained, updates), rest)
        ticket = carry.ticket._replace(**{phase.trains: trained})
        totals = _add(carry.totals, carry.step, loss, accuracy)
        after = carry._replace(
            step=carry.step + 1, ticket=ticket, model_state=model_state, opt_state=opt_state, totals=totals
        )
        return sharding.pin(_hold_dead(phase, after), mesh), Context(
            step=carry.step, key=key_during, batch=batch, grads=dense_grads, loss=loss
        )

    def edit(carry: Carry, context: Context) -> Carry:
        ticket, during = phase.during.update(carry.ticket, carry.during, context)
        return sharding.pin(_hold_dead(phase, carry._replace(ticket=ticket, during=during)), mesh)

    return descend, None if phase.during is transforms.identity() else edit


def seen(phase: Phase, carry: Carry) -> Params:
    """The weights that the network sees in the step that comes next, view(ticket).

    A scan has them ready at the end of the step before: there they come out of the kernel that trains what they are
    made of, and need none of their own. None where there is no gradient, and where they are the ticket's own: two of
    the same in a loop's carry are copied in each step.
    """
    made = _view(phase, carry)(leaves.split(getattr(carry.ticket, phase.trains))[0])[0]
    own = {id(leaf) for leaf in jax.tree.leaves(carry.ticket)}
    return jax.tree.map(lambda leaf: None if id(leaf) in own else leaf, made)


def _view(phase: Phase, carry: Carry) -> Callable[[Any], tuple[Params, Params]]:
    """What is trained -> what the network sees of it, with a gradient and without."""
    rest = leaves.split(getattr(carry.ticket, phase.trains))[1]
    key = _keys(carry.key, carry.step)[0]

    def view(trained: Any) -> tuple[Params, Params]:
        half = {phase.trains: leaves.join(trained, rest)}
        return leaves.split(phase.view(carry.ticket._replace(**half), carry.step, key))

    return view


def take_round(
    phase: Phase, carry: Carry, given: PyTree = None, due: jax.Array | None = None, mesh: Mesh | None = None
) -> Carry:
    """The carry after a round of `Phase.rounds`, which follows the step just taken.

    Args:
      given: the numbers of the round (`rounds.given`). mesh: as in `step_parts`.
      due: a bool scalar: where it is False the carry stays. So of many runs at once some have a round, some not.
    """
    assert phase.rounds is not None
    context = _of_round(carry)._replace(given=given)
    ticket, state = phase.rounds.transform.update(carry.ticket, carry.rounds, context)
    new = _hold_dead(phase, carry._replace(ticket=ticket, rounds=state))
    if due is not None:  # before they are pinned: what the round leaves alone, the count of steps too, stays as it is
        new = jax.tree.map(lambda new, old: old if new is old else jnp.where(due, new, old), new, carry)
    return sharding.pin(new, mesh)


def _of_round(carry: Carry) -> Context:
    last = carry.step - 1
    return Context(step=last, key=_keys(carry.key, last)[2], batch=None, grads=None, loss=None)


def _keys(key: Key, step: jax.Array) -> Key:
    """Of a step: for the view, for the loss, and for what edits the ticket after it."""
    return jax.random.split(jax.random.fold_in(key, step), 3)


def finish(phase: Phase, carry: Carry) -> Ticket:
    """The ticket after the phase's `after` transform; with `hold_dead`, trained params zero where it is dead."""
    context = Context(step=carry.step, key=jax.random.fold_in(carry.key, carry.step), batch=None, grads=None, loss=None)
    ticket, _ = phase.after.update(carry.ticket, carry.after, context)
    if phase.hold_dead and phase.trains == "params":
        ticket = ticket._replace(params=masks.apply(ticket.params, ticket.mask))
    return ticket


def _add(totals: Totals, step: jax.Array, loss: jax.Array, accuracy: jax.Array) -> Totals:
    bad = (totals.first_bad < 0) & ~jnp.isfinite(loss)
    return Totals(
        totals.loss + loss.astype(jnp.float32),
        totals.accuracy + accuracy.astype(jnp.float32),
        totals.num_steps + 1,
        jnp.where(bad, step, totals.first_bad),
    )


def _hold_dead(phase: Phase, carry: Carry) -> Carry:
    """Zeroes dead params, if they train, and what the optimizer holds of them."""
    if not phase.hold_dead:
        return carry
    ticket, mask = carry.ticket, carry.ticket.mask
    if phase.trains == "params":
        ticket = ticket._replace(params=masks.apply(ticket.params, mask))
    trained, _ = leaves.split(getattr(ticket, phase.trains))
    opt_state = optimizer.hold(carry.opt_state, trained, mask)
    return carry._replace(ticket=ticket, opt_state=opt_state)
