"""The weights of `--pretrained`: of a run folder or a ticket of ours, or a PyTorch state dict."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.config.config import Config
from experiments.config.flag_names import flag_of
from experiments.problem.found_ticket import of_network, other_pixels
from experiments.terminal.errors import UsageError
from rare_gems import leaves, masks
from rare_gems.models import read_torch
from rare_gems.models.model import Model
from rare_gems.phase import Mask, ModelState, Params, Ticket
from rare_gems.storage import ticket_file

__all__ = ["pretrained", "pretrained_file"]

_FLAGS = {
    "replace_classifier=True": "--replace-classifier", "affine=True": "--network.affine",
    "affine=False": "--network.no-affine", "use_bias=True": "--network.bias", "use_bias=False": "--network.no-bias",
    "allow_unexpected= for": "--allow-unexpected=REGEX for",
}  # fmt: skip


def pretrained(
    model: Model, config: Config, ticket: Ticket, state: ModelState, key: jax.Array, last: str | None
) -> tuple[Ticket, ModelState, tuple[str, ...]]:
    """The ticket with the weights of the file of `--pretrained`, its statistics, and what is to be told of them.

    Args:
      ticket, state: drawn for this run, or abstract. key: the run's first. last: the name of the last layer that the
        network uses, if it is known.
    Raises:
      UsageError: if the file is not there, or of another network, or not of finite numbers.
    """
    assert config.pretrained is not None
    path = pretrained_file(config.pretrained)
    if not _is_ticket(path):
        return _of_torch(path, model, config, ticket, key, last)
    for name in ("allow_missing", "allow_unexpected"):
        if getattr(config, name) is not None:
            raise UsageError(f"{flag_of(name)}: {path} is a ticket, which is whole; expected PyTorch weights with it")
    if config.replace_classifier:
        last = last or _last_by_name(ticket)
        whole = _without_classifier(path, ticket, last)
    else:
        whole = ticket
    try:
        like = whole._replace(scores=None, mask=_mask_in(path, whole.params))
        file = ticket_file.load(path, like=like, like_state=state)
    except ValueError as error:
        raise UsageError(f"--pretrained: {of_network(error, config.model)}") from None
    kept, size = masks.num_kept(file.ticket.mask), masks.num_prunable(file.ticket.mask)
    if kept < size:
        raise UsageError(f"--pretrained: {path}: expected the weights of a dense network, got {kept:,} of {size:,}")
    _check_finite(path, (file.ticket.params, file.model_state))
    params = _with_classifier(file.ticket.params, ticket, last) if last else file.ticket.params
    told = tuple(f"--pretrained: {note}" for note in other_pixels(config, path.parent))
    return ticket._replace(params=params), file.model_state, told


def _of_torch(
    path: Path, model: Model, config: Config, ticket: Ticket, key: jax.Array, last: str | None
) -> tuple[Ticket, ModelState, tuple[str, ...]]:
    replace = config.replace_classifier and (last or True)
    try:
        weights = read_torch(
            path, model, replace_classifier=replace, allow_missing=config.allow_missing,
            allow_unexpected=config.allow_unexpected, key=key,
        )  # fmt: skip
    except ValueError as error:
        raise UsageError(f"--pretrained: {_as_flags(str(error))}") from None
    _check_finite(path, (weights.params, weights.state))
    notes = [f"--pretrained: {note}" for note in weights.notes]
    if not config.normalize:
        notes.append("--pretrained: pixels stay in [0, 1] (--no-normalize); weights of PyTorch usually want others")
    if weights.mask is not None and (config.prunable, config.dense) == (None, None):
        kept, size = masks.num_kept(weights.mask), masks.num_prunable(weights.mask)
        notes.append(
            "--pretrained: removed weights start at zero and may come back; --pruner=magnitude "
            f"--sparsity={(size - kept) / size:.10g} keeps the mask"
        )
    return ticket._replace(params=weights.params), weights.state, tuple(notes)


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


def _check_finite(path: Path, trees: tuple[Params, ModelState]) -> None:
    """Raises UsageError for weights or statistics that are NaN, or infinite as float32, naming the first."""
    for tree in trees:
        for at, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not leaves.is_key(leaf) and not np.isfinite(leaf).all():
                raise UsageError(
                    f"--pretrained: {path}: expected finite numbers, got NaN or infinity (as float32) in "
                    f"{masks.path_name(at)}"
                )


def _mask_in(path: Path, params: Params) -> Mask:
    """The structure of the mask that the file has: what counted in its run may be other than what counts in this."""
    names = {layer["name"] for layer in ticket_file.load(path).metadata["layers"]}

    def one(at: tuple, leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, bool) if masks.path_name(at) in names else None

    return jax.tree_util.tree_map_with_path(one, params)


def _last_by_name(ticket: Ticket) -> str:
    """The last kernel in leaf order, prunable or not."""
    kernels = [leaf.name for leaf in masks.report(ticket.params) if leaf.prunable]
    if not kernels:
        raise UsageError("--replace-classifier: nothing tells which layer of the network is its last; expected no flag")
    return kernels[-1]


def _is_of(name: str, kernel: str) -> bool:
    """Whether a leaf is of the same layer as that one; a leaf outside of all layers is one by itself."""
    layer = kernel.rpartition("/")[0]
    return name == kernel or (layer != "" and name.rpartition("/")[0] == layer)


def _without_classifier(path: Path, ticket: Ticket, kernel: str) -> Ticket:
    """The ticket with the leaves of that kernel's layer in the shapes that the file has, whatever they are."""
    found = ticket_file.load(path).ticket
    shapes = {masks.path_name(p): leaf.shape for p, leaf in jax.tree_util.tree_leaves_with_path(found.params)}

    def like(at: tuple, leaf: jax.Array) -> Any:
        name = masks.path_name(at)
        of_last = _is_of(name, kernel) and name in shapes
        return jax.ShapeDtypeStruct(shapes[name], leaf.dtype) if of_last else leaf

    return ticket._replace(params=jax.tree_util.tree_map_with_path(like, ticket.params))


def _with_classifier(params: Params, ticket: Ticket, kernel: str) -> Params:
    """Those params, but for that kernel's layer, which is the ticket's."""

    def choose(at: tuple, loaded: Any, drawn: Any) -> Any:
        return drawn if _is_of(masks.path_name(at), kernel) else loaded

    return jax.tree_util.tree_map_with_path(choose, params, ticket.params)


def _as_flags(hint: str) -> str:
    """Arguments of functions, as the command line calls them."""
    for argument, flag in _FLAGS.items():
        hint = hint.replace(argument, flag)
    passes = [flag for flag in ("--allow-missing", "--allow-unexpected") if f" {flag.rpartition('-')[2]} (" in hint]
    return hint + (f"; see {' and '.join(f'{flag}=REGEX' for flag in passes)}" if passes else "")
