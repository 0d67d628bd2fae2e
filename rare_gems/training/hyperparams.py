"""Numbers that live in a phase's state, so that runs which differ in them train in one program under `jax.vmap`.

A number in a closure is a constant of the compiled step; one in the state is an input, and may differ from run to
run: each begins its own phase, the states are stacked, and the functions of any one phase train them all.

Every count of weights that a transform keeps, and every learning rate, weight decay, penalty and starting score of
`rare_gems.pruners` is of that kind, or a round is given it by the host, which also knows when rounds are
(`phase.Rounds`). Constants stay: lengths, periods of learning rates, momentum, whatever is chosen by name, and all
that a view or a loss reads, since these have no state: the counts of `views.top_scored` (edge-popup), the final
temperature of continuous sparsification, the ratios that `smart_ratio_search.choose` tries, the inner rate of ProsPr.
`same_program.program` tells whether two phases agree in all of these.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rare_gems import leaves
from rare_gems.phase import Context, Params, PyTree, Ticket, Transform

__all__ = ["Variant", "optimizer", "transform"]


class Variant(NamedTuple):
    """The state of a part that was made from numbers: these, and its own."""

    numbers: dict[str, PyTree]
    inner: Any


def optimizer(make: Callable[..., optax.GradientTransformation], **numbers: PyTree) -> optax.GradientTransformation:
    """`make(**numbers)`, with the numbers in its state.

    Args:
      make: called with float32 arrays, traced ones in `update`; it must not ask for their values.
      numbers: floats, or trees of floats or arrays of them, of any precision; they are rounded to float32.
    Raises:
      ValueError: for what float32 does not hold.
    Returns:
      an optimizer with a `Variant` as its state; the numbers are no parameters to `optax.tree.map_params`.
    Example:
      >>> one, other = (optimizer(optax.sgd, learning_rate=rate) for rate in (0.5, 0.25))
      >>> updates, _ = one.update(jnp.array([2.0]), other.init(jnp.array([1.0])))
      >>> updates
      Array([-0.5], dtype=float32)
    """
    held = {name: jax.tree.map(lambda number, name=name: leaves.rounded(name, np.asarray(number)), tree)
            for name, tree in numbers.items()}  # fmt: skip

    def init(params: Params) -> Variant:
        arrays = jax.tree.map(jnp.asarray, held)
        return Variant(arrays, make(**arrays).init(params))

    def update(grads: Params, state: Variant, params: Params | None = None, **more: Any) -> tuple[Params, Variant]:
        made = optax.with_extra_args_support(make(**state.numbers))
        updates, inner = made.update(grads, state.inner, params, **more)
        return updates, Variant(state.numbers, inner)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore


def transform(make: Callable[..., Transform], **numbers: PyTree) -> Transform:
    """`make(**numbers)`, with the numbers in its state.

    Args:
      make: called with arrays, traced ones in `update`; it must not ask for their values.
      numbers: trees of integers (int32 in the state) and of floats (rounded to float32), or arrays of them.
    Returns:
      a transform with a `Variant` as its state.
    Raises:
      ValueError: for something that is not a number, or that 32 bits do not hold.
    Example:
      >>> fill = lambda value: Transform(lambda t: (), lambda t, s, _: (t._replace(scores=[value + t.params[0]]), s))
      >>> ticket = Ticket([jnp.array([2.0])], [jnp.array([0.0])], [jnp.array([True])])
      >>> one, other = transform(fill, value=0.5), transform(fill, value=0.25)
      >>> one.update(ticket, other.init(ticket), Context(0, jax.random.key(0), None, None))[0].scores
      [Array([2.25], dtype=float32)]
    """
    held = {name: leaves.numbers(name, tree) for name, tree in numbers.items()}

    def init(ticket: Ticket) -> Variant:
        arrays = jax.tree.map(jnp.asarray, held)
        return Variant(arrays, make(**arrays).init(ticket))

    def update(ticket: Ticket, state: Variant, context: Context) -> tuple[Ticket, Variant]:
        ticket, inner = make(**state.numbers).update(ticket, state.inner, context)
        return ticket, Variant(state.numbers, inner)

    return Transform(init, update)
