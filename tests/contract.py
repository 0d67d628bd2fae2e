"""The laws that every pruning method keeps, each a function of one method. `check` asks them all, without pytest.

`tests/test_contract.py` asks them of every method of the library; a notebook or a script of yours asks `check`:

    from tests import contract
    contract.check(lambda mask: my_method(mask, sparsity=contract.SPARSITY))
"""

import contextlib
import functools
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rare_gems import masks, rounds
from rare_gems.phase import Recipe
from rare_gems.storage import checkpoint
from rare_gems.training import control_flow, optimizer, stretches, trainer
from rare_gems.training import programs as trainer_programs
from rare_gems.training.step import step_parts
from tests.toy import NUM_BATCHES, Toy, make_toy

KEY = jax.random.key(7)
SPARSITY = 0.8
NUM_PRUNABLE = 16 * 8 + 8 * 6
TARGET = masks.count_for(NUM_PRUNABLE, SPARSITY)


class Row(NamedTuple):
    """`rounds`: kept after each phase-local step, {(phase, steps done): count}; `exact` is False where the method
    does not promise the final count; `reviving` where masks are not nested."""

    make: Callable
    rounds: dict[tuple[int, int], int]
    target: int = TARGET
    exact: bool = True
    reviving: bool = False


class Case(NamedTuple):
    """A method's recipe for the toy, and what is promised of it."""

    toy: Toy
    row: Row
    recipe: Recipe


class Programs(NamedTuple):
    """Programs that laws and methods share: the halves of steps, what advances by them, and the arguments of every call
    that asked for one; which phases and chunks were traced already, with what keeps their identities alive."""

    parts: dict
    advances: dict
    asked: list
    phases: set
    chunks: set
    alive: list


@contextlib.contextmanager
def programs():
    """While it lasts, steps are traced and compiled once for all laws, and for all methods that share a phase; so are
    the first steps that optimizers take to be checked."""
    shared = Programs({}, {}, [], set(), set(), [])
    with contextlib.ExitStack() as stack:
        for name, known in (("step_parts", shared.parts), ("advance_fn", shared.advances)):
            once = _once(getattr(trainer_programs, name), known, shared.asked)
            stack.enter_context(mock.patch.object(trainer_programs, name, once))
        for name in ("_finish_fn", "_round_fn"):
            cached = functools.cache(getattr(trainer_programs, name))
            stack.enter_context(mock.patch.object(trainer_programs, name, cached))
        stack.enter_context(mock.patch.object(optimizer, "check", _check_once(optimizer.check)))
        yield shared


def forget(shared: Programs, but: tuple = ()) -> None:
    """Drops the programs of a method, but for those of some phases."""
    for key in [key for key, ((_, phase, _), _) in shared.parts.items() if phase not in but]:
        del shared.parts[key]
    kept = [descend for _, (descend, _) in shared.parts.values()]
    for key in [key for key, (args, _) in shared.advances.items() if args[0] not in kept]:
        del shared.advances[key]


def check(make: Callable, **promised) -> None:
    """Asks every law of a method, and prints a line for each that holds.

    Args:
      make: prunable mask (a tree of bool arrays) -> recipe that keeps `TARGET` of `NUM_PRUNABLE` weights.
      promised: `rounds`, `target`, `exact`, `reviving` of `Row`, where they differ.
    Raises:
      AssertionError: for the first law that does not hold.
    """
    toy = make_toy()
    row = Row(make, **{"rounds": {}} | promised)
    case = Case(toy, row, make(toy.ticket.mask))
    with programs() as shared, tempfile.TemporaryDirectory() as folder:
        alone = run_alone(case, shared)
        counts_nesting_and_dead_weights(case)
        print(f"{row.target} of {NUM_PRUNABLE} weights are kept, removed ones stay zero")
        the_carry_keeps_its_types(case)
        print("abstract values suffice")
        steps_between_rounds_have_no_control_flow(case)
        scanned_many_and_sharded(case, alone, shared)
        print("every phase compiles once")
        print("runs under vmap are those that run alone")
        print(f"masks are the same on a mesh of {num_devices()} device(s)")
        restored_equals_uninterrupted(case, alone, Path(folder))
        print("a stopped run ends as one that was not stopped")


def num_devices() -> int:
    """As many of this machine's devices as divide the leading axes of the toy's kernels."""
    return max(n for n in (1, 2, 4, 8) if n <= jax.device_count())


def run_alone(case: Case, shared: Programs):
    """What a run ends with, and how often it traced the toy's loss, for how many phases that no run had before."""
    shared.asked.clear()
    new = {id(phase) for phase in _counted(case.recipe)} - shared.phases
    shared.phases.update(new)
    shared.alive.append(case.recipe)
    case.toy.num_traces[0] = 0
    ended = _run(case.toy, case.recipe, loop="python")
    assert len(set(shared.asked)) == len(shared.asked), "the trainer itself makes the programs of a phase once"
    return ended, case.toy.num_traces[0], len(new)


def _counted(recipe):
    """The phases that step with the toy's own loss, which counts how often it is traced."""
    return [phase for phase in recipe if phase.num_steps and phase.loss_fn is None]


