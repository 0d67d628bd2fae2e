"""The rows of metrics.csv: what is measured on the device at each epoch's end is fetched an epoch later."""

import math
import operator
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from tensorboardX import SummaryWriter

from experiments.distributed import processes
from experiments.run_folder import metrics_csv, paths
from experiments.terminal import progress
from experiments.terminal.errors import RunFailed
from experiments.training.clock import Clock
from experiments.training.measure import Observed
from rare_gems import masks
from rare_gems.phase import Mask

__all__ = ["Table", "fail_not_finite"]


def fail_not_finite(step: int, phase: str, epoch: int) -> NoReturn:
    """Raises RunFailed for a loss that is NaN or infinite."""
    raise RunFailed(
        f"the loss is not finite at step {step} of the {phase} (epoch {epoch}); a lower learning rate may help"
    )


class Table:
    """The rows of a run, on disk, on the display and in TensorBoard; those not fetched yet are kept back.

    Args:
      notes: what goes into checkpoints; `rows` and `warned` (layers reported as empty, and still so) are kept there.
      mask: the layers, by name and size.
      held_out: the split whose accuracy is measured every epoch, "test" or "validation".
      top5: whether its top-5 accuracy is measured too.
      clock: of the epochs; to be started where one begins. It is the table's own from here on.
    """

    def __init__(
        self,
        folder: Path,
        display: progress.Progress,
        notes: dict[str, Any],
        mask: Mask,
        held_out: str,
        on_collapse: str,
        *,
        top5: bool = False,
        clock: Clock | None = None,
    ):
        self.path, self.display, self.on_collapse = folder / paths.METRICS, display, on_collapse
        self.held_out, self.top5 = f"{held_out}_accuracy", f"{held_out}_top5_accuracy" if top5 else None
        self.columns = metrics_csv.columns(self.top5)
        self.rows: list[dict[str, Any]] = notes["rows"]
        self.warned: list[str] = notes["warned"]
        self.layers = [(masks.path_name(path), math.prod(leaf.shape))
                       for path, leaf in jax.tree_util.tree_leaves_with_path(mask)]  # fmt: skip
        self.size = masks.num_prunable(mask)
        self.pending: list[tuple[dict[str, Any], tuple[Observed, jax.Array], int | None]] = []
        self.clock = Clock() if clock is None else clock
        self.board = None  # of several processes the first writes
        if processes.is_main():
            # All anew: a process that was killed had not written all of its rows, nor only rows that count.
            self.board = SummaryWriter(str(folder / paths.TENSORBOARD), purge_step=0)
            for number, row in enumerate(self.rows, 1):
                self._chart(self.board, row, number)
            metrics_csv.write_rows(self.path, self.rows, self.columns)

    def add(self, row: dict[str, Any], observed: Observed, accuracy: jax.Array, slot: int | None = None) -> None:
        """Takes a row (phase, epoch, step, bound) whose measurements are still on their way, and finishes the one
        before it meanwhile. Then waits for the device, once an epoch: the row's seconds end where its epoch does.

        Args:
          accuracy: float32 [1], or top-1 and top-5; with a leading axis, where several runs were measured at once.
          slot: the place of this run among those that were measured at once; None where it was alone.
        """
        self.pending.append((row, (observed, accuracy), slot))
        self.finish(keep=1)
        jax.block_until_ready((observed, accuracy))
        row |= self.clock.read()

    def finish(self, keep: int = 0) -> None:
        """Fetches all rows but the last `keep`.

        Raises:
          RunFailed: if a loss was not finite, or a layer is empty under on_collapse="error".
        """
        while len(self.pending) > keep:
            row, measured, slot = self.pending.pop(0)
            measured = jax.device_get(measured)  # of several runs, once for all: an array keeps what was fetched
            if slot is not None:
                measured = jax.tree.map(operator.itemgetter(slot), measured)
            (info, first_bad, frozen, kept), accuracy = measured
            if first_bad >= 0:
                fail_not_finite(int(first_bad), row["phase"], row["epoch"])
            self.check_layers(kept, f"lost its last weight in epoch {row['epoch']} of the {row['phase']}", slot)
            row |= {
                "loss": float(info.loss), "train_accuracy": float(info.accuracy), self.held_out: float(accuracy[0]),
                "sparsity": 1 - int(kept.sum()) / self.size, "flips": int(info.flips),
                "sparsity_frozen": 1 - int(frozen.sum()) / self.size,
            }  # fmt: skip
            row |= {self.top5: float(accuracy[1])} if self.top5 else {}
            self.rows.append(row)
            progress.tell(self.display, row, row[self.held_out])
            if self.board is None:
                continue
            metrics_csv.append_row(self.path, row, self.columns)
            self._chart(self.board, row, len(self.rows))

    def _chart(self, board: SummaryWriter, row: dict[str, Any], number: int) -> None:
        """Writes a row, of the epoch with this number among those of all phases, for TensorBoard."""
        shown = ("loss", "train_accuracy", self.held_out, "sparsity", "sparsity_frozen", "flips", self.top5)
        for name in shown:
            if name is not None and name in row:
                board.add_scalar(f"{row['phase']}/{name}", row[name], number)

    def check_layers(self, kept: np.ndarray, what: str, slot: int | None) -> None:
        """Reports the layers that keep no weight: each at once, and again only if it had weights in between.

        Args:
          kept: int32 [layers], in leaf order. what: "lost its last weight" and when. slot: as in `add`; several runs
            at once are told by their folders.
        Raises:
          RunFailed: under on_collapse="error", naming all of them, whether they were reported before or not.
        """
        whose = "" if slot is None else f"{self.path.parent}: "
        empty = [name for (name, size), count in zip(self.layers, kept, strict=True) if size and not count]
        if empty and self.on_collapse == "error":
            layers = f"layer {empty[0]}" if len(empty) == 1 else f"each of the layers {', '.join(empty)}"
            raise RunFailed(f"{whose}{layers} {what} (--on-collapse=error)")
        for name in empty:
            if name not in self.warned:
                progress.note(f"warning: {whose}layer {name} {what}")
        self.warned[:] = empty

    def close(self) -> None:
        """Ends the TensorBoard file and the display."""
        if self.board is not None:
            self.board.close()
        self.clock.close()
        progress.close(self.display)
