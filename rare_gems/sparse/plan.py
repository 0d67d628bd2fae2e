"""What of a recipe remains when the training loop is somebody else's: when masks are made, and how they move."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

from rare_gems import rounds, transforms, views
from rare_gems.phase import Context, Key, Phase, Recipe, State, Ticket, Transform

__all__ = ["Plan", "plan_of"]


class Plan(NamedTuple):
    """`start(ticket, key)` makes the first mask, `init` the state of `update(ticket, state, context)`, which follows
    each step. In the first `num_scoring` steps gradients are looked at and weights rest. Without `moves` the mask
    stays, and there is no need to call `update`."""

    start: Callable[[Ticket, Key], Ticket]
    init: Callable[[Ticket], State]
    update: Callable[[Ticket, State, Context], tuple[Ticket, State]]
    num_scoring: int
    moves: bool


def plan_of(recipe: Recipe | Transform | tuple[Phase | Transform, ...]) -> Plan:
    """The edits of a recipe, or a transform that follows every step, without their optimizers and views.

    Args:
      recipe: phases without steps, then at most one that scores weights at rest (`hold_dead` is False), then at most
        one that trains the params; or phases without steps and a transform.
    Raises:
      ValueError: for other recipes, and where a phase trains scores or has a loss of its own.
    """
    parts = (recipe,) if isinstance(recipe, Transform) else recipe
    phases = [part for part in parts if not isinstance(part, Transform)]
    following = [part for part in parts if isinstance(part, Transform)]
    mixed = any(isinstance(part, Transform) for part in parts[:-1])
    if mixed or (following and any(phase.num_steps for phase in phases)):
        raise ValueError("recipe: expected edits and then one transform, or phases alone, got them mixed")
    edits = [phase for phase in phases if phase.num_steps == 0]
    rest = phases[len(edits) :]
    if any(phase.num_steps == 0 for phase in rest):
        raise ValueError("recipe: expected its edits before its training, got an edit after it; use the trainer")
    for phase in rest:
        _check(phase)
    scoring = rest[0] if rest and not rest[0].hold_dead else None
    training = rest[scoring is not None :]
    if len(training) > 1 or any(not phase.hold_dead for phase in training):
        raise ValueError(f"recipe: expected one training, got {len(rest)} phases with steps; use the trainer")
    if training:
        following = [rounds.each_step(training[0])]
    return _plan(edits, scoring, following[0] if following else transforms.identity())


def _check(phase: Phase) -> None:
    if phase.trains != "params" or phase.view is not views.masked:
        raise ValueError(
            f"phase {phase.name!r}: expected one that trains masked params, got one that trains {phase.trains}; "
            "find the mask with the trainer, and give it to `prune`"
        )
    if phase.loss_fn is not None:
        raise ValueError(
            f"phase {phase.name!r}: expected one that follows the gradient of the loop, got one with a loss of its "
            "own; find the mask with the trainer, and give it to `prune`"
        )


def _plan(edits: Sequence[Phase], scoring: Phase | None, during: Transform) -> Plan:
    num_scoring = scoring.num_steps if scoring else 0
    looks = rounds.each_step(scoring) if scoring else transforms.identity()

    def start(ticket: Ticket, key: Key) -> Ticket:
        for i, phase in enumerate(edits):  # steps take the keys from 0 up
            context = Context(step=0, key=jax.random.fold_in(key, 2**32 - 1 - i), batch=None, grads=None, loss=None)
            with _asking("gradients, a batch or a loss, which there are not before the first update"):
                ticket, _ = phase.after.update(ticket, phase.after.init(ticket), context)
        return ticket

    def init(ticket: Ticket) -> State:
        first = (looks.init(ticket), scoring.after.init(ticket)) if scoring else ()
        return first, during.init(ticket)

    def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        with _asking("a batch, which `tx.update` has not, or a loss, which it has as `value=loss`"):
            return moved(ticket, state, context)

    def moved(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        first, later = state
        if scoring is None:
            ticket, later = during.update(ticket, later, context)
            return ticket, (first, later)
        ticket, first = jax.lax.cond(context.step < num_scoring, score, lambda t, s, c: (t, s), ticket, first, context)
        if during is transforms.identity():
            return ticket, (first, later)
        local = context._replace(step=context.step - num_scoring)
        ticket, later = jax.lax.cond(
            context.step >= num_scoring, during.update, lambda t, s, c: (t, s), ticket, later, local
        )
        return ticket, (first, later)

    def score(ticket: Ticket, state: Any, context: Context) -> tuple[Ticket, Any]:
        assert scoring is not None
        ticket, looking = looks.update(ticket, state[0], context)
        last = context.step == num_scoring - 1
        ticket, ending = jax.lax.cond(
            last, scoring.after.update, lambda t, s, c: (t, s), ticket, state[1], context._replace(grads=None)
        )
        return ticket, (looking, ending)

    return Plan(
        start=start,
        init=init,
        update=update,
        num_scoring=num_scoring,
        moves=scoring is not None or during is not transforms.identity(),
    )


@contextmanager
def _asking(what: str) -> Generator[None, None, None]:
    """Says what a transform asked its context for in vain, where it fails on None."""
    try:
        yield
    except (AttributeError, TypeError, ValueError) as error:
        if "NoneType" not in str(error) and "got None" not in str(error):  # the latter is how JAX 0.8 and 0.9 say it
            raise
        said = " ".join(str(error).split())
        raise ValueError(
            f"method: expected one that does not ask for {what}; got {type(error).__name__}: {said}"
        ) from error
