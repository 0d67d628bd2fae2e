"""The ticket of a run as the seed of its weights and the bits of its mask."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.config.saved import fields_of, without_free
from experiments.problem.initial_ticket import drawn
from experiments.problem.network import network_of
from experiments.run_folder import folder as run_folders
from experiments.run_folder import paths
from experiments.terminal.errors import UsageError
from rare_gems import masks
from rare_gems.phase import Mask, ModelState, Params
from rare_gems.storage import seed_file
from rare_gems.storage.ticket_contents import on_host
from rare_gems.storage.ticket_file import TicketFile

__all__ = ["write_seed"]


def write_seed(output: Path, folder: Path, found: TicketFile, state: ModelState) -> list[str]:
    """Writes the mask and the configuration that draws the weights.

    Args:
      folder: of the run. found: its ticket. state: the statistics that go with the initial weights.
    Returns:
      what is to be told of it.
    Raises:
      UsageError: where the weights do not follow from the seed alone.
    """
    if not (folder / paths.CONFIG).is_file():
        raise UsageError(f"--to=seed: expected a run folder, got {folder} without {paths.CONFIG}")
    config, _ = run_folders.read_config(folder)
    for name, idle in (("pretrained", config.pretrained is None), (config.pruner, config.method.begins is None)):
        if not idle:
            raise UsageError(f"--to=seed: {folder}: expected weights that are drawn, got those that {name} begins with")
    params = drawn(network_of(config)[0], config)[0].params
    other = _moved(params, found.initial, found.ticket.mask)
    if other:
        raise UsageError(f"--to=seed: {folder}: expected a ticket of weights as its seed draws them, got others in "
                         f"{other[0]}: trained ones (those rewound to), or ones that a check draws again")  # fmt: skip
    free = dataclasses.replace(without_free(config), data_dir=None)  # the reader's is another
    metadata = {name: value for name, value in found.metadata.items() if name in ("method", "seed", "dataset", "model")}
    seed_file.save(
        output, found.ticket.mask, params=params, model_state=state, metadata=metadata | {"config": fields_of(free)}
    )
    return [f"{output.stat().st_size:,} bytes: the mask, the statistics, and the configuration that draws the weights"]


def _moved(params: Params, initial: Params | None, mask: Mask) -> list[str]:
    """The leaves in which the ticket does not begin with the weights that are drawn, where it keeps them."""
    kept = {masks.path_name(at): on_host(leaf) for at, leaf in jax.tree_util.tree_leaves_with_path(mask)}
    there = {masks.path_name(at): on_host(leaf) for at, leaf in jax.tree_util.tree_leaves_with_path(initial)}

    def same(name: str, leaf: Any) -> bool:
        other = there.get(name)
        if other is None or other.shape != leaf.shape:
            return False
        return np.allclose(*(np.where(kept.get(name, True), one, 0) for one in (leaf, other)), rtol=1e-4, atol=1e-6)

    named = jax.tree_util.tree_leaves_with_path(params)
    return [masks.path_name(at) for at, leaf in named if not same(masks.path_name(at), on_host(leaf))]
