"""The network of a configuration, from the catalogue or of the user's own: `--model=module:function`."""

import functools
import importlib
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.catalog.networks import NETWORKS, NetworkOptions, check_options, input_shape, make_network
from experiments.config.config import Config
from experiments.problem.data import facts_of
from experiments.problem.prunable import kernels_of, mask_for
from experiments.terminal.errors import UsageError, described, one_line, place_of
from rare_gems import leaves, masks
from rare_gems.data.device_batches import Batch
from rare_gems.models.layer_order import Layers, read_layers
from rare_gems.models.model import Model, shapes_of, with_key
from rare_gems.models.platforms import plain_operations
from rare_gems.phase import LossFn, ModelState, Params, Ticket
from rare_gems.storage import ticket_file

__all__ = ["check_sizes", "forward_flop", "layers_of", "network_for", "network_of", "unread_layers"]


def network_of(config: Config) -> tuple[Model, tuple[int, ...]]:
    """The network of a configuration, for the images of its data, and their shape as the network takes them.

    Raises:
      UsageError: as `network_for`.
    """
    facts = facts_of(config)
    shape = input_shape(config.model, facts.image_shape)
    return network_for(config, shape, facts.num_classes), shape


def network_for(config: Config, image_shape: tuple[int, ...], num_classes: int) -> Model:
    """The network of `--model`, for images of that shape (see `catalog.networks.input_shape`).

    Raises:
      UsageError: for an unknown name, a module or function that is not there, or an option that it does not take.
    """
    check_options(config.model, config.network)
    if config.model in NETWORKS:
        return _ours(config.model, image_shape, num_classes, config.network, config.precision)
    if config.precision != "float32":
        raise UsageError(f"--precision: {config.model} decides itself what it computes in; expected no such flag")
    return _checked(config.model, _own(config.model, image_shape, num_classes), image_shape, num_classes)


@functools.lru_cache(maxsize=64)
def _ours(name: str, image_shape: tuple[int, ...], num_classes: int, options: NetworkOptions, precision: str) -> Model:
    """One object for equal arguments: it is checked once, and what is compiled for it is found again."""
    try:
        model = make_network(name, image_shape, num_classes, options, jnp.dtype(precision))
    except ValueError as error:
        raise UsageError(f"--model: {name}: {error}") from None
    return _checked(name, model, image_shape, num_classes, modes=(True,))  # they take the same images in both


def _checked(
    name: str, model: Model, image_shape: tuple[int, ...], num_classes: int, modes: Sequence[bool] = (True, False)
) -> Model:
    """The model, once its shapes are seen to be right, in training (True) or evaluation, without computing anything."""
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    try:
        params, state = jax.eval_shape(functools.partial(_drawn, model), jax.random.key(0))
        for train in modes:
            logits, after = jax.eval_shape(functools.partial(_applied, model, train), params, state, images)
            if getattr(logits, "shape", None) != (2, num_classes):
                raise ValueError(f"expected logits of shape (2, {num_classes}) for two images, got {logits}")
            if not jnp.issubdtype(logits.dtype, jnp.floating):
                raise ValueError(f"expected logits of floating point, got {logits.dtype}")
            _check_state(state, after)
    except Exception as error:
        ours = isinstance(error, ValueError) and not place_of(error)
        told = one_line(error) if ours else described(error)
        raise UsageError(f"--model: {name}, for images of {'x'.join(map(str, image_shape))}: {told}") from None
    return model


def layers_of(model: Model, image_shape: tuple[int, ...], config: Config | None = None) -> Layers:
    """The layers that count in a run, in the order in which the network uses them; without a configuration, those
    that count without any flag. The network is traced for images of that shape."""
    params, state = shapes_of(model)
    mask = jax.eval_shape(kernels_of if config is None else functools.partial(mask_for, config), params)
    return read_layers(model.apply, params, state, jax.ShapeDtypeStruct((2, *image_shape), jnp.float32), mask)


def unread_layers(layers: Layers) -> str:
    """A line that names the layers which the network never reads."""
    number, whole = len(layers.unread), sum(map(len, layers))
    names = ", ".join(layers.unread)
    return f"the network never reads {number} of its {whole} prunable layers, which are pruned all the same: {names}"


def _drawn(model: Model, key: jax.Array) -> tuple[Params, ModelState]:
    """What the network draws; raises ValueError for what could not be saved, or would be cut on its way."""
    drawn = model.init(key)
    if not isinstance(drawn, tuple | list) or len(drawn) != 2:
        raise ValueError(f"expected init(key) to return (params, state), got {_kind(drawn)}")
    params, state = drawn
    leaves.check_sortable("params", params)
    leaves.check_sortable("state", state)
    mask = kernels_of(params)
    if jax.tree.leaves(mask) and not masks.num_prunable(mask):
        raise ValueError("expected prunable weights, got arrays of none")
    ticket_file.check(Ticket(params, None, mask), state)
    leaves.check_kept("params", params)
    leaves.check_kept("state", state)
    return params, state