def counts_nesting_and_dead_weights(case: Case) -> None:
    toy, row, recipe = case
    seen, before = set(), _host(masks.ones(toy.ticket.params))
    for index, phase, carry, ticket in _steps(toy, recipe):
        done = (index, int(carry.step))
        if done in row.rounds:
            seen.add(done)
            assert masks.num_kept(carry.ticket.mask) == row.rounds[done], f"rounds: {done}"
        mask, trained = _host(ticket.mask), _host(getattr(ticket, phase.trains))
        if not row.reviving:
            nested = map(lambda new, old: bool(np.all(old | ~new)), *map(jax.tree.leaves, (mask, before)))
            assert all(nested), f"phase {index}, step {done[1]}: a removed weight came back"
        before = mask
        if phase.hold_dead:
            if phase.trains == "params":  # the ticket of the step, or what `finish` makes of it
                jax.tree.map(_assert_zero_where, trained, _dead(mask, trained))
            dead = _dead(carry.ticket.mask, trained)
            optax.tree.map_params(phase.optimizer, _assert_zero_where, _host(carry.opt_state), dead)
    assert seen == set(row.rounds)
    final = masks.num_kept(ticket.mask)
    assert final == row.target if row.exact else 0 < final <= row.target, f"kept at the end: {final}"
    if row.exact:
        masks.check(ticket.mask, row.target)


def _host(tree):
    return jax.tree.map(np.asarray, tree)


def _dead(mask, like):
    """Where a weight is dead, in the structure of `like`: nowhere in what is not prunable."""
    return jax.tree.map(lambda w, m: np.zeros(w.shape, bool) if m is None else ~np.asarray(m), like, mask)


def _assert_zero_where(slot, dead):
    np.testing.assert_array_equal(slot[dead], 0)


def the_carry_keeps_its_types(case: Case) -> None:
    """And abstract values suffice to know them."""
    toy, _, recipe = case
    for phase in recipe:
        carry = jax.eval_shape(lambda p=phase: trainer.begin(p, toy.ticket, toy.model_state, jax.random.key(0)))
        after = jax.eval_shape(trainer.make_step(toy.loss_fn, phase), carry, toy.feed.data[:4])
        describe = lambda tree: [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]  # noqa: E731
        assert jax.tree.structure(carry) == jax.tree.structure(after)
        assert describe(carry) == describe(after)
        end = jax.eval_shape(lambda c, p=phase: trainer.finish(p, c), carry)
        assert describe(end) == describe(carry.ticket)


def steps_between_rounds_have_no_control_flow(case: Case) -> bool:
    """Where a phase has rounds, it is these that select, not its steps. Returns whether any has."""
    toy, _, recipe = case
    with_rounds = [phase for phase in recipe if phase.rounds is not None]
    for phase in with_rounds:
        carry = jax.eval_shape(lambda p=phase: trainer.begin(p, toy.ticket, toy.model_state, jax.random.key(0)))
        descend, edit = step_parts(toy.loss_fn, phase)
        step = lambda c, b, d=descend, e=edit: e(*d(c, b)) if e else d(c, b)[0]  # noqa: E731
        assert control_flow.names(step, carry, toy.feed.data[:4]) == set(), "a step with control flow"
        take = lambda c, p=phase: trainer.take_round(p, c, rounds.given(p.rounds, 0))  # noqa: E731
        assert control_flow.names(take, carry) & {"while", "scan"}, "a round without a selection"
    return bool(with_rounds)


def scanned_many_and_sharded(case: Case, alone, shared: Programs) -> None:
    """Three laws in one program for each phase: what they say of a run alone must hold of all at once. Where it does
    not, each is asked by itself, to name the one that is broken."""
    (_, _), num_traces, num_phases = alone
    assert num_traces == num_phases, "a step that is dispatched compiles once, however often a phase comes again"
    try:
        _holds(case, alone, shared, scanned=True, many=True, sharded=True)
    except Exception:
        for name, law in LAWS.items():
            try:
                _holds(case, alone, None, **law)
            except Exception as error:
                raise AssertionError(f"it does not hold that {name}") from error
        raise


LAWS = {
    "loop and scan agree": {"scanned": True},
    "many runs at once give each its own ticket": {"many": True},
    "a sharded run equals one on a single device": {"sharded": True},
}


