"""The one trainer: a step from a phase, epochs from steps, a run from a recipe."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rare_gems import masks, transforms
from rare_gems.feeds import Feed, Stream, advance_fn
from rare_gems.phase import (
    Batch,
    Context,
    Key,
    LossFn,
    ModelState,
    Params,
    Phase,
    Recipe,
    State,
    Ticket,
)  # fmt: skip

__all__ = ["Carry", "Moment", "Totals", "begin", "epochs", "finish", "make_step", "run", "step_parts"]


class Totals(NamedTuple):
    """Sums over the steps of the present epoch (float32), their number, and the first step of the phase whose
    loss was not finite (int32, -1: none)."""

    loss: jax.Array
    accuracy: jax.Array
    num_steps: jax.Array
    first_bad: jax.Array


class Carry(NamedTuple):
    """All that a step reads and writes: to save it is to save the run. `step` counts the steps done (int32);
    `first_state` is the model state at the phase's start, where the phase rewinds it (None elsewhere)."""

    step: jax.Array
    key: Key
    ticket: Ticket
    model_state: ModelState
    first_state: ModelState
    opt_state: Any
    during: State
    after: State
    totals: Totals


class Moment(NamedTuple):
    """The end of an epoch or of a phase. `carry` is donated to the next step: read it before asking for more.

    `epoch` counts the whole epochs done in the phase; `ended` says that this is the phase's end, where `after`
    has been applied to `ticket` and `model_state` may have been rewound; `interrupted` that `poll` stopped the run.
    """

    index: int
    phase: Phase
    epoch: int
    carry: Carry
    ticket: Ticket
    model_state: ModelState
    ended: bool
    interrupted: bool


# What vmap maps of many runs: all but the step, so that they do together what is done every so many steps.
_MANY = Carry(None, 0, 0, 0, 0, 0, 0, 0, 0), Context(None, 0, 0, 0, 0)  # type: ignore

Descend = Callable[[Carry, Batch], tuple[Carry, Context]]
Edit = Callable[[Carry, Context], Carry]


def begin(phase: Phase, ticket: Ticket, model_state: ModelState, key: Key) -> Carry:
    """The carry at the start of a phase: fresh optimizer and transform states, no buffer shared with the caller.

    Raises:
      ValueError: if the phase trains scores that the ticket does not have.
    """
    if phase.trains not in ("params", "scores"):
        raise ValueError(f"phase {phase.name!r}: trains: expected 'params' or 'scores', got {phase.trains!r}")
    if jax.tree.structure(ticket.scores) != jax.tree.structure(ticket.mask):
        raise ValueError("ticket: expected scores and mask of one structure, got different ones")
    if phase.hold_dead and phase.trains == "params":
        ticket = ticket._replace(params=masks.apply(ticket.params, ticket.mask))
    zero = jnp.float32(0)
    carry = Carry(
        jnp.int32(0), key, ticket, model_state, model_state if phase.rewind_state else None,
        _init(phase.optimizer, getattr(ticket, phase.trains)),
        phase.during.init(ticket), phase.after.init(ticket), Totals(zero, zero, jnp.int32(0), jnp.int32(-1)),
    )  # fmt: skip
    # A copy each: the step donates its carry, and no buffer may be donated twice or belong to somebody else.
    return jax.tree.map(lambda x: jnp.array(x, dtype=x.dtype, copy=True), carry)


def make_step(loss_fn: LossFn, phase: Phase) -> Callable[[Carry, Batch], Carry]:
    """One training step of a phase, as a pure function (carry, batch) -> carry.

      w = view(ticket);  g = dL/dw (dense);  the optimizer gets the pull-back of g through the view;
      then `during` edits the ticket with g in its context.

    Args:
      loss_fn: (params, model state, batch, key) -> (loss, (model state, accuracy)), scalars in float32; a
        phase with a `loss_fn` of its own uses that.
      phase: what to train and how.
    Returns:
      the step, not compiled: jit it (donating the carry), scan it or vmap it.
    Example:
      >>> from rare_gems import transforms, views
      >>> phase = Phase(views.masked, "params", optax.sgd(0.5), transforms.identity(), transforms.identity(), 1)
      >>> ticket = Ticket([jnp.array([1.0, 1.0])], [jnp.zeros(2)], [jnp.array([True, False])])
      >>> loss_fn = lambda params, state, batch, key: ((params[0] * batch).sum(), (state, jnp.float32(0)))
      >>> carry = begin(phase, ticket, None, jax.random.key(0))
      >>> make_step(loss_fn, phase)(carry, jnp.array([1.0, 1.0])).ticket.params
      [Array([0.5, 0. ], dtype=float32)]
    """

    descend, edit = step_parts(loss_fn, phase)
    return lambda carry, batch: edit(*descend(carry, batch)) if edit else descend(carry, batch)[0]