def _applied(model: Model, train: bool, *inputs: Any) -> Any:
    """What the network returns; raises ValueError for a state that cannot be kept."""
    returned = with_key(model.apply)(*inputs, train)
    if isinstance(returned, tuple) and len(returned) == 2:
        leaves.check_sortable("state", returned[1])
        leaves.check_kept("state", returned[1])
    return returned


def _kind(value: Any) -> str:
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple | list | dict) else type(value).__name__


def _check_state(state: ModelState, after: ModelState) -> None:
    if jax.tree.structure(after) != jax.tree.structure(state):
        raise ValueError("expected apply to return a state like the one it was given, got another")
    spelled = lambda leaf: f"{leaf.dtype}{list(leaf.shape)}"  # noqa: E731
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(after), strict=True):
        if spelled(old) != spelled(new):
            raise ValueError(f"expected apply to return a state like the one it was given, but of "
                             f"{masks.path_name(path)} got {spelled(new)} for {spelled(old)}")  # fmt: skip


def check_sizes(name: str, model: Model, loss: LossFn, image_shape: tuple[int, ...], sizes: Mapping[str, int]) -> None:
    """Refuses a network that fails on the batches of this run, without computing anything.

    Args:
      loss: of training. sizes: images in a batch, "training" and what is evaluated.
    Raises:
      UsageError: naming the network and the batch.
    """
    if name in NETWORKS:
        return  # tested in all of them
    params, state = shapes_of(model)
    for what, size in sizes.items():
        batch = jax.eval_shape(lambda size=size: Batch(
            jnp.zeros((size, *image_shape), jnp.float32), jnp.zeros(size, jnp.int32), jnp.ones(size, jnp.float32)
        ))  # fmt: skip
        try:
            if what == "training":
                jax.eval_shape(leaves.value_and_grad(loss), params, state, batch, jax.random.key(0))
                continue
            logits, _ = jax.eval_shape(
                lambda p, s, x: with_key(model.apply)(p, s, x, False), params, state, batch.images
            )
            if logits.shape[0] != size:
                raise ValueError(f"expected logits of as many, got {logits.shape}")
        except Exception as error:
            raise UsageError(f"--model: {name}, {what} in batches of {size}: {described(error)}") from None


def forward_flop(model: Model, image_shape: tuple[int, ...]) -> float:
    """Floating-point operations of the forward pass of one image, as XLA counts them before it optimizes."""
    plain = all(isinstance(part, types.FunctionType) for part in model)  # others may have no hash
    return (_flop if plain else _flop.__wrapped__)(model, image_shape)


@functools.lru_cache(maxsize=64)
def _flop(model: Model, image_shape: tuple[int, ...]) -> float:
    params, state = shapes_of(model)
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with plain_operations():
        lowered = jax.jit(lambda p, s, x: with_key(model.apply)(p, s, x, False)[0]).lower(params, state, image)
    cost: Any = lowered.cost_analysis()
    return float((cost or {}).get("flops", 0.0))


def _own(name: str, image_shape: tuple[int, ...], num_classes: int) -> Model:
    """A user's network: what `function(image_shape, num_classes)` of a module returns, with `init` and `apply`."""
    module_name, colon, function_name = name.partition(":")
    if not (colon and module_name and function_name) or module_name.startswith("."):
        known = ", ".join(NETWORKS)
        raise UsageError(f"--model: expected one of {known}, or module:function of your own, got {name!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise UsageError(f"--model: {name}: {error}; looked in {here} and the installed packages") from None
    except AttributeError:
        raise UsageError(f"--model: the module {module_name} has no {function_name!r}") from None
    except (Exception, SystemExit) as error:
        raise UsageError(f"--model: importing {module_name} failed: {described(error)}") from error
    try:
        made = function(image_shape, num_classes)
    except (Exception, SystemExit) as error:
        raise UsageError(f"--model: {name}(image_shape, num_classes) failed: {described(error)}") from error
    init, apply = (getattr(made, part, None) for part in ("init", "apply"))
    if not callable(init) or not callable(apply):
        raise UsageError(
            f"--model: {name}: expected something with init(key) -> (params, state) and "
            f"apply(params, state, x, train) -> (logits, state), or with a key as well, got {type(made).__name__}"
        )
    return Model(init, apply)
