"""Progress on standard error: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any, NamedTuple

from tqdm import tqdm

from rare_gems.printable import printable

__all__ = ["Progress", "close", "note", "start", "steps", "tell"]


class Progress(NamedTuple):
    """A running display of `total` steps. `bar` is None where lines are printed; `clock` holds the steps done at
    the start, the time then, the steps done now, and the time of the last line."""

    bar: Any
    total: int
    clock: list[float]
    quiet: bool = False


def start(title: str, total: int, done: int, quiet: bool = False) -> Progress:
    """A display of `total` steps of which `done` are already done; a quiet one shows nothing."""
    bar = None
    if quiet or not _speaks():
        return Progress(None, total, [done, time.monotonic(), done, 0.0], True)
    if sys.stderr.isatty():
        bar = tqdm(total=total, initial=done, desc=title, unit="step", dynamic_ncols=True, mininterval=0.3)
    else:
        print(f"{title}: {total} steps, {done} done", file=sys.stderr, flush=True)
    return Progress(bar, total, [done, time.monotonic(), done, 0.0])


def steps(progress: Progress, done: int) -> None:
    """Moves the display to `done` steps."""
    progress.clock[2] = done
    if progress.bar is not None:
        progress.bar.update(done - progress.bar.n)


def tell(progress: Progress, row: dict[str, Any], accuracy: float) -> None:
    """Shows an epoch's loss, accuracy, sparsity and its bound; as a line at most every two seconds."""
    if progress.quiet:
        return
    parts = {
        "loss": f"{row['loss']:.3f}", "accuracy": f"{100 * accuracy:.1f}%", "sparsity": f"{100 * row['sparsity']:.2f}%"
    }  # fmt: skip
    if row["bound"] is not None:
        parts["bound"] = f"{100 * row['bound']:.2f}%"
    name = f"{row['phase']} epoch {row['epoch']}"
    if progress.bar is not None:
        progress.bar.set_description(name, refresh=False)
        progress.bar.set_postfix(parts)
        return
    first, began, done, told = progress.clock
    now = time.monotonic()
    if done >= progress.total or now - told >= 2:
        progress.clock[3] = now
        left = (now - began) / max(done - first, 1) * (progress.total - done)
        shown = "  ".join(f"{key} {value}" for key, value in parts.items())
        print(f"{name}  {shown}  {left:.0f} s left", file=sys.stderr, flush=True)


def note(message: str) -> None:
    """A line that does not tear the bar."""
    if _speaks():
        tqdm.write(printable(message), file=sys.stderr)


def close(progress: Progress) -> None:
    """Ends the display."""
    if progress.bar is not None:
        progress.bar.close()


def _speaks() -> bool:
    """Whether this process shows progress: the first of a run. It does not import JAX to find that out."""
    jax: Any = sys.modules.get("jax")
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0
