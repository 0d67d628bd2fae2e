"""The ticket that a run begins with: weights drawn or pre-trained, scores, a mask that keeps everything."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.catalog.networks import NETWORKS, input_shape
from experiments.config.config import Config
from experiments.config.validate import flag_of
from experiments.problem.data import facts_of
from experiments.problem.found_ticket import found_ticket
from experiments.problem.network import layers_of, network_for
from experiments.problem.prunable import kernels_of, mask_for
from experiments.terminal.errors import UsageError
from rare_gems import init, leaves, masks
from rare_gems.models import read_torch
from rare_gems.models.model import Model
from rare_gems.phase import Mask, ModelState, Params, Ticket
from rare_gems.storage import ticket_file

__all__ = ["Start", "check_pretrained", "data_key", "initial_ticket", "last_kernel", "pretrained_file", "run_key",
           "start", "weights_of"]  # fmt: skip

_WEIGHTS = {"signed_constant": init.signed_constant, "kaiming_normal": init.kaiming_normal, "uniform": init.uniform}


_FLAGS = {
    "replace_classifier=True": "--replace-classifier", "affine=True": "--network.affine",
    "affine=False": "--network.no-affine", "use_bias=True": "--network.bias", "use_bias=False": "--network.no-bias",
    "allow_unexpected= for": "--allow-unexpected=REGEX for",
}  # fmt: skip


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
    """What a run begins with. notes: what is to be told of its pre-trained weights."""

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


def start(model: Model, config: Config, last: str | None = None) -> Start:
    """What `initial_ticket` makes, and what is to be told of it.

    Args:
      last: as of `initial_ticket`.
    Raises:
      ValueError: as `initial_ticket`; and for numbers that a network of the user's own draws as NaN.
    """
    key = _start_key(config)
    drawn = Start(*jax.jit(partial(_drawn, model, config))(key), notes=())
    if config.method.begins is not None:
        found = found_ticket(
            config.method.begins(config.options), f"--{config.pruner}.run", drawn.ticket, drawn.model_state
        )
        return Start(*found, notes=())
    if config.model not in NETWORKS and config.pretrained is None:
        _check_drawn(config.model, drawn.ticket)
    return drawn if config.pretrained is None else _pretrained(model, config, drawn, key, last)


def check_pretrained(config: Config) -> tuple[str, ...]:
    """What is to be told of the pre-trained weights of a configuration, if it has some. Reads no data, draws nothing.

    Raises:
      ValueError: as `initial_ticket`.
    """
    if config.pretrained is None:
        return ()
    facts, key = facts_of(config), _start_key(config)
    shape = input_shape(config.model, facts.image_shape)
    model = network_for(config, shape, facts.num_classes)
    abstract = Start(*jax.eval_shape(partial(_drawn, model, config), key), notes=())
    return _pretrained(model, config, abstract, key, last_kernel(model, shape)).notes


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


def _pretrained(model: Model, config: Config, drawn: Start, key: jax.Array, last: str | None) -> Start:
    """The start with the weights and statistics of the file of `--pretrained`."""
    assert config.pretrained is not None
    ticket, state, path = drawn.ticket, drawn.model_state, pretrained_file(config.pretrained)
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
        raise UsageError(f"--pretrained: {error}".replace("does not match 'like'", "not of this network")) from None
    kept, size = masks.num_kept(file.ticket.mask), masks.num_prunable(file.ticket.mask)
    if kept < size:
        raise UsageError(f"--pretrained: {path}: expected the weights of a dense network, got {kept:,} of {size:,}")
    _check_finite(path, (file.ticket.params, file.model_state))
    params = _with_classifier(file.ticket.params, ticket, last) if last else file.ticket.params
    return Start(ticket._replace(params=params), file.model_state, ())


def _of_torch(path: Path, model: Model, config: Config, ticket: Ticket, key: jax.Array, last: str | None) -> Start:
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
    if weights.mask is not None and (config.prunable, config.dense) == (None, None):
        kept, size = masks.num_kept(weights.mask), masks.num_prunable(weights.mask)
        notes.append(
            "--pretrained: removed weights start at zero and may come back; --pruner=magnitude "
            f"--sparsity={(size - kept) / size:.10g} keeps the mask"
        )
    return Start(ticket._replace(params=weights.params), weights.state, tuple(notes))


def _check_finite(path: Path, trees: tuple[Params, ModelState]) -> None:
    """Raises UsageError for weights or statistics that are NaN, or infinite as float32, naming the first."""
    for tree in trees:
        for at, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not leaves.is_key(leaf) and not np.isfinite(leaf).all():
                raise UsageError(
                    f"--pretrained: {path}: expected finite numbers, got NaN or infinity (as float32) in "
                    f"{masks.path_name(at)}"
                )


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


def data_key(config: Config) -> jax.Array | None:
    """The randomness of batches under `--data-seed`, whatever the seed; None: that of the training."""
    return None if config.data_seed is None else jax.random.key(config.data_seed)
