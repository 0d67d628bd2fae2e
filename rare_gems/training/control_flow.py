"""Finds conditions, loops and sorts in a function: what keeps XLA from running a program's operations side by side."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

__all__ = ["names"]

_KINDS = ("cond", "while", "scan", "sort")


def names(fn: Callable, *args: Any) -> set[str]:
    """The primitives of control flow, and sorts, that `fn(*args)` has, at any depth; nothing is computed.

    Args:
      args: trees of arrays, abstract values or tracers.
    Example:
      >>> sorted(names(lambda x: jax.lax.cond(x[0] > 0, jax.numpy.sort, jax.numpy.abs, x), jax.numpy.ones(3)))
      ['cond', 'sort']
    """
    return {name for name in _primitives(jax.make_jaxpr(fn)(*args).jaxpr) if name in _KINDS}


def _primitives(jaxpr: core.Jaxpr) -> Iterator[str]:
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            for one in value if isinstance(value, tuple | list) else (value,):
                if isinstance(one, core.ClosedJaxpr):
                    yield from _primitives(one.jaxpr)
                elif isinstance(one, core.Jaxpr):
                    yield from _primitives(one)
