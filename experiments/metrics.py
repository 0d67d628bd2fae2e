"""The rows of metrics.csv: measured on the device at each epoch's end, fetched an epoch later."""

import functools
import time
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from tensorboardX import SummaryWriter

from experiments import progress, records
from rare_gems import masks, views
from rare_gems.phase import Info, Mask, Phase
from rare_gems.trainer import Carry

__all__ = ["Observed", "RunFailed", "Table", "fail_not_finite", "measure"]


class RunFailed(RuntimeError):  # noqa: N818
    """The training cannot go on: one line, exit status 3."""


class Observed(NamedTuple):
    """What is measured at an epoch's end, still on the device. Counts are int32 per layer, in leaf order."""

    support: Mask
    info: Info
    first_bad: jax.Array
    kept_frozen: list[jax.Array]
    kept: list[jax.Array]


@functools.partial(jax.jit, static_argnums=0)
def measure(phase: Phase, carry: Carry, previous: Mask) -> tuple[Observed, Any]:
    """The epoch's diagnostics, and the params that the network sees for evaluation.

    Args:
      previous: the effective mask at the end of the epoch before.
    """
    key = jax.random.fold_in(jax.random.fold_in(carry.key, 2**31 - 3), carry.step)
    seen = phase.view(carry.ticket, carry.step, key)
    support = views.support(phase.view, carry.ticket, carry.step, key)
    flips = masks.num_kept(jax.tree.map(jnp.logical_xor, support, previous))
    steps = jnp.maximum(carry.totals.num_steps, 1).astype(jnp.float32)
    info = Info(carry.totals.loss / steps, carry.totals.accuracy / steps, masks.sparsity(support), flips)
    counts = [[jnp.sum(m, dtype=jnp.int32) for m in jax.tree.leaves(t)] for t in (carry.ticket.mask, support)]
    return Observed(support, info, carry.totals.first_bad, *counts), seen


def fail_not_finite(step: int, phase: str, epoch: int) -> NoReturn:
    """Raises RunFailed for a loss that is NaN or infinite."""
    raise RunFailed(
        f"the loss is not finite at step {step} of the {phase} (epoch {epoch}); a lower learning rate may help"
    )


class Table:
    """The rows of a run, on disk, on the display and in TensorBoard; those not fetched yet are kept back.

    Args:
      notes: what goes into checkpoints; `rows` and `warned` (layers already reported as empty) are kept there.
      held_out: the split whose accuracy is measured every epoch, "test" or "validation".
    """

    def __init__(
        self, folder: Path, display: progress.Progress, notes: dict[str, Any], held_out: str, on_collapse: str
    ):
        self.path, self.display, self.on_collapse = folder / "metrics.csv", display, on_collapse
        self.held_out = f"{held_out}_accuracy"
        self.rows: list[dict[str, Any]] = notes["rows"]
        self.warned: list[str] = notes["warned"]
        self.pending: list[tuple[dict[str, Any], Observed, jax.Array]] = []
        self.clock = time.monotonic()
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=len(self.rows))
        records.write_rows(self.path, self.rows)

    def add(self, row: dict[str, Any], observed: Observed, accuracy: jax.Array) -> None:
        """Takes a row (phase, epoch, step, bound) whose measurements are still on their way, and finishes the
        one before it, so that the device never waits for the host."""
        self.pending.append((row, observed, accuracy))
        self.finish(keep=1)

    def finish(self, keep: int = 0) -> None:
        """Fetches all rows but the last `keep`.

        Raises:
          RunFailed: if a loss was not finite, or a layer is empty under on_collapse="error".
        """
        while len(self.pending) > keep:
            row, observed, accuracy = self.pending.pop(0)
            size = masks.num_prunable(observed.support)
            names = [masks.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(observed.support)]
            info, first_bad, frozen, kept = jax.device_get(
                (observed.info, observed.first_bad, observed.kept_frozen, observed.kept)
            )
            if first_bad >= 0:
                fail_not_finite(int(first_bad), row["phase"], row["epoch"])
            self._check_layers(row, names, kept)
            row |= {
                "loss": float(info.loss), "train_accuracy": float(info.accuracy), self.held_out: float(accuracy),
                "sparsity": float(1 - sum(map(int, kept)) / size), "flips": int(info.flips),
                "sparsity_frozen": 1 - sum(map(int, frozen)) / size, "seconds": time.monotonic() - self.clock,
            }  # fmt: skip
            self.clock += row["seconds"]
            self.rows.append(row)
            records.append_row(self.path, row)
            for name in ("loss", "train_accuracy", self.held_out, "sparsity", "sparsity_frozen", "flips"):
                self.board.add_scalar(f"{row['phase']}/{name}", row[name], len(self.rows))
            progress.tell(self.display, row, row[self.held_out])

    def close(self) -> None:
        """Ends the TensorBoard file and the display."""
        self.board.close()
        progress.close(self.display)

    def _check_layers(self, row: dict[str, Any], names: list[str], kept: list[Any]) -> None:
        for name, count in zip(names, kept, strict=True):
            if count > 0 or name in self.warned:
                continue
            message = f"layer {name} lost its last weight in epoch {row['epoch']} of the {row['phase']}"
            if self.on_collapse == "error":
                raise RunFailed(f"{message} (--on-collapse=error)")
            self.warned.append(name)
            progress.note(f"warning: {message}")
