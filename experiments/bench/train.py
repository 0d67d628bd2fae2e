"""Speed of the GEM-MINER search with evaluation: images per second, epochs, time to a ticket, use of the device.

Example: python -m experiments.bench train --models resnet20 --precisions float32 bfloat16 --runs 1 8 --json train.json
"""

import argparse
import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.bench.about import about
from experiments.bench.timing import measured_peak
from experiments.catalog.datasets import Loaded
from experiments.catalog.networks import NETWORKS, defaults_of
from experiments.config.config import Config
from experiments.problem.initial_ticket import initial_ticket
from experiments.problem.network import forward_flop
from experiments.problem.problem import make_problem
from experiments.training import measure, stacking
from rare_gems.data.dataset import Dataset, Split
from rare_gems.models.platforms import keep_freed_memory
from rare_gems.pruners.gem_miner import search
from rare_gems.storage.atomic import write_whole
from rare_gems.training import trainer

__all__ = ["main"]

PIXELS: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def main(args: list[str]) -> int:
    """Prints a table, a line for each network, precision and number of runs at once. Returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m experiments.bench train", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--models", nargs="+", choices=list(NETWORKS), default=["resnet20"])
    parser.add_argument("--precisions", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--runs", nargs="+", type=int, default=[1, 8], help="seeds at once, under vmap (default 1 8)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=32, help="height and width; 3 channels")
    parser.add_argument("--train-images", type=int, default=50_000, help="random pixels (default 50,000)")
    parser.add_argument("--test-images", type=int, default=10_000, help="evaluated after each epoch (default 10,000)")
    parser.add_argument("--epochs", type=int, default=5, help="of which the first, that compiles, is set apart")
    parser.add_argument("--json", type=Path, help="write the figures there")
    flags = parser.parse_args(args)
    if min(flags.batch_size, flags.image_size, flags.test_images, *flags.runs) < 1 or flags.epochs < 2:
        parser.error("expected positive numbers, and --epochs of 2 or more")
    if flags.train_images < flags.batch_size:
        parser.error(f"--train-images: expected a batch of {flags.batch_size} or more, got {flags.train_images}")
    keep_freed_memory()
    peaks = {precision: measured_peak(precision) for precision in flags.precisions}
    table = Table("network", "precision", "runs", "images/s", "s/epoch", "150 epochs", "use %", "memory", "compile s")
    rows = []
    for model in flags.models:
        for precision in flags.precisions:
            for runs in flags.runs:
                try:
                    row = _measure(flags, model, precision, runs, peaks[precision][0])
                except ValueError as error:  # such as images that are too small for the network
                    parser.error(str(error))
                rows.append(row)
                minutes = row["seconds_150_epochs"] / 60
                at_most = "at most " if row["peak_memory_is_of_an_earlier_row"] else ""
                table.add_row(
                    model, precision, str(runs), f"{row['images_per_second']:,.0f}", f"{row['seconds_per_epoch']:.3f}",
                    f"{minutes:.1f} min",
                    f"{100 * row['model_flop_utilisation']:.1f}",
                    f"{at_most}{row['peak_memory_bytes'] / 2**30:.2f} GiB",
                    f"{row['compile_seconds']:.1f}",
                )  # fmt: skip
    names = ("batch_size", "image_size", "train_images", "test_images", "epochs")
    facts = about("train") | {name: getattr(flags, name) for name in names}
    facts["peaks"] = {name: {"flop_per_second": peak, "source": source} for name, (peak, source) in peaks.items()}
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(table)
    console.print(
        "a second's images and the use of the device (of its peak) count all runs; an epoch includes evaluation"
    )
    for name, (peak, source) in peaks.items():
        console.print(f"peak in {name}: {peak / 1e12:.3g} TFLOP/s ({source})", soft_wrap=True)
    console.print(f"device: {facts['device']}, {facts['host']}; {facts['versions']}", soft_wrap=True)
    if flags.json:
        write_whole(flags.json, (json.dumps(facts | {"rows": rows}, indent=2) + "\n").encode())
    return 0


def _measure(flags: argparse.Namespace, name: str, precision: Any, runs: int, peak: float) -> dict[str, Any]:
    config = Config("cifar10", model=name, network=defaults_of(name), precision=precision, batch_size=flags.batch_size)
    shape = (flags.image_size, flags.image_size, 3)
    rng, memory_before = np.random.default_rng(0), _peak_memory()

    def drawn(num: int) -> Split:
        return Split(rng.integers(0, 256, (num, *shape), np.uint8), rng.integers(0, 10, num).astype(np.int32))

    splits = drawn(flags.train_images), drawn(flags.test_images), None
    problem = make_problem(Loaded(Dataset(name, *splits, 10, crop_padding=4, flip=True, note="", **PIXELS)), config)
    feed, test, many = problem.feed, problem.splits["test"], runs > 1
    ticket, state = initial_ticket(problem.model, config)
    phase = search(ticket.mask, sparsity=0.9856, num_epochs=150, steps_per_epoch=feed.num_batches)
    key = jax.random.key(1)
    measuring, evaluate = measure.measure_fn(phase, many), problem.accuracies if many else problem.accuracy
    if many:
        ticket, state = stacking.stack([(ticket, state)] * runs)
        key = jax.random.split(key, runs)
    support, seconds, start = measure.masked_support(ticket), [], time.perf_counter()
    for moment in trainer.epochs((phase,), ticket, state, loss_fn=problem.loss_fn, feed=feed, key=key, many=many):
        observed, support, seen = measuring(moment.carry, support)
        jax.block_until_ready((observed, evaluate(seen, moment.carry.model_state, test)))
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        if moment.epoch == flags.epochs:
            break
    epoch = statistics.median(seconds[1:])
    flop = forward_flop(problem.model, shape) * (3 * feed.num_batches * flags.batch_size + flags.test_images) * runs
    peak_memory = _peak_memory()
    return {
        "model": name, "precision": precision, "runs": runs,
        "images_per_second": runs * flags.train_images / epoch,
        "seconds_per_epoch": epoch, "seconds_150_epochs": 150 * epoch,
        "model_flop_utilisation": flop / epoch / peak,
        "peak_memory_bytes": peak_memory, "peak_memory_is_of_an_earlier_row": peak_memory == memory_before,
        "compile_seconds": max(0.0, seconds[0] - epoch),
    }  # fmt: skip


def _peak_memory() -> int:
    """The most bytes used on the device since the process began; on CPU, which does not tell, by this process."""
    stats = jax.devices()[0].memory_stats() or {}
    return int(stats.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
