"""A Flax NNX network, split once into two pure functions over plain nested dicts of arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

from rare_gems.init import kaiming_normal
from rare_gems.masks import ones

__all__ = ["Apply", "Model", "check_sizes", "from_module", "scaled"]

Tree = Any  # nested dicts of arrays; lists of layers have int keys
Apply = Callable[[Tree, Tree, jax.Array, bool], tuple[jax.Array, Tree]]


class Model(NamedTuple):
    """A network as two pure functions, usable under `jit`, `vmap`, `grad`, `scan` and `eval_shape`.

    `init(key) -> (params, state)` draws float32 params; state holds the running statistics ({} if none).
    `apply(params, state, x, train) -> (logits, state)`: with `train` (a static bool) it uses batch statistics
    and moves the running ones, else it uses the running ones and returns `state` as it was.
    """

    init: Callable[[jax.Array], tuple[Tree, Tree]]
    apply: Apply


def from_module(create: Callable[[], nnx.Module]) -> Model:
    """Split an NNX module into a `Model`.

    Args:
      create: builds the module, `module(x, train)`. What is an `nnx.Param` becomes params, all other variables
        become state. `init` draws the prunable params (see `masks.report`) from N(0, 2 / fan_in), in one
        draw for all: each would cost half a second of compiling. The others stay as `create` made them.

    Returns:
      A `Model`; the leaves' key paths are the module's attribute names, with ints for list items.

    Example:
      >>> from rare_gems.models.layers import Linear
      >>> class Net(nnx.Module):
      ...     def __init__(self):
      ...         self.linear = Linear(4, 2)
      ...     def __call__(self, x, train):
      ...         return self.linear(x)
      >>> params, state = from_module(Net).init(jax.random.key(0))
      >>> params["linear"]["kernel"].shape, state
      ((4, 2), {})
    """
    abstract = jax.eval_shape(lambda: nnx.split(create(), nnx.Param, ...))
    graphdef, abstract_params, abstract_state = abstract

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        _, params, state = nnx.split(create(), nnx.Param, ...)
        params = nnx.to_pure_dict(params)
        return kaiming_normal(key, params, ones(params)), nnx.to_pure_dict(state)

    def apply(params: Tree, state: Tree, x: jax.Array, train: bool) -> tuple[jax.Array, Tree]:
        module = nnx.merge(graphdef, _fill(abstract_params, params), _fill(abstract_state, state))
        logits = module(x, train)  # type: ignore
        _, _, state = nnx.split(module, nnx.Param, ...)
        return logits, nnx.to_pure_dict(state)

    return Model(init, apply)


def _fill(abstract: Any, values: Tree) -> Any:
    # Both sides flatten in sorted key order; a wrong tree is told by name.
    expected, got = jax.tree.structure(nnx.to_pure_dict(abstract)), jax.tree.structure(values)
    if got != expected:
        raise ValueError(f"params or state of another network: expected {expected}, got {got}")
    return jax.tree.unflatten(jax.tree.structure(abstract), jax.tree.leaves(values))


def check_sizes(*, width: float = 1, **sizes: int) -> None:
    """Raises ValueError, naming it, if a size is below 1 or the width not positive."""
    if not width > 0:
        raise ValueError(f"width: expected a positive number, got {width}")
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: expected 1 or more, got {size}")


def scaled(channels: int, width: float) -> int:
    """That many channels times the width, at least one."""
    return max(1, int(channels * width))
