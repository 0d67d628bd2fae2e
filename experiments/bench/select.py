"""Seconds and memory of `selection.top_mask` against a sort of the concatenated scores.

Example: python -m experiments.bench select --sizes resnet20 resnet18 --repeats 10
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.about import about
from rare_gems import selection
from rare_gems.storage.atomic import write_whole

__all__ = ["kernel_shapes", "main", "time_calls"]

SIZES = ("resnet20", "resnet18", "resnet50")


def kernel_shapes(name: str) -> list[tuple[int, ...]]:
    """Kernel shapes (height, width, in, out) of a ResNet, its shortcuts and its dense head included.

    Args:
      name: resnet20 (0.27 M weights), resnet18 (11.2 M, 10 classes) or resnet50 (25.5 M, 1000 classes).
    Example:
      >>> import math
      >>> [sum(math.prod(shape) for shape in kernel_shapes(name)) for name in SIZES]
      [270896, 11164352, 25502912]
    """
    return list({"resnet20": _resnet20, "resnet18": _resnet18, "resnet50": _resnet50}[name]())


def _basic_blocks(width_in: int, stages: list[tuple[int, int]]) -> Iterator[tuple[int, ...]]:
    for width, num_blocks in stages:
        for _ in range(num_blocks):
            yield from [(3, 3, width_in, width), (3, 3, width, width)]
            if width_in != width:
                yield (1, 1, width_in, width)
            width_in = width


def _resnet20() -> Iterator[tuple[int, ...]]:
    yield (3, 3, 3, 16)
    yield from _basic_blocks(16, [(16, 3), (32, 3), (64, 3)])
    yield (64, 10)


def _resnet18() -> Iterator[tuple[int, ...]]:
    yield (3, 3, 3, 64)
    yield from _basic_blocks(64, [(64, 2), (128, 2), (256, 2), (512, 2)])
    yield (512, 10)


def _resnet50() -> Iterator[tuple[int, ...]]:
    yield (7, 7, 3, 64)
    width_in = 64
    for width, num_blocks in [(64, 3), (128, 4), (256, 6), (512, 3)]:
        for block in range(num_blocks):
            yield from [(1, 1, width_in, width), (3, 3, width, width), (1, 1, width, 4 * width)]
            if block == 0:
                yield (1, 1, width_in, 4 * width)
            width_in = 4 * width
    yield (2048, 1000)


def _by_sort(scores: list[jax.Array], num_kept: jax.Array) -> list[jax.Array]:
    """What top_mask replaces: the threshold from a sort of all scores. It keeps all ties."""
    ascending = jnp.sort(jnp.concatenate([leaf.ravel() for leaf in scores]))
    threshold = ascending[ascending.size - num_kept]
    return [leaf >= threshold for leaf in scores]


def time_calls(call: Callable[[], object], repeats: int) -> float:
    """Median seconds of `call`, each waited for; one more call before them warms up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _measure(name: str, sparsity: float, repeats: int, sort_repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    scores = [jnp.asarray(rng.random(shape, np.float32)) for shape in kernel_shapes(name)]
    num_scores = sum(leaf.size for leaf in scores)
    num_kept = jnp.int32(num_scores - round(num_scores * sparsity))
    row: dict[str, Any] = {"network": name, "scores": num_scores, "score_bytes": 4 * num_scores}
    for what, function, times in (("top", selection.top_mask, repeats), ("sort", _by_sort, sort_repeats)):
        compiled = jax.jit(function).lower(scores, num_kept).compile()
        kept = sum(int(jnp.sum(leaf, dtype=jnp.int32)) for leaf in compiled(scores, num_kept))
        if function is selection.top_mask and kept != num_kept:
            raise RuntimeError(f"{name}: expected {num_kept} kept, got {kept}")
        row[f"{what}_seconds"] = time_calls(lambda compiled=compiled: compiled(scores, num_kept), times)
        memory = compiled.memory_analysis()  # None on backends that don't tell
        row[f"{what}_temporary_bytes"] = memory.temp_size_in_bytes if memory is not None else None
    return row


def _line(row: dict[str, Any]) -> str:
    temporary = ["-" if row[f"{what}_temporary_bytes"] is None else f"{row[f'{what}_temporary_bytes']:,}"
                 for what in ("top", "sort")]  # fmt: skip
    return (
        f"{row['network']:10} {row['scores']:>12,} {row['top_seconds']:>12.5f} {row['sort_seconds']:>12.5f} "
        f"{row['sort_seconds'] / row['top_seconds']:>8.1f} {temporary[0]:>14} {temporary[1]:>14} "
        f"{row['score_bytes']:>14,}"
    )


def main(args: list[str]) -> int:
    """Prints the table. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench select", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--sparsity", type=float, default=0.9, help="fraction removed (default 0.9)")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of top_mask (default 20)")
    parser.add_argument("--sort-repeats", type=int, default=3, help="timed calls of the sort (default 3)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    flags = parser.parse_args(args)
    if not 0 <= flags.sparsity < 1:
        parser.error(f"--sparsity: expected a fraction in [0, 1), got {flags.sparsity}")
    if min(flags.repeats, flags.sort_repeats) < 1:
        parser.error("--repeats, --sort-repeats: expected 1 or more")
    facts = about("select") | {"sparsity": flags.sparsity, "dtype": "float32"}
    print(f"device: {facts['device']}, {facts['versions']}, float32 scores, sparsity {flags.sparsity}")
    print(f"{'network':10} {'scores':>12} {'top_mask s':>12} {'sort s':>12} {'sort/top':>8} "
          f"{'top temp B':>14} {'sort temp B':>14} {'score B':>14}")  # fmt: skip
    rows = []
    for name in flags.sizes:
        rows.append(_measure(name, flags.sparsity, flags.repeats, flags.sort_repeats))
        print(_line(rows[-1]), flush=True)
    if flags.json:
        write_whole(flags.json, (json.dumps(facts | {"rows": rows}, indent=2) + "\n").encode())
    return 0