def step_parts(loss_fn: LossFn, phase: Phase) -> tuple[Descend, Edit | None]:
    """The two halves of `make_step`: gradient and optimizer, then the `during` transform (None where it is identity).

    Compiled one by one they are faster on CPU: a `lax.cond` in a program keeps XLA from running its operations side
    by side, which costs a ResNet-20 step an eighth of its time.

    Args:
      loss_fn, phase: as in `make_step`.
    Returns:
      `descend(carry, batch) -> (carry, context)` and `edit(carry, context) -> carry`.
    """

    def descend(carry: Carry, batch: Batch) -> tuple[Carry, Context]:
        key_view, key_loss, key_during = jax.random.split(jax.random.fold_in(carry.key, carry.step), 3)
        trained = getattr(carry.ticket, phase.trains)

        def view(trained: Any) -> Params:
            return phase.view(carry.ticket._replace(**{phase.trains: trained}), carry.step, key_view)

        seen, pull_back = jax.vjp(view, trained)
        grad_fn = jax.value_and_grad(phase.loss_fn or loss_fn, has_aux=True)
        (loss, (model_state, accuracy)), dense_grads = grad_fn(seen, carry.model_state, batch, key_loss)
        (grads,) = pull_back(dense_grads)
        with jax.numpy_dtype_promotion("standard"):  # some optimizers mix integer counts and floats
            updates, opt_state = phase.optimizer.update(grads, carry.opt_state, trained)
        opt_state = jax.tree.map(lambda new, old: new.astype(old.dtype), opt_state, carry.opt_state)
        if phase.hold_dead:
            updates = masks.apply(updates, carry.ticket.mask)
        ticket = carry.ticket._replace(**{phase.trains: optax.apply_updates(trained, updates)})
        totals = _add(carry.totals, carry.step, loss, accuracy)
        after = carry._replace(
            step=carry.step + 1, ticket=ticket, model_state=model_state, opt_state=opt_state, totals=totals
        )
        return _hold_dead(phase, after), Context(carry.step, key_during, batch, dense_grads, loss)

    def edit(carry: Carry, context: Context) -> Carry:
        ticket, during = phase.during.update(carry.ticket, carry.during, context)
        return _hold_dead(phase, carry._replace(ticket=ticket, during=during))

    return descend, None if phase.during is transforms.identity() else edit


def finish(phase: Phase, carry: Carry) -> Ticket:
    """The ticket after the phase's `after` transform; with `hold_dead`, trained params zero where it is dead."""
    context = Context(carry.step, jax.random.fold_in(carry.key, carry.step), None, None, None)
    ticket, _ = phase.after.update(carry.ticket, carry.after, context)
    if phase.hold_dead and phase.trains == "params":
        ticket = ticket._replace(params=masks.apply(ticket.params, ticket.mask))
    return ticket


