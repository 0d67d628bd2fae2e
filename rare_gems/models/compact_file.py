"""Compact networks as ticket files, whose header has their layers."""

import os
from typing import Any

import jax

from rare_gems.masks import map_kept, ones
from rare_gems.models.compact import Compact
from rare_gems.models.layer_graph import Graph, Layer, Norm, Skip, model_of
from rare_gems.phase import ModelState, Params, Ticket
from rare_gems.storage import ticket_file

__all__ = ["load_compact", "save_compact"]


def save_compact(path: str | os.PathLike[str], small: Compact) -> None:
    """Writes a smaller network as a ticket file, whose mask keeps the weights that are not zero.

    Args:
      path: the file. small: as from `compact.compact`.

    Raises:
      OSError: as `ticket_file.save`.
    """
    dense = ones(small.params)
    mask = map_kept(lambda w: w != 0, small.params, dense)
    layers = [{"kind": type(layer).__name__, **layer._asdict()} for layer in small.graph.layers]
    about = {"layers": layers, "spaces": small.graph.spaces, "channels": small.channels}
    ticket = Ticket(small.params, None, mask)
    ticket_file.save(path, ticket, metadata={"method": "compact", "compact": about}, model_state=small.state)


def load_compact(path: str | os.PathLike[str]) -> Compact:
    """Reads what `save_compact` wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: naming the file: as `ticket_file.load`, and for the ticket of a network that is not compact.

    Example:
      >>> import tempfile
      >>> from rare_gems.models.compact import compact
      >>> from rare_gems.models.lenet import lenet_300_100
      >>> params, state = lenet_300_100(2, input_size=4).init(jax.random.key(0))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save_compact(f"{folder}/a", compact(Ticket(params, None, ones(params)), state, "lenet_300_100"))
      ...     small = load_compact(f"{folder}/a")
      >>> small.model.apply(small.params, small.state, jax.numpy.ones((1, 4)), False)[0].shape
      (1, 2)
    """
    file = ticket_file.load(path)
    about: dict[str, Any] = file.metadata.get("compact") or {}
    try:
        layers = tuple(_layer(**fields) for fields in about["layers"])
        graph = Graph(layers, tuple(about["spaces"]))
        channels = {name: (was, now) for name, (was, now) in about["channels"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected a compact network, got the ticket of another ({error!r})") from None
    params: Params = jax.tree.map(jax.numpy.asarray, file.ticket.params)
    state: ModelState = jax.tree.map(jax.numpy.asarray, file.model_state or {})
    return Compact(model_of(graph, params, state), params, state, graph, channels)


def _layer(kind: str, **fields: object) -> Layer | Norm | Skip:
    tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return {"Layer": Layer, "Norm": Norm, "Skip": Skip}[kind](**tuples)  # type: ignore
