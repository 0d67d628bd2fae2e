"""The ticket that a run begins with: weights drawn or pre-trained, scores, a mask that keeps everything."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.config.config import Config
from experiments.terminal.errors import UsageError
from rare_gems import init, masks
from rare_gems.models import from_torch
from rare_gems.models.model import Model
from rare_gems.phase import ModelState, Params, Ticket
from rare_gems.storage import ticket_file

__all__ = ["initial_ticket", "pretrained_file", "run_key", "weights_of"]

_WEIGHTS = {"signed_constant": init.signed_constant, "kaiming_normal": init.kaiming_normal, "uniform": init.uniform}


_FLAGS = {
    "replace_classifier=True": "--replace-classifier", "affine=True": "--network.affine",
    "affine=False": "--network.no-affine", "use_bias=True": "--network.bias", "use_bias=False": "--network.no-bias",
}  # fmt: skip


def weights_of(config: Config) -> Callable[..., Params] | None:
    """How `--init` draws weights, (key, params, mask) -> params; None where the network does it itself."""
    if config.init == "model":
        return None
    return partial(_WEIGHTS[config.init], keep_ratio=1 - config.sparsity if config.scale_fan else 1.0)


def initial_ticket(model: Model, config: Config) -> tuple[Ticket, ModelState]:
    """Weights drawn as configured (or pre-trained), scores U[0, 1), a mask that keeps everything, and the statistics.

    Raises:
      ValueError: if the pre-trained weights are not there, of another network, or of a sparse one.
    """
    draw = weights_of(config)

    @jax.jit
    def start(key: jax.Array) -> tuple[Ticket, ModelState]:
        key_model, key_weights, key_scores = jax.random.split(key, 3)
        params, state = model.init(key_model)
        mask = masks.ones(params)
        params = draw(key_weights, params, mask) if draw else params
        return Ticket(params, init.uniform_scores(key_scores, mask), mask), state

    key = jax.random.split(jax.random.key(config.seed))[0]
    ticket, state = start(key)
    if config.pretrained is None:
        return ticket, state
    path = pretrained_file(config.pretrained)
    if not _is_ticket(path):
        try:
            params, state = from_torch(path, model, replace_classifier=config.replace_classifier, key=key)
        except ValueError as error:
            raise UsageError(f"--pretrained: {_as_flags(str(error))}") from None
        _check_finite(path, (params, state))
        return ticket._replace(params=params), state
    whole = _without_classifier(path, ticket) if config.replace_classifier else ticket
    try:
        file = ticket_file.load(path, like=whole._replace(scores=None), like_state=state)
    except ValueError as error:
        raise UsageError(f"--pretrained: {error}".replace("does not match 'like'", "not of this network")) from None
    kept, size = masks.num_kept(file.ticket.mask), masks.num_prunable(file.ticket.mask)
    if kept < size:
        raise UsageError(f"--pretrained: {path}: expected the weights of a dense network, got {kept:,} of {size:,}")
    _check_finite(path, (file.ticket.params, file.model_state))
    params = _with_classifier(file.ticket.params, ticket) if config.replace_classifier else file.ticket.params
    return ticket._replace(params=params), file.model_state


def _check_finite(path: Path, trees: tuple[Params, ModelState]) -> None:
    """Raises UsageError for weights or statistics that are NaN, or infinite as float32, naming the first."""
    for tree in trees:
        for at, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not np.isfinite(leaf).all():
                raise UsageError(
                    f"--pretrained: {path}: expected finite numbers, got NaN or infinity (as float32) in "
                    f"{masks.path_name(at)}"
                )


def _classifier(ticket: Ticket) -> str:
    """The path of the last layer, which is the last to be prunable in leaf order."""
    (last, _) = jax.tree_util.tree_leaves_with_path(ticket.mask)[-1]
    return masks.path_name(last).rpartition("/")[0]


def _without_classifier(path: Path, ticket: Ticket) -> Ticket:
    """The ticket with the last layer's leaves in the shapes that the file has, whatever they are."""
    layer, found = _classifier(ticket), ticket_file.load(path).ticket
    shapes = {masks.path_name(p): leaf.shape for p, leaf in jax.tree_util.tree_leaves_with_path(found.params)}

    def like(at: tuple, leaf: jax.Array) -> Any:
        name = masks.path_name(at)
        of_last = name.rpartition("/")[0] == layer and name in shapes
        return jax.ShapeDtypeStruct(shapes[name], leaf.dtype) if of_last else leaf

    params = jax.tree_util.tree_map_with_path(like, ticket.params)
    return ticket._replace(params=params, mask=jax.tree.map(
        lambda m, w: None if m is None else jax.ShapeDtypeStruct(w.shape, m.dtype), ticket.mask, params,
        is_leaf=lambda leaf: leaf is None,
    ))  # fmt: skip


def _with_classifier(params: Params, ticket: Ticket) -> Params:
    """Those params, but for the last layer of the ticket."""
    layer = _classifier(ticket)

    def choose(at: tuple, loaded: Any, drawn: Any) -> Any:
        return drawn if masks.path_name(at).rpartition("/")[0] == layer else loaded

    return jax.tree_util.tree_map_with_path(choose, params, ticket.params)


def _as_flags(hint: str) -> str:
    """Arguments of functions, as the command line calls them."""
    for argument, flag in _FLAGS.items():
        hint = hint.replace(argument, flag)
    return hint


def pretrained_file(path: Path) -> Path:
    """The file of weights that `--pretrained` names.

    Raises:
      UsageError: if it is not there.
    """
    file = ticket_file.find(path)
    if file is None:
        raise UsageError(
            f"--pretrained: {path} is not there; expected the folder of a finished run, a ticket.safetensors or "
            "PyTorch weights"
        )
    return file


def _is_ticket(path: Path) -> bool:
    """Whether it is a file of ours, or so much like one that its own reader should say what is wrong."""
    return path.name == ticket_file.FILE_NAME or (path.suffix == ".safetensors" and ticket_file.is_ticket(path))


def run_key(config: Config) -> jax.Array:
    """The randomness of the training, apart from that of `initial_ticket`."""
    return jax.random.split(jax.random.key(config.seed))[1]
