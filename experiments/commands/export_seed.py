"""The ticket of a run as the seed of its weights and the bits of its mask."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.catalog.networks import input_shape
from experiments.config.saved import fields_of, from_fields, without_free
from experiments.problem.data import facts_of
from experiments.problem.initial_ticket import drawn
from experiments.problem.network import network_for
from experiments.run_folder import folder as run_folders
from experiments.run_folder import paths
from experiments.terminal.errors import UsageError
from rare_gems import masks
from rare_gems.phase import Mask, ModelState, Params
from rare_gems.storage import seed_file
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
    config = from_fields({k: v for k, v in run_folders.read_fields(folder).items() if k != "check"})
    for name, idle in (("pretrained", config.pretrained is None), (config.pruner, config.method.begins is None)):
        if not idle:
            raise UsageError(f"--to=seed: {folder}: expected weights that are drawn, got those that {name} begins with")
    facts = facts_of(config)
    model = network_for(config, input_shape(config.model, facts.image_shape), facts.num_classes)
    params = drawn(model, config)[0].params
    other = _moved(params, found.initial, found.ticket.mask)
    if other:
        raise UsageError(f"--to=seed: {folder}: expected a ticket of weights as they are drawn, got trained ones in "
                         f"{other[0]}, such as those of a rewinding to a later step")  # fmt: skip
    free = dataclasses.replace(without_free(config), data_dir=config.data_dir if config.data.is_folder else None)
    metadata = {name: value for name, value in found.metadata.items() if name in ("method", "seed", "dataset", "model")}
    seed_file.save(
        output, found.ticket.mask, params=params, model_state=state, metadata=metadata | {"config": fields_of(free)}
    )
    return [f"{output.stat().st_size:,} bytes: the mask, the statistics, and the configuration that draws the weights"]


def _moved(params: Params, initial: Params | None, mask: Mask) -> list[str]:
    """The leaves in which the ticket does not begin with the weights that are drawn, where it keeps them."""
    kept = {masks.path_name(at): np.asarray(leaf) for at, leaf in jax.tree_util.tree_leaves_with_path(mask)}
    there = {masks.path_name(at): np.asarray(leaf) for at, leaf in jax.tree_util.tree_leaves_with_path(initial)}

    def same(name: str, leaf: Any) -> bool:
        other = there.get(name)
        if other is None or other.shape != leaf.shape:
            return False
        return np.allclose(*(np.where(kept.get(name, True), one, 0) for one in (leaf, other)), rtol=1e-4, atol=1e-6)

    named = jax.tree_util.tree_leaves_with_path(params)
    return [masks.path_name(at) for at, leaf in named if not same(masks.path_name(at), np.asarray(leaf))]
