"""The optimizer inside `prune`: what it is given, and one clear line where it cannot be given what it needs."""

from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rare_gems.phase import Params

__all__ = ["Inner", "checked", "init", "shown", "update"]


class Inner(NamedTuple):
    """init, update: as of optax, any extra arguments are taken. takes_more: whether they may reach somebody."""

    init: Callable[..., Any]
    update: Callable[..., Any]
    takes_more: bool


def checked(optimizer: Any) -> Inner:
    """The optimizer as one whose `update` takes extra arguments.

    Raises:
      ValueError: for what is none, such as a function that makes one.
    """
    parts = [getattr(optimizer, name, None) for name in ("init", "update")]
    if not all(map(callable, parts)):
        raise ValueError(
            f"optimizer: expected an optax transformation, such as optax.adam(1e-3), got {shown(optimizer)}"
        )
    takes_more = isinstance(optimizer, optax.GradientTransformationExtraArgs | optax.MultiSteps)
    update = optimizer.update if takes_more else optax.with_extra_args_support(optimizer).update
    return Inner(optimizer.init, update, takes_more)


def init(inner: Inner, params: Params) -> Any:
    """Its first state.

    Raises:
      ValueError: if it cannot begin with these params, or could never make a step, as it takes no extra arguments.
    """
    state = _call(inner.init, "", params)
    if not inner.takes_more and all(map(_is_float, jax.tree.leaves(params))):
        _call(jax.eval_shape, "", inner.update, params, state, params)
    return state


def update(inner: Inner, grads: Params, params: Params, state: Any, extra: dict[str, Any]) -> Any:
    """The updates and the next state.

    Args:
      grads, params: zero where the mask is False. extra: as handed to `tx.update`.
    Raises:
      ValueError: if it fails on what it is given, with what it says itself.
    """
    given = f" and the extra arguments {', '.join(extra)}" if extra else ", and no extra arguments"
    hint = f"; it was given gradients, params{given}: tx.update(grads, state, params, value=loss) hands over more"
    return _call(inner.update, hint if inner.takes_more else "", grads, state, params, **extra)


def _call(fn: Callable[..., Any], hint: str, *args: Any, **extra: Any) -> Any:
    try:
        with jax.numpy_dtype_promotion("standard"):  # some optimizers mix integer counts and floats
            return fn(*args, **extra)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # what they raise while they are traced
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(
            f"optimizer: expected one that trains these params by one gradient like them, got {said}{hint}"
        ) from error


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", float), jnp.floating)


def shown(value: Any) -> str:
    """What a user gave in place of something else, in few words."""
    return f"the function {value.__name__}" if isinstance(value, FunctionType) else repr(value)[:60]
