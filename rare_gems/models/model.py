"""A Flax NNX network, split once into two pure functions over plain nested dicts of arrays."""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from rare_gems.init import kaiming_normal
from rare_gems.masks import ones
from rare_gems.structures import check_structure

__all__ = ["Apply", "Model", "check_sizes", "from_module", "scaled", "shapes_of", "takes_key", "with_key"]

Tree = Any  # nested dicts of arrays; lists of layers have int keys
Apply = Callable[..., tuple[jax.Array, Tree]]  # (params, state, x, train), and by name key, if it has such a parameter


class Model(NamedTuple):
    """A network as two pure functions, usable under `jit`, `vmap`, `grad`, `scan` and `eval_shape`.

    `init(key) -> (params, state)` draws float32 params; state holds the running statistics ({} if none).
    `apply(params, state, x, train) -> (logits, state)`: with `train` (a static bool) it uses batch statistics
    and moves the running ones, else it uses the running ones and returns `state` as it was.

    A network with dropout has `apply(params, state, x, train, key)`, with a parameter of that name: it is given a key
    by keyword, a new one at each training step, and always the same one, `jax.random.key(0)`, where nothing trains.
    """

    init: Callable[[jax.Array], tuple[Tree, Tree]]
    apply: Apply


def shapes_of(model: Model) -> tuple[Tree, Tree]:
    """The params and the state as `ShapeDtypeStruct`s; nothing is drawn, and one `init` is traced once.

    Example:
      >>> shapes_of(Model(lambda key: ({"w": jax.numpy.zeros((3, 2))}, {}), lambda params, state, x, train: (x, state)))
      ({'w': ShapeDtypeStruct(shape=(3, 2), dtype=float32)}, {})
    """
    traced = _traced if isinstance(model.init, types.FunctionType) else _traced.__wrapped__  # others may have no hash
    config: Any = jax.config
    leaves, treedef = traced(model.init, config.jax_enable_x64, config.jax_default_prng_impl)
    return treedef.unflatten(leaves)


@functools.lru_cache(maxsize=64)
def _traced(init: Callable, *settings: Any) -> tuple[list, Any]:
    del settings  # under others the shapes are others
    return jax.tree.flatten(jax.eval_shape(init, jax.random.key(0)))


def takes_key(apply: Callable) -> bool:
    """Whether a function has a parameter `key` that can be given by name.

    Example:
      >>> takes_key(lambda params, state, x, train, key: x), takes_key(lambda params, state, x, train: x)
      (True, False)
    """
    try:
        parameter = inspect.signature(apply).parameters.get("key")
    except (TypeError, ValueError):  # a built-in tells none
        return False
    return parameter is not None and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def with_key(apply: Apply, key: jax.Array | None = None) -> Apply:
    """`apply` as a function of (params, state, x, train): where it takes a key, it gets this one.

    Args:
      apply: as in `Model`. key: of the training step; None, where nothing trains: `jax.random.key(0)`.
    Returns:
      `apply` itself if it takes no key.
    Example:
      >>> apply = lambda params, state, x, train, key: (jax.random.key_data(key), state)
      >>> keyed = with_key(apply, jax.random.key(7))
      >>> keyed({}, {}, None, True)[0].tolist(), with_key(apply)({}, {}, None, False)[0].tolist()
      ([0, 7], [0, 0])
    """
    if not takes_key(apply):
        return apply

    def keyed(params: Tree, state: Tree, x: Any, train: bool) -> tuple[Any, Tree]:
        fixed = jax.random.key(np.uint32(0)) if key is None else key  # SynFlow traces this in 64 bits, where 0 has 64
        return apply(params, state, x, train, key=fixed)

    return keyed


def from_module(create: Callable[[], nnx.Module]) -> Model:
    """Split an NNX module into a `Model`.

    Args:
      create: builds the module, `module(x, train)`, or `module(x, train, key=key)` if it takes a key. What is an
        `nnx.Param` becomes params, all other variables become state. `init` draws the prunable params (see
        `masks.report`) from N(0, 2 / fan_in), in one draw for all: each would cost half a second of compiling.
        The others stay as `create` made them. A variable that two layers share is one leaf.

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
    wants_key = []

    def parts() -> Any:
        module = create()
        wants_key.append(takes_key(module))
        return nnx.split(module, nnx.Param, ...)

    graphdef, abstract_params, abstract_state = jax.eval_shape(parts)

    def init(key: jax.Array) -> tuple[Tree, Tree]:
        _, params, state = nnx.split(create(), nnx.Param, ...)
        params = nnx.to_pure_dict(params)
        return kaiming_normal(key, params, ones(params)), nnx.to_pure_dict(state)

    def apply(params: Tree, state: Tree, x: jax.Array, train: bool, **key: jax.Array) -> tuple[jax.Array, Tree]:
        module = nnx.merge(graphdef, _fill(abstract_params, params), _fill(abstract_state, state))
        logits = module(x, train, **key)  # type: ignore
        _, _, state = nnx.split(module, nnx.Param, ...)
        return logits, nnx.to_pure_dict(state)

    def apply_with_key(params: Tree, state: Tree, x: jax.Array, train: bool, key: jax.Array) -> tuple[jax.Array, Tree]:
        return apply(params, state, x, train, key=key)

    return Model(init, apply_with_key if wants_key[0] else apply)


def _fill(abstract: Any, values: Tree) -> Any:
    # Both sides flatten in sorted key order; a wrong tree is told by name.
    check_structure("params or state of another network", values, nnx.to_pure_dict(abstract), "this one's")
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