def _holds(case: Case, alone, shared: Programs | None, scanned=False, many=False, sharded=False) -> None:
    """Of a run in one of three ways, or in several, that it ends with what it ends with alone; with `shared`, that its
    chunks compile once."""
    toy, _, recipe = case
    counted = _counted(recipe)
    stops = [() if phase.rounds is None else phase.rounds.steps for phase in counted]
    lengths = [stretches.lengths_of(at, p.num_steps, NUM_BATCHES) for p, at in zip(counted, stops, strict=True)]
    chunks = {(id(phase), length) for phase, own in zip(counted, lengths, strict=True) for length in own}
    options = {"loss_fn": toy.loss_fn, "feed": toy.feed, "loop": "scan" if scanned else "python", "many": many}
    ticket, state, key, expected = toy.ticket, toy.model_state, KEY, [alone[0]]
    if many:
        key = jnp.stack([KEY, jax.random.key(3)])
        expected.append(trainer.run(recipe, ticket, state, **options | {"loop": "python", "many": False}, key=key[1]))
        ticket, state = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (ticket, state))
    place = _place_rows(many) if sharded else lambda tree: tree
    toy.num_traces[0] = 0
    with mock.patch.object(trainer_programs, "advance_fn", _placed(trainer_programs.advance_fn, place)):
        got = jax.device_get(end := trainer.run(recipe, place(ticket), place(state), key=key, **options))
    if scanned and shared is not None:
        assert toy.num_traces[0] == len(chunks - shared.chunks), "a chunk of steps compiles once"
        shared.chunks.update(chunks)
    if sharded:
        assert len(jax.tree.leaves(end[0].mask)[0].sharding.device_set) == num_devices()
    for i, (ticket, state) in enumerate(jax.device_get(expected)):
        own, own_state = jax.tree.map(lambda leaf, i=i: leaf[i], got) if many else got
        _equal(own.mask, ticket.mask)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), own.params, ticket.params)
        assert own_state["seen"] == state["seen"]


def _place_rows(many: bool) -> Callable:
    """Puts the rows of kernels, and of what is shaped like them, on devices of their own, and copies of the rest."""
    mesh = jax.make_mesh((num_devices(),), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    rows, whole = spec(*[None] * many, "model"), spec()
    of = lambda x: jax.sharding.NamedSharding(mesh, rows if x.ndim == 2 + many else whole)  # noqa: E731
    return lambda tree: jax.device_put(tree, jax.tree.map(of, tree))


def _placed(advance_fn: Callable, place: Callable) -> Callable:
    """`advance_fn` of carries that lie alike at every call, lest XLA's own choices ask for other programs."""

    def make(*args):
        advance = advance_fn(*args)
        return lambda carry, *rest: advance(place(carry), *rest)

    return make


def restored_equals_uninterrupted(case: Case, alone, folder: Path) -> None:
    """Stopped twice: after the first step, and half-way."""
    toy, _, recipe = case
    ends = [0, *itertools.accumulate(phase.num_steps for phase in recipe)]
    inside = [step for step in range(1, ends[-1]) if step not in ends]  # at a phase's end there is nothing to stop
    manager = checkpoint.open_folder(folder, keep=100)
    resume = None
    for stop in sorted({inside[0], inside[len(inside) // 2]}):
        options = {"loss_fn": toy.loss_fn, "feed": toy.feed, "key": KEY, "resume": resume}
        poll = lambda index, done, stop=stop: ends[index] + done == stop  # noqa: E731
        for moment in trainer.epochs(recipe, toy.ticket, toy.model_state, poll=poll, **options):
            last = moment
        assert last.interrupted
        checkpoint.save(manager, stop, last.carry, {"index": last.index})
        phase = recipe[last.index]
        template = jax.eval_shape(lambda p=phase: trainer.begin(p, toy.ticket, toy.model_state, jax.random.key(0)))
        manager.wait_until_finished()
        saved = checkpoint.restore_latest(manager, lambda notes, t=template: t)
        assert saved.position == stop
        resume = saved.notes["index"], saved.tree
    _equal(_run(toy, recipe, resume=resume), alone[0])
    checkpoint.close(manager)


def _once(fn, known, asked):
    """What `fn` returned for the very same arguments, which are kept alive; `asked` lists every call's."""

    def remembered(*args):
        asked.append(key := tuple(map(id, args)))
        if key not in known:
            known[key] = args, fn(*args)
        return known[key][1]

    return remembered


def _check_once(check):
    """`optimizer.check`, of the same optimizer and shapes once; what passed is kept alive."""
    passed = {}

    def remembered(tx, shapes, name):
        key = id(tx), jax.tree.structure(shapes), tuple((x.shape, x.dtype) for x in jax.tree.leaves(shapes))
        if key not in passed:
            check(tx, shapes, name)
            passed[key] = tx

    return remembered


def _steps(toy, recipe):
    """Every carry of a run that is stopped after each step, and the ticket at the end of each phase."""
    ticket, state = toy.ticket, toy.model_state
    for index, phase in enumerate(recipe):
        carry = trainer.begin(phase, ticket, state, jax.random.fold_in(KEY, index))
        yield index, phase, carry, carry.ticket
        for _ in range(phase.num_steps):
            options = {"resume": (index, carry), "poll": lambda index, done: True}
            moments = trainer.epochs(
                recipe, ticket, state, loss_fn=toy.loss_fn, feed=toy.feed, key=KEY, loop="python", **options
            )
            carry = next(moments).carry
            yield index, phase, carry, carry.ticket
        ticket, state = _finish(phase, carry), carry.model_state
        yield index, phase, carry, ticket


_finish = jax.jit(trainer.finish, static_argnums=0)


def _run(toy, recipe, **options):
    return trainer.run(recipe, toy.ticket, toy.model_state, loss_fn=toy.loss_fn, feed=toy.feed, key=KEY, **options)


def _equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(_raw(x), _raw(y))


def _raw(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