def epochs(
    recipe: Recipe,
    ticket: Ticket,
    model_state: ModelState,
    *,
    loss_fn: LossFn,
    feed: Feed | Stream | Sequence[Feed | Stream],
    key: Key,
    resume: tuple[int, Carry] | None = None,
    loop: Literal["auto", "python", "scan"] = "auto",
    poll: Callable[[int, int], bool] = lambda index, done: False,
    many: bool = False,
) -> Iterator[Moment]:
    """Runs a recipe, handing over at the end of every epoch and of every phase.

    Args:
      recipe: phases, run in order; an identical phase that comes again is not compiled again.
      ticket, model_state: where to start; they are copied, never donated.
      loss_fn: as in `make_step`.
      feed: where batches come from (a `feeds.Feed` or `feeds.Stream`), one for all phases or one for each.
      key: the run's randomness: phase i uses fold_in(key, i), its epoch e draws the order of examples from
        fold_in(fold_in(phase key, 2**31 - 1), e).
      resume: (phase index, carry) of a Moment; the run goes on from there as if it had never stopped.
      loop: "python" dispatches compiled steps one by one, "scan" compiles an epoch into one call; "auto" scans
        except on CPU, where XLA runs convolution gradients ten times slower inside a loop (jax-ml/jax#12868). A
        stream's steps are always dispatched one by one.
      poll: called between steps ("scan": between epochs) with the phase's index and the steps done in it; once it
        returns True, a last Moment is `interrupted`.
      many: several runs at once, under `jax.vmap`: ticket, model state and key (and a `resume`d carry, but for its
        step) have a leading axis of runs, and so has what is yielded. Each run does what it does alone.
    Yields:
      a Moment per epoch, and one per phase end.
    Raises:
      ValueError: if `resume` names a phase that the recipe does not have, or there are not as many feeds as phases.
    """
    feeds = [feed] * len(recipe) if isinstance(feed, Feed | Stream) else list(feed)
    if len(feeds) != len(recipe):
        raise ValueError(f"feed: expected one, or one for each of {len(recipe)} phases, got {len(feeds)}")
    scan = jax.default_backend() != "cpu" if loop == "auto" else loop == "scan"
    compiled: dict[tuple[int, int], tuple[Callable, Callable]] = {}  # by identity of phase and feed
    axes = _MANY if many else None
    begin_fn, finish_fn, fold_in = _for_many() if many else (begin, finish, jax.random.fold_in)
    start = 0 if resume is None else resume[0]
    if resume is not None and not 0 <= start < len(recipe):
        raise ValueError(f"resume: expected a phase index from 0 to {len(recipe) - 1}, got {start}")
    for index in range(start, len(recipe)):
        phase, feed = recipe[index], feeds[index]
        if resume is not None and index == start:
            carry = jax.tree.map(lambda x: jnp.array(x, dtype=x.dtype, copy=True), resume[1])
        else:
            carry = begin_fn(phase, ticket, model_state, fold_in(key, index))
        if (id(phase), id(feed)) not in compiled:
            fns = advance_fn(*step_parts(loss_fn, phase), feed, scan, axes), jax.jit(finish_fn, static_argnums=0)
            compiled[id(phase), id(feed)] = fns
        advance, finish_phase = compiled[id(phase), id(feed)]
        done = int(carry.step)
        while done < phase.num_steps:
            target = min(phase.num_steps, (done // feed.num_batches + 1) * feed.num_batches)
            carry, done, interrupted = advance(carry, done, target, functools.partial(poll, index))
            interrupted = interrupted and done < phase.num_steps  # the phase is over: nothing is left to interrupt
            epoch = done // feed.num_batches
            yield Moment(index, phase, epoch, carry, carry.ticket, carry.model_state, False, interrupted)
            if interrupted:
                return
        ticket = finish_phase(phase, carry)
        model_state = carry.first_state if phase.rewind_state else carry.model_state
        yield Moment(index, phase, done // feed.num_batches, carry, ticket, model_state, True, False)


def _for_many() -> tuple[Callable, Callable, Callable]:
    """`begin`, `finish` and `jax.random.fold_in` for many runs."""

    def begin_all(phase: Phase, ticket: Ticket, model_state: ModelState, key: Key) -> Carry:
        one = lambda *args: begin(phase, *args)  # noqa: E731
        return jax.vmap(one, out_axes=_MANY[0])(ticket, model_state, key)

    def finish_all(phase: Phase, carry: Carry) -> Ticket:
        return jax.vmap(lambda carry: finish(phase, carry), in_axes=_MANY[:1])(carry)

    return begin_all, finish_all, jax.vmap(jax.random.fold_in, in_axes=(0, None))


def run(recipe: Recipe, ticket: Ticket, model_state: ModelState, **options: Any) -> tuple[Ticket, ModelState]:
    """Runs a recipe to its end; `options` as in `epochs`.

    Returns:
      the ticket and the model state (BatchNorm statistics) after the last phase.
    """
    for moment in epochs(recipe, ticket, model_state, **options):
        if moment.ended:
            ticket, model_state = moment.ticket, moment.model_state
    return ticket, jax.tree.map(jnp.copy, model_state)


def _init(optimizer: optax.GradientTransformation, trained: Any) -> Any:
    with jax.numpy_dtype_promotion("standard"):
        return optimizer.init(trained)


def _add(totals: Totals, step: jax.Array, loss: jax.Array, accuracy: jax.Array) -> Totals:
    bad = (totals.first_bad < 0) & ~jnp.isfinite(loss)
    return Totals(
        totals.loss + loss.astype(jnp.float32),
        totals.accuracy + accuracy.astype(jnp.float32),
        totals.num_steps + 1,
        jnp.where(bad, step, totals.first_bad),
    )


def _hold_dead(phase: Phase, carry: Carry) -> Carry:
    """Zeroes dead params, if they train, and what the optimizer holds of them, for any optax chain.

    What has another shape than its parameter is left: placeholders (`optax.masked`), Adafactor's rows and columns.
    """
    if not phase.hold_dead:
        return carry
    ticket, mask = carry.ticket, carry.ticket.mask
    if phase.trains == "params":
        ticket = ticket._replace(params=masks.apply(ticket.params, mask))
    leaves = jax.tree.map(lambda w, m: True if m is None else m, getattr(ticket, phase.trains), mask)

    def hold(slot: Any, m: Any) -> Any:
        return jnp.where(m, slot, jnp.zeros_like(slot)) if np.shape(m) == getattr(slot, "shape", None) else slot

    with jax.numpy_dtype_promotion("standard"):  # map_params calls init
        opt_state = optax.tree.map_params(
            phase.optimizer.init, hold, carry.opt_state, leaves,
            is_leaf=lambda node: isinstance(node, optax.MaskedNode),
        )  # fmt: skip
    return carry._replace(ticket=ticket, opt_state=opt_state)
