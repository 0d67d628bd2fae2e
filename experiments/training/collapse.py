"""Layers that keep no weight: looked for wherever a mask is made, and told at once, by name and moment.

The masks of an epoch's end are looked at by `epoch_table.Table`; here are those that a run begins with or goes on
from, and those that the end of a phase leaves: a search, an edit of the ticket, a sanity check.
"""

from typing import Any

import numpy as np

from experiments.training import measure
from experiments.training.epoch_table import Table
from experiments.training.run import Run
from rare_gems.training import trainer

__all__ = ["check_end", "check_start"]


def check_start(table: Table, run: Run, carry: trainer.Carry | None, step: int, slot: int | None) -> None:
    """Looks at the mask before the first step.

    Args:
      carry, step: of the checkpoint that the run goes on from, which was reported by the process that made it, unless
        an empty layer is an error only now; None for a run that begins. slot: as in `Table.add`.
    Raises:
      RunFailed: under on_collapse="error".
    """
    if carry is None:
        what = f"has no weight in the ticket that {run.title} begins with"
        table.check_layers(_counts(run.ticket.mask), what, slot)
    elif table.on_collapse == "error":
        table.check_layers(_counts(carry.ticket.mask), f"has no weight in the checkpoint of step {step}", slot)


def check_end(table: Table, run: Run, moment: trainer.Moment, kept: np.ndarray, slot: int | None) -> None:
    """Looks at the mask that a phase leaves, before anything of its end is written.

    Args:
      moment: of the phase's end. kept: int32 [layers] of this run, or of several at once with a leading axis.
      slot: as in `Table.add`.
    Raises:
      RunFailed: under on_collapse="error".
    """
    when = f"at the end of the {moment.phase.name}" if moment.phase.num_steps else "when the mask was made"
    what = f"lost its last weight {when} (phase {moment.index + 1} of {len(run.recipe)} of {run.title})"
    table.check_layers(kept if slot is None else kept[slot], what, slot)


def _counts(mask: Any) -> np.ndarray:
    return np.asarray(measure.layer_counts(mask))
