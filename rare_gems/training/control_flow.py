"""Finds conditions, loops and sorts in a function: what keeps XLA from running a program's operations side by side."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

__all__ = ["equations", "names"]

_KINDS = ("cond", "while", "scan", "sort")


def names(fn: Callable, *args: Any) -> set[str]:
    """The primitives of control flow, and sorts, that `fn(*args)` has, at any depth; nothing is computed.

    Args:
      args: trees of arrays, abstract values or tracers.
    Example:
      >>> sorted(names(lambda x: jax.lax.cond(x[0] > 0, jax.numpy.sort, jax.numpy.abs, x), jax.numpy.ones(3)))
      ['cond', 'sort']
    """
    found = {equation.primitive.name for equation in equations(jax.make_jaxpr(fn)(*args).jaxpr)}
    return found.intersection(_KINDS)


def equations(jaxpr: core.Jaxpr) -> Iterator[Any]:
    """The equations of a traced function, at any depth, those of a call after the call.

    Example:
      >>> traced = jax.make_jaxpr(jax.jit(jax.numpy.sin))(1.0)
      >>> [equation.primitive.name for equation in equations(traced.jaxpr)][-1]
      'sin'
    """
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for one in value if isinstance(value, tuple | list) else (value,):
                if isinstance(one, core.ClosedJaxpr):
                    yield from equations(one.jaxpr)
                elif isinstance(one, core.Jaxpr):
                    yield from equations(one)
