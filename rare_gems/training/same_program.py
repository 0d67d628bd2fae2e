"""Tells whether two phases do the same, given their states, so that one compiled program serves both."""

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from rare_gems import leaves, rounds
from rare_gems.phase import Batch, Context, ModelState, Params, Phase, PyTree, Scores, State, Step, Ticket
from rare_gems.training import optimizer

__all__ = ["program"]


def program(phase: Phase, ticket: Ticket, model_state: ModelState, batch: Batch) -> str:
    """A digest of all that is static in a phase. Phases with equal digests do the same, given their states.

    It reads the jaxprs of the view (and its pull-back), the optimizer, the transforms and the phase's own loss, their
    constants included, and the structures of the states. The loss of the trainer is not looked at.

    Args:
      ticket, model_state, batch: arrays or `ShapeDtypeStruct`s; nothing is computed.
    Returns:
      hexadecimal SHA-256, the same in every call and for every phase made alike (in one version of JAX).
    Example:
      >>> from rare_gems import masks
      >>> from rare_gems.pruners.gem_miner import search
      >>> mask = masks.ones([jnp.zeros((30, 10))])
      >>> ticket = Ticket([jnp.zeros((30, 10))], [jnp.zeros((30, 10))], mask)
      >>> def digest(**options):
      ...     return program(search(mask, num_epochs=9, steps_per_epoch=4, **options), ticket, None, None)
      >>> digest(sparsity=0.9, l2=1e-4) == digest(sparsity=0.5, l2=1e-5)
      True
      >>> digest(sparsity=0.9) == digest(sparsity=0.9, momentum=0.8)
      False

    Not seen: what a callback on the host does, and derivative rules where nothing is differentiated.
    """
    digest = hashlib.sha256()
    for token in _of_phase(phase, *jax.eval_shape(lambda *trees: trees, ticket, model_state, batch)):
        digest.update(token.encode() + b"\0")
    return digest.hexdigest()


def _of_phase(phase: Phase, ticket: Ticket, model_state: ModelState, batch: Batch) -> Iterator[str]:
    yield from _of((
        phase.name, phase.trains, phase.num_steps, phase.hold_dead, phase.rewind_state, phase.passes, phase.uses_data,
    ))  # fmt: skip
    step, key = jax.eval_shape(lambda: (jnp.int32(0), jax.random.key(0)))
    after = jax.eval_shape(phase.after.init, ticket)
    yield from _of_function(phase.after.update, ticket, after, Context(step=step, key=key, batch=None, grads=None))
    if phase.num_steps == 0:
        return

    trained, _ = leaves.split(getattr(ticket, phase.trains))

    def view(trained: Params | Scores, ticket: Ticket, step: Step, key: jax.Array) -> tuple[Params, Params]:
        half = leaves.join(trained, leaves.split(getattr(ticket, phase.trains))[1])
        return leaves.split(phase.view(ticket._replace(**{phase.trains: half}), step, key))

    def there_and_back(grads: Params, trained: Params | Scores, *inputs: Any) -> Any:
        seen, pull_back, fixed = jax.vjp(lambda trained: view(trained, *inputs), trained, has_aux=True)
        return seen, fixed, pull_back(grads)

    seen, fixed = jax.eval_shape(view, trained, ticket, step, key)
    yield from _of_function(there_and_back, seen, trained, ticket, step, key)
    if phase.loss_fn is not None:
        network = leaves.join(seen, fixed)
        yield from _of_function(leaves.value_and_grad(phase.loss_fn), network, model_state, batch, key)
    loss: Any = jax.ShapeDtypeStruct((), jnp.float32)
    state = jax.eval_shape(lambda trained: optimizer.init(phase.optimizer, trained), trained)
    update = lambda grads, state, trained, value: optimizer.update(  # noqa: E731
        phase.optimizer, grads, state, trained, value, lambda trained: optimizer.sum_of(trained, value)
    )
    yield from _of_function(update, trained, state, trained, loss)
    if phase.hold_dead:
        yield from _of_function(optimizer.hold, state, trained, ticket.mask)
    during: State = jax.eval_shape(phase.during.init, ticket)
    yield from _of_function(
        phase.during.update, ticket, during, Context(step=step, key=key, batch=batch, grads=seen, loss=loss)
    )
    yield f"rounds: {phase.rounds is not None}"
    if phase.rounds is not None and len(phase.rounds.steps):  # when they are, and their numbers, is the host's matter
        numbers = rounds.given(phase.rounds, 0)
        state = jax.eval_shape(phase.rounds.transform.init, ticket)
        context = Context(step=step, key=key, batch=None, grads=None, loss=None, given=numbers)
        yield from _of_function(phase.rounds.transform.update, ticket, state, context)


def _of_function(fn: Callable, *inputs: PyTree) -> Iterator[str]:
    jaxpr, output = jax.make_jaxpr(lambda *inputs: fn(*inputs), return_shape=True)(*inputs)
    yield _named(jax.tree.structure((inputs, output)))
    yield from _of(jaxpr)


def _of(value: Any) -> Iterator[str]:
    """A value as text that is the same for equal values: arrays by their bytes, nothing by its address."""
    if isinstance(value, core.ClosedJaxpr):
        yield from _of(value.consts)
        yield from _of_jaxpr(value.jaxpr)
    elif isinstance(value, core.Jaxpr):
        yield from _of_jaxpr(value)
    elif isinstance(value, dict):
        for name in sorted(value):
            yield name
            yield from _of(value[name])
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__} of {len(value)}"
        for item in value:
            yield from _of(item)
    elif isinstance(value, set | frozenset):
        yield str(sorted(map(_named, value)))
    elif hasattr(value, "__array__"):
        array = np.asarray(jax.random.key_data(value) if leaves.is_key(value) else value)
        yield f"{array.dtype}{array.shape} {array.tobytes().hex()}"
    elif callable(value):
        yield getattr(value, "__name__", type(value).__name__)
    else:
        yield _named(value)


def _of_jaxpr(jaxpr: core.Jaxpr) -> Iterator[str]:
    order: dict[Any, int] = {}

    def of_atoms(atoms: Any) -> Iterator[str]:
        for atom in atoms:
            aval = atom.aval
            yield f"{getattr(aval, 'dtype', aval)}{getattr(aval, 'shape', '')}{getattr(aval, 'weak_type', False)}"
            if isinstance(atom, core.Literal):
                yield from _of(atom.val)
            else:
                yield str(order.setdefault(atom, len(order)))

    yield from of_atoms((*jaxpr.constvars, *jaxpr.invars))
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        yield from _of(equation.params)
        yield from of_atoms((*equation.invars, *equation.outvars))
    yield from of_atoms(jaxpr.outvars)


def _named(value: Any) -> str:
    return re.sub(r"0x[0-9a-f]+", "", repr(value))
