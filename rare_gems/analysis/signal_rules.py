"""For each operation of a program: which results carry a signal from the images, and which operands a result needs.

A rule takes the operands of an equation and returns (lives, pull). `lives` says of each element of each result whether
it may depend on the images. `pull` takes which elements of the results are needed, and says which of the operands' are.
All arrays here are bool, on the host; where windows or axes are summed over, ones are counted in float32.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from rare_gems.analysis.contractions import contract, pull_contraction
from rare_gems.analysis.host_operations import MOVES
from rare_gems.analysis.operands import Bools, Operand, Ruling, either, numbers, only_signals
from rare_gems.analysis.signal_moves import moved, scattered
from rare_gems.analysis.windows import convolve, pool, pull_image, pull_kernel, pull_pool

__all__ = ["coarse", "ruling"]

# Operations on each element alone. Those in _JOINS let several signals into one; a constant beside a signal is no path.
_JOINS = ("add", "sub", "add_any", "max", "min")
_ELEMENTWISE = (
    *_JOINS, "abs", "acos", "acosh", "and", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e",
    "bessel_i1e", "cbrt", "ceil", "clamp", "conj", "convert_element_type", "copy", "copy_p", "cos", "cosh",
    "device_put", "digamma", "eq", "eq_to", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge",
    "gt", "imag", "integer_pow", "is_finite", "le", "le_to", "lgamma", "log", "log1p", "logistic", "lt",
    "lt_to", "name", "ne", "neg", "nextafter", "not", "or", "pow", "real", "reduce_precision",
    "rem", "round", "rsqrt", "sharding_constraint", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient",
    "tan", "tanh", "xor",
)  # fmt: skip
# Operations each of whose results is an element of an operand, and in which operands.
_MOVED = dict.fromkeys(MOVES) | {
    "dynamic_slice": (0,), "dynamic_update_slice": (0, 1), "gather": (0,), "scatter": (0, 2), "copy_p": None,
}  # fmt: skip
_ALONG_AXES = ("argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod")
_WINDOWS = ("reduce_window_max", "reduce_window_min", "reduce_window_sum")
_PREFIXES = ("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum")


def ruling(primitive: Any, params: dict[str, Any], operands: Sequence[Operand], constants: bool) -> Ruling | None:
    """What an operation does with signals; None if there is no rule, or none for these operands.

    Args:
      primitive, params: of the equation. constants: whether a constant that joins a signal is needed, too.
    """
    name, lives = primitive.name, [operand.live for operand in operands]
    keep = partial(only_signals, lives) if not constants else lambda lives_out, pull: pull
    if name in _ELEMENTWISE:
        lives_out, pull = _elementwise(lives)
        return lives_out, keep(lives_out, pull) if name in _JOINS else pull
    if name == "mul":
        return _product(np.logical_and, _shrunk_and, operands, constants)
    if name == "div":
        return _product(np.logical_and, _shrunk_and, [operands[0], _never_zero(operands[1])], constants)
    if name == "dot_general":
        return _product(_counted(partial(contract, params)), partial(_pulled_contraction, params), operands, constants)
    if name == "conv_general_dilated" and params["batch_group_count"] == 1:
        times = _counted(partial(convolve, params))
        return _product(times, partial(_pulled_convolution, params), operands, constants)
    if name == "select_n":
        return _select(operands)
    if name == "optimization_barrier":
        return lives, list
    if name in _MOVED:
        return moved(_MOVED[name] or range(len(operands)), primitive, params, operands)
    if name == "scatter-add" and not lives[1].any():
        return scattered(partial(primitive.bind, **params), operands, constants)
    if name == "reduce_sum" or name in _ALONG_AXES:
        lives_out, pull = _along(lives[0], tuple(params["axes"]))
    elif name in _WINDOWS:
        lives_out, pull = _pooled(params, lives[0])
    elif name in _PREFIXES:
        lives_out, pull = _prefixes(lives[0], params["axis"], params["reverse"])
    else:
        return None
    return lives_out, keep(lives_out, pull)


def coarse(lives: Sequence[Bools], shapes: Sequence[tuple[int, ...]]) -> Ruling:
    """The rule for operations of which nothing is known: every result depends on every operand, wholly."""
    live = any(one.any() for one in lives)

    def pull(needs: list[Bools]) -> list[Bools | None]:
        needed = any(need.any() for need in needs)
        return [np.full(one.shape, needed) for one in lives]

    return [np.full(shape, live) for shape in shapes], pull


def _shrunk(need: Bools, shape: tuple[int, ...]) -> Bools:
    """For an operand of that shape, which was spread over axes that it lacks, or has one element along."""
    need = need.any(tuple(range(need.ndim - len(shape))))
    ones = tuple(i for i, size in enumerate(shape) if size == 1 != need.shape[i])
    return need.any(ones, keepdims=True) if ones else need


def _elementwise(lives: list[Bools]) -> Ruling:
    live = lives[0]
    for other in lives[1:]:
        live = live | other
    return [live], lambda needs: [_shrunk(needs[0], one.shape) for one in lives]


def _along(live: Bools, axes: Sequence[int]) -> Ruling:
    def pull(needs: list[Bools]) -> list[Bools | None]:
        return [np.broadcast_to(np.expand_dims(needs[0], tuple(axes)), live.shape)]

    return [live.any(tuple(axes))], pull


def _select(operands: Sequence[Operand]) -> Ruling:
    which, cases = operands[0], operands[1:]
    shape = np.broadcast_shapes(*(operand.live.shape for operand in operands))
    index = np.broadcast_to(np.asarray(which.value).astype(np.int64), shape)
    unknown = np.broadcast_to(which.live, shape)
    chosen = [unknown | (index == i) for i in range(len(cases))]
    live = np.zeros(shape, bool)
    for case, one in zip(cases, chosen, strict=True):
        live |= np.where(unknown, case.nonzero(), case.live & one)

    def pull(needs: list[Bools]) -> list[Bools | None]:
        [need] = needs
        needs = [need & unknown & live, *(need & one for one in chosen)]
        return [_shrunk(one, operand.live.shape) for one, operand in zip(needs, operands, strict=True)]

    return [live], pull


class _Factor(NamedTuple):
    live: Bools
    nonzero: Bools


def _never_zero(operand: Operand) -> Operand:
    return Operand(np.ones(operand.live.shape), operand.live)


def _product(times: Callable, pulled: Callable, operands: Sequence[Operand], constants: bool) -> Ruling:
    """A product, in which a signal passes a factor that is not zero.

    Args:
      times: (a, b) -> bool, whether some pair of elements is True. pulled: (need, other, shapes, place) -> bool, which
        elements of a factor are needed where the other is True.
    """
    a, b = (_Factor(operand.live, operand.nonzero()) for operand in operands)
    live = times(a.live, b.nonzero)
    if b.live.any():
        live = live | times(a.nonzero, b.live)
    shapes = a.live.shape, b.live.shape

    def one(place: int, need: Bools) -> Bools | None:
        own, other = (a, b) if place == 0 else (b, a)
        with_any = need if constants else need & ~live  # constants alone make constants
        found = [pulled(with_any, other.nonzero, shapes, place)] if with_any.any() else []
        if not constants and (signals := need & live).any():
            if other.live.any():
                found.append(pulled(signals, other.live, shapes, place))
            if own.live.any():
                found.append(pulled(signals, other.nonzero, shapes, place) & own.live)
        return either(found)

    return [live], lambda needs: [one(place, needs[0]) for place in (0, 1)]


def _shrunk_and(need: Bools, other: Bools, shapes: Sequence[tuple[int, ...]], place: int) -> Bools:
    return _shrunk(need & other, shapes[place])


def _counted(times: Callable) -> Callable:
    return lambda a, b: times(numbers(a), numbers(b)) > 0.5


def _pulled_contraction(
    params: dict[str, Any], need: Bools, other: Bools, shapes: Sequence[tuple[int, ...]], place: int
) -> Bools:
    return pull_contraction(params, numbers(need), numbers(other), shapes[place], place) > 0.5


def _pulled_convolution(
    params: dict[str, Any], need: Bools, other: Bools, shapes: Sequence[tuple[int, ...]], place: int
) -> Bools:
    pull = pull_image if place == 0 else pull_kernel
    return pull(params, numbers(need), numbers(other), shapes[place]) > 0.5


def _pooled(params: dict[str, Any], live: Bools) -> Ruling:
    return [pool(params, live)], lambda needs: [pull_pool(params, needs[0], live.shape)]


def _prefixes(live: Bools, axis: int, reverse: bool) -> Ruling:
    def accumulated(bools: Bools, backwards: bool) -> Bools:
        turned = np.flip(bools, axis) if backwards else bools
        turned = np.logical_or.accumulate(turned, axis)
        return np.flip(turned, axis) if backwards else turned

    return [accumulated(live, reverse)], lambda needs: [accumulated(needs[0], not reverse)]
