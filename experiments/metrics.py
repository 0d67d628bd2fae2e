"""The rows of metrics.csv: measured on the device at each epoch's end, fetched an epoch later."""

import functools
import operator
import time
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from tensorboardX import SummaryWriter

from experiments import hosts, progress, records
from experiments.members import EACH
from rare_gems import masks, views
from rare_gems.phase import Info, Mask, Params, Phase, Ticket
from rare_gems.trainer import Carry

__all__ = ["Observed", "RunFailed", "Table", "fail_not_finite", "masked_support", "measure", "measure_many"]


class RunFailed(RuntimeError):  # noqa: N818
    """The training cannot go on: one line, exit status 3."""


class Observed(NamedTuple):
    """What is measured at an epoch's end, still on the device; of several runs, each with a leading axis. Counts are
    int32 [layers], in leaf order."""

    info: Info
    first_bad: jax.Array
    kept_frozen: jax.Array
    kept: jax.Array


Measured = tuple[Observed, Mask, Params]


def _measure(phase: Phase, carry: Carry, previous: Mask) -> Measured:
    key = jax.random.fold_in(jax.random.fold_in(carry.key, 2**31 - 3), carry.step)
    seen = phase.view(carry.ticket, carry.step, key)
    support = views.support(phase.view, carry.ticket, carry.step, key)
    flips = masks.num_kept(jax.tree.map(jnp.logical_xor, support, previous))
    steps = jnp.maximum(carry.totals.num_steps, 1).astype(jnp.float32)
    info = Info(carry.totals.loss / steps, carry.totals.accuracy / steps, masks.sparsity(support), flips)
    return Observed(info, carry.totals.first_bad, _counts(carry.ticket.mask), _counts(support)), support, seen


@functools.partial(jax.jit, static_argnums=0)
def measure(phase: Phase, carry: Carry, previous: Mask) -> Measured:
    """The epoch's diagnostics, the effective mask, and the params that the network sees for evaluation.

    Args:
      previous: the effective mask at the end of the epoch before.
    """
    return _measure(phase, carry, previous)


@functools.partial(jax.jit, static_argnums=0)
def measure_many(phase: Phase, carry: Carry, previous: Mask) -> Measured:
    """The same of several runs at once: all but the step has a leading axis."""
    return jax.vmap(functools.partial(_measure, phase), in_axes=(EACH, 0))(carry, previous)


@jax.jit
def masked_support(ticket: Ticket) -> Mask:
    """The effective mask where the mask alone decides: as a phase ends. Of one run or of several."""
    return views.support(views.masked, ticket, 0, jax.random.key(0))


def _counts(mask: Mask) -> jax.Array:
    return jnp.stack([jnp.sum(leaf, dtype=jnp.int32) for leaf in jax.tree.leaves(mask)])


def fail_not_finite(step: int, phase: str, epoch: int) -> NoReturn:
    """Raises RunFailed for a loss that is NaN or infinite."""
    raise RunFailed(
        f"the loss is not finite at step {step} of the {phase} (epoch {epoch}); a lower learning rate may help"
    )


class Table:
    """The rows of a run, on disk, on the display and in TensorBoard; those not fetched yet are kept back.

    Args:
      notes: what goes into checkpoints; `rows` and `warned` (layers already reported as empty) are kept there.
      mask: the layers, by name and size.
      held_out: the split whose accuracy is measured every epoch, "test" or "validation".
    """

    def __init__(
        self,
        folder: Path,
        display: progress.Progress,
        notes: dict[str, Any],
        mask: Mask,
        held_out: str,
        on_collapse: str,
    ):
        self.path, self.display, self.on_collapse = folder / "metrics.csv", display, on_collapse
        self.held_out = f"{held_out}_accuracy"
        self.rows: list[dict[str, Any]] = notes["rows"]
        self.warned: list[str] = notes["warned"]
        self.names = [masks.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(mask)]
        self.size = masks.num_prunable(mask)
        self.pending: list[tuple[dict[str, Any], tuple[Observed, jax.Array], int | None]] = []
        self.clock = time.monotonic()
        self.board = None  # of several processes the first writes
        if hosts.is_main():
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=len(self.rows))
            records.write_rows(self.path, self.rows)

    def add(self, row: dict[str, Any], observed: Observed, accuracy: jax.Array, member: int | None = None) -> None:
        """Takes a row (phase, epoch, step, bound) whose measurements are still on their way, and finishes the
        one before it, so that the device never waits for the host.

        Args:
          member: which of the runs that were measured, where they were several.
        """
        self.pending.append((row, (observed, accuracy), member))
        self.finish(keep=1)

    def finish(self, keep: int = 0) -> None:
        """Fetches all rows but the last `keep`.

        Raises:
          RunFailed: if a loss was not finite, or a layer is empty under on_collapse="error".
        """
        while len(self.pending) > keep:
            row, measured, member = self.pending.pop(0)
            measured = jax.device_get(measured)  # of several runs, once for all: an array keeps what was fetched
            if member is not None:
                measured = jax.tree.map(operator.itemgetter(member), measured)
            (info, first_bad, frozen, kept), accuracy = measured
            if first_bad >= 0:
                fail_not_finite(int(first_bad), row["phase"], row["epoch"])
            self._check_layers(row, kept)
            row |= {
                "loss": float(info.loss), "train_accuracy": float(info.accuracy), self.held_out: float(accuracy),
                "sparsity": 1 - int(kept.sum()) / self.size, "flips": int(info.flips),
                "sparsity_frozen": 1 - int(frozen.sum()) / self.size, "seconds": time.monotonic() - self.clock,
            }  # fmt: skip
            self.clock += row["seconds"]
            self.rows.append(row)
            progress.tell(self.display, row, row[self.held_out])
            if self.board is None:
                continue
            records.append_row(self.path, row)
            for name in ("loss", "train_accuracy", self.held_out, "sparsity", "sparsity_frozen", "flips"):
                self.board.add_scalar(f"{row['phase']}/{name}", row[name], len(self.rows))

    def close(self) -> None:
        """Ends the TensorBoard file and the display."""
        if self.board is not None:
            self.board.close()
        progress.close(self.display)

    def _check_layers(self, row: dict[str, Any], kept: np.ndarray) -> None:
        for name, count in zip(self.names, kept, strict=True):
            if count > 0 or name in self.warned:
                continue
            message = f"layer {name} lost its last weight in epoch {row['epoch']} of the {row['phase']}"
            if self.on_collapse == "error":
                raise RunFailed(f"{message} (--on-collapse=error)")
            self.warned.append(name)
            progress.note(f"warning: {message}")
