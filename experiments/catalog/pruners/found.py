"""Methods that search nothing, since another run has found the ticket."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.catalog.pruners.options import options_of
from experiments.catalog.pruners.pruner import Pruner, Setting
from experiments.terminal.errors import UsageError
from rare_gems import masks, transforms
from rare_gems.phase import Mask, Recipe, Transform
from rare_gems.storage import ticket_file

__all__ = ["ROWS"]

_FLAG = "--ticket.run"


def _ticket(s: Setting, *, run: Path | None = None) -> Recipe:
    """The ticket of another run, trained again from where its search ended: under another order of batches, say.

    Args:
      run: the run folder whose search found the ticket, with the weights that it left (of imp: those rewound to)
    """
    if run is None:
        raise UsageError(f"{_FLAG}: expected the folder of a finished run, got none")
    mask = _mask(run, s.mask)
    num_kept, size = masks.num_kept(mask), masks.num_prunable(mask)
    if masks.count_for(size, s.sparsity) != num_kept:
        exact = f"{1 - num_kept / size:.10g}"
        told = f"expected {exact}, that of {run}, which keeps {num_kept:,} of {size:,} weights"
        raise UsageError(f"--sparsity: {told}; got {s.sparsity}")
    mask = jax.tree.map(jnp.asarray, mask)
    held = Transform(lambda ticket: mask, lambda ticket, state, context: (ticket._replace(mask=state), state))
    search = transforms.edit(held)
    return (search,) if s.finetune is None else (search, s.finetune)


def _mask(run: Path, like: Mask) -> Mask:
    """The mask of the ticket in a run folder, in the structure of `like`, on the host."""
    file = ticket_file.find(run)
    if file is None:
        raise UsageError(f"{_FLAG}: expected the folder of a finished run, got {run}, without a ticket")
    try:
        found = ticket_file.read(file)[0]["mask"]
    except ValueError as error:
        raise UsageError(f"{_FLAG}: {error}") from None
    named = {masks.path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(like)}
    for name in sorted(named.keys() | found.keys()):
        here, there = named.get(name), found[name].shape if name in found else None
        if here != there:
            shapes = f"{here or 'none'} in {name}, got {there or 'none'}"
            raise UsageError(f"{_FLAG}: {run}: expected a ticket of this network, with prunable weights {shapes}")
    return jax.tree_util.tree_map_with_path(lambda path, leaf: found[masks.path_name(path)], like)


def _run(options: Any) -> Path:
    return options.run


ROWS = {
    "ticket": Pruner(
        what="the ticket of another run, trained again (under another --data-seed, say)",
        make=_ticket, options=options_of("ticket", _ticket), begins=_run, reads_data=False,
    ),
}  # fmt: skip
