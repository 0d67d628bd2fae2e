"""Signals that pass through a program: forwards from the images, and back from the logits. No data, no gradients.

A program, as JAX traces it, is gone through operation by operation on the host. Each element of each value either
depends on the images, or is a constant, which is then known. Backwards it is found which elements the logits need.
Nothing is multiplied up, so that nothing overflows or underflows in deep networks.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from rare_gems.analysis.host_operations import compute
from rare_gems.analysis.operands import Operand, Pull
from rare_gems.analysis.signal_rules import coarse, ruling

__all__ = ["Followed", "Signal", "follow", "needed"]

_MOST_UNROLLED = 20_000  # operations of a loop that are gone through one by one

Bools = Any  # bool arrays, or scalars, of NumPy


class Signal(NamedTuple):
    """The elements of a value. value: on the host, 1 where live. live: bool, whether an element depends on the images.
    number: of the value; None if neither the images nor what is asked about have a part in it."""

    value: Any
    live: Bools
    number: int | None


class _Step(NamedTuple):
    operands: list[int | None]
    results: list[int | None]
    shapes: list[tuple[int, ...]]
    pull: Pull


class Followed(NamedTuple):
    """outs: the results of the program. inputs: numbers of its arguments. steps: what was done, in order."""

    outs: list[Signal]
    inputs: list[int | None]
    steps: list[_Step]


class _Track(NamedTuple):
    """What a walk writes down. constants: as in `follow`."""

    constants: bool
    steps: list[_Step]
    numbers: Iterator[int]


def follow(program: core.ClosedJaxpr, arguments: Sequence[Operand], asked: Sequence[bool], constants: bool) -> Followed:
    """Goes through a program.

    Args:
      program: as from `jax.make_jaxpr`. arguments: of it, values known except where they are live. asked: those of
        which `needed` will tell. constants: whether a constant counts that is added to what depends on the images.
    Raises:
      Exception: whatever an operation raises on the given values.
    """
    track = _Track(constants, [], itertools.count())
    given = [
        Signal(_settled(one.value, one.live), one.live, next(track.numbers) if wanted or one.live.any() else None)
        for one, wanted in zip(arguments, asked, strict=True)
    ]
    outs = _run(program.jaxpr, program.consts, given, track)
    return Followed(outs, [signal.number for signal in given], track.steps)


def needed(followed: Followed, needs: Sequence[Bools]) -> dict[int, Bools]:
    """Which elements are needed, given those of the results that are: number of a value -> bool."""
    known: dict[int, Bools] = {}

    def add(number: int | None, need: Bools | None) -> None:
        if number is not None and need is not None:
            known[number] = known[number] | need if number in known else need

    for signal, need in zip(followed.outs, needs, strict=True):
        add(signal.number, need)
    for step in reversed(followed.steps):
        given = [known.get(number) if number is not None else None for number in step.results]
        if not any(need is not None and need.any() for need in given):
            continue
        given = [
            np.zeros(shape, bool) if need is None else need for need, shape in zip(given, step.shapes, strict=True)
        ]
        for number, need in zip(step.operands, step.pull(given), strict=True):
            add(number, need)
    return known


def _run(jaxpr: core.Jaxpr, consts: Sequence[Any], given: Sequence[Signal], track: _Track) -> list[Signal]:
    known: dict[Any, Signal] = dict(zip(jaxpr.constvars, map(_constant, consts), strict=True))
    known |= dict(zip(jaxpr.invars, given, strict=True))
    last = {atom: i for i, eqn in enumerate(jaxpr.eqns) for atom in eqn.invars if not isinstance(atom, core.Literal)}

    def look(atom: Any) -> Signal:
        return _constant(atom.val) if isinstance(atom, core.Literal) else known[atom]

    for i, eqn in enumerate(jaxpr.eqns):
        known |= dict(zip(eqn.outvars, _results(eqn, [look(atom) for atom in eqn.invars], track), strict=True))
        for atom in eqn.invars:  # values that are read no more make room
            if not isinstance(atom, core.Literal) and last[atom] == i and atom not in jaxpr.outvars:
                known.pop(atom, None)
    return [look(atom) for atom in jaxpr.outvars]


def _results(eqn: core.JaxprEqn, operands: list[Signal], track: _Track) -> list[Signal]:
    name, inside = eqn.primitive.name, list(_programs(eqn))
    if name not in ("scan", "while", "cond") and len(inside) == 1:  # a call
        jaxpr = inside[0].jaxpr
        if (len(jaxpr.invars), len(jaxpr.outvars)) == (len(operands), len(eqn.outvars)):
            return _run(jaxpr, inside[0].consts, operands, track)
    if not any(signal.number is not None for signal in operands):
        return [_constant(value) for value in _computed(eqn, operands)]
    if name == "scan":
        unrolled = _unrolled(eqn, inside[0], operands, track)
        if unrolled is not None:
            return unrolled
    if name == "cond" and not operands[0].live.any():
        branch = inside[min(max(int(operands[0].value), 0), len(inside) - 1)]
        return _run(branch.jaxpr, branch.consts, operands[1:], track)
    plain = [Operand(signal.value, signal.live) for signal in operands]
    found = ruling(eqn.primitive, eqn.params, plain, track.constants)
    results: list[Any] = [out.aval for out in eqn.outvars]
    lives, pull = found or coarse([one.live for one in plain], [result.shape for result in results])
    if all(live.all() for live in lives):
        values = map(_blank, results)
    else:
        values = map(_settled, _computed(eqn, operands), lives)
    return _noted(values, lives, operands, pull, track)


def _noted(
    values: Iterable[Any], lives: Sequence[Bools], operands: Sequence[Signal], pull: Pull, track: _Track
) -> list[Signal]:
    """The results of an operation, which is written down."""
    outs = [Signal(value, live, next(track.numbers)) for value, live in zip(values, lives, strict=True)]
    numbers = [signal.number for signal in outs]
    track.steps.append(_Step([signal.number for signal in operands], numbers, [live.shape for live in lives], pull))
    return outs


def _computed(eqn: core.JaxprEqn, operands: Sequence[Signal]) -> list[Any]:
    results: list[Any] = [out.aval for out in eqn.outvars]
    dtypes = [result.dtype for result in results]
    return compute(eqn.primitive, eqn.params, [signal.value for signal in operands], dtypes)


def _unrolled(eqn: core.JaxprEqn, body: core.ClosedJaxpr, operands: list[Signal], track: _Track) -> list[Signal] | None:
    """A scan, round by round; None if that would take long."""
    # By shapes, since versions of JAX have other parameters: what is sliced or stacked has an axis more outside.
    is_same = lambda out, within: len(out.aval.shape) == len(within.aval.shape)  # noqa: E731
    last = sum(map(is_same, eqn.invars, body.jaxpr.invars))
    num_carry = sum(map(is_same, eqn.outvars, body.jaxpr.outvars))
    length, is_reversed = eqn.params.get("length"), eqn.params.get("reverse")
    if length is None or is_reversed is None or not 0 < length * len(body.jaxpr.eqns) <= _MOST_UNROLLED:
        return None
    fixed, carry, rows = operands[: last - num_carry], operands[last - num_carry : last], operands[last:]
    stacked = []
    for i in range(length)[:: -1 if is_reversed else 1]:
        outs = _run(body.jaxpr, body.consts, [*fixed, *carry, *(_row(one, i, track) for one in rows)], track)
        carry = outs[:num_carry]
        stacked.append(outs[num_carry:])
    if is_reversed:
        stacked.reverse()
    return carry + [_stack(column, track) for column in zip(*stacked, strict=True)]


def _row(signal: Signal, i: int, track: _Track) -> Signal:
    if signal.number is None:
        return _constant(signal.value[i])

    def pull(needs: list[Bools]) -> list[Bools | None]:
        whole = np.zeros(signal.live.shape, bool)
        whole[i] = needs[0]
        return [whole]

    return _noted([signal.value[i]], [signal.live[i]], [signal], pull, track)[0]


def _stack(rows: Sequence[Signal], track: _Track) -> Signal:
    value, live = np.stack([row.value for row in rows]), np.stack([row.live for row in rows])
    return _noted([value], [live], rows, lambda needs: list(needs[0]), track)[0]


def _constant(value: Any) -> Signal:
    value = _on_host(value)
    return Signal(value, np.zeros(np.shape(value), bool), None)


def _settled(value: Any, live: Bools) -> Any:
    """A value on the host, with ones where it is not known."""
    value = _on_host(value)
    if not isinstance(value, np.ndarray | np.generic) or not live.any():
        return value
    return np.where(live, np.ones((), value.dtype), value)


def _on_host(value: Any) -> Any:
    is_key = jax.dtypes.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.extended)
    return value if is_key else np.asarray(value)


def _blank(aval: Any) -> Any:
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended):
        raise NotImplementedError("keys that depend on the images")
    return np.ones(aval.shape, aval.dtype)


def _programs(eqn: core.JaxprEqn) -> Iterable[core.ClosedJaxpr]:
    for value in eqn.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one
            elif isinstance(one, core.Jaxpr):
                yield core.ClosedJaxpr(one, ())
