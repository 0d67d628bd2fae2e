"""The ticket that a run begins with: weights drawn or pre-trained, scores, a mask that keeps everything."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.catalog.networks import NETWORKS
from experiments.config.config import Config
from experiments.problem.found_ticket import found_ticket, other_pixels
from experiments.problem.network import layers_of, network_of
from experiments.problem.pretrained import pretrained
from experiments.problem.prunable import kernels_of, mask_for
from experiments.terminal.errors import UsageError
from rare_gems import init, leaves, masks
from rare_gems.models.model import Model
from rare_gems.phase import Mask, ModelState, Params, Ticket

__all__ = [
    "Start", "check_pretrained", "data_key", "drawn", "initial_ticket", "last_kernel", "run_key", "shapes_of", "start",
    "weights_of",
]  # fmt: skip

_WEIGHTS = {"signed_constant": init.signed_constant, "kaiming_normal": init.kaiming_normal, "uniform": init.uniform}


def weights_of(config: Config) -> Callable[..., Params] | None:
    """How `--init` draws the kernels of a mask: (key, params, mask) -> params; None where the network draws them."""
    if config.init == "model":
        return None
    return partial(_WEIGHTS[config.init], keep_ratio=_keep_ratio(config))


def _keep_ratio(config: Config) -> float:
    return 1 - config.sparsity if config.scale_fan else 1.0


def _redrawn(config: Config, key: jax.Array, params: Params, mask: Mask) -> Params:
    """Kernels as `--init` draws them, also those that stay whole, whose inputs all stay; the others as they are.

    What is drawn does not depend on `--prunable` and `--dense`.
    """
    if config.init == "model":
        return params
    law, kernels = _WEIGHTS[config.init], kernels_of(params)
    whole, thinned = law(key, params, kernels), law(key, params, kernels, keep_ratio=_keep_ratio(config))
    return jax.tree.map(lambda m, all_, kept: all_ if m is None else kept, mask, whole, thinned, is_leaf=_none)


def _none(leaf: Any) -> bool:
    return leaf is None


class Start(NamedTuple):
    """What a run begins with. notes: what is to be told of its weights that are not drawn."""

    ticket: Ticket
    model_state: ModelState
    notes: tuple[str, ...]


def initial_ticket(model: Model, config: Config, last: str | None = None) -> tuple[Ticket, ModelState]:
    """Weights drawn as configured (or pre-trained), scores U[0, 1), a mask that keeps everything, and the statistics.

    Args:
      last: the name of the last layer that the network uses; by default the last in leaf order.
    Raises:
      ValueError: if the pre-trained weights, or the run begun from, are not there, or of another network.
    """
    begun = start(model, config, last)
    return begun.ticket, begun.model_state


def shapes_of(model: Model, config: Config) -> tuple[Ticket, ModelState]:
    """The shapes of what `initial_ticket` makes; nothing is drawn or read."""
    return jax.eval_shape(partial(_drawn, model, config), _start_key(config))


def start(model: Model, config: Config, last: str | None = None) -> Start:
    """What `initial_ticket` makes, and what is to be told of it.

    Args:
      last: as of `initial_ticket`.
    Raises:
      ValueError: as `initial_ticket`; and for numbers that a network of the user's own draws as NaN.
    """
    key = _start_key(config)
    begun = Start(*drawn(model, config), notes=())
    if config.method.begins is not None:
        run = config.method.begins(config.options)
        return Start(*found_ticket(config, run, *begun[:2]), notes=other_pixels(config, run))
    if config.model not in NETWORKS and config.pretrained is None:
        _check_drawn(config.model, begun.ticket)
    return begun if config.pretrained is None else Start(*pretrained(model, config, *begun[:2], key, last))


def check_pretrained(config: Config) -> tuple[str, ...]:
    """What is to be told of the pre-trained weights of a configuration, if it has some. Reads no data, draws nothing.

    Raises:
      ValueError: as `initial_ticket`.
    """
    if config.pretrained is None:
        return ()
    key = _start_key(config)
    model, shape = network_of(config)
    ticket, state = shapes_of(model, config)
    return pretrained(model, config, ticket, state, key, last_kernel(model, shape))[2]


def drawn(model: Model, config: Config) -> tuple[Ticket, ModelState]:
    """The ticket and statistics that the seed draws, also where the run begins with other weights."""
    return jax.jit(partial(_drawn, model, config))(_start_key(config))


def _start_key(config: Config) -> jax.Array:
    return jax.random.split(jax.random.key(config.seed))[0]


def _drawn(model: Model, config: Config, key: jax.Array) -> tuple[Ticket, ModelState]:
    key_model, key_weights, key_scores = jax.random.split(key, 3)
    params, state = model.init(key_model)
    mask = mask_for(config, params)
    params = _redrawn(config, key_weights, params, mask)
    return Ticket(params, init.uniform_scores(key_scores, mask), mask), state


def last_kernel(model: Model, image_shape: tuple[int, ...]) -> str | None:
    """The name of the kernel that the network uses last, whether it is pruned or not."""
    return next(reversed(layers_of(model, image_shape).read), None)


def _check_drawn(name: str, ticket: Ticket) -> None:
    """Raises UsageError for NaN among the params of an own network, or infinity where they are prunable."""
    for (at, leaf), one in zip(jax.tree_util.tree_leaves_with_path(ticket.params), _flags_of(ticket), strict=True):
        if leaves.is_key(leaf) or not (np.isnan(leaf).any() or (one and np.isinf(leaf).any())):
            continue  # a constant, such as the mask of an attention, may be infinite
        told = f"expected init to draw finite numbers, got NaN or infinity in {masks.path_name(at)}"
        raise UsageError(f"--model: {name}: {told}")


def _flags_of(ticket: Ticket) -> list[bool]:
    """Of each leaf of the params whether it counts as prunable."""
    return [one is not None for one in jax.tree.structure(ticket.params).flatten_up_to(ticket.mask)]


def run_key(config: Config) -> jax.Array:
    """The randomness of the training, apart from that of `initial_ticket`."""
    return jax.random.split(jax.random.key(config.seed))[1]


def data_key(config: Config) -> jax.Array | None:
    """The randomness of batches under `--data-seed`, whatever the seed; None: that of the training."""
    return None if config.data_seed is None else jax.random.key(config.data_seed)
