"""Seconds of a user's epoch, with evaluation, metrics and checkpoint, and what it is above its steps alone.

Example: python -m experiments.bench epoch --models resnet20 --epochs 5 --json epoch.json
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.bench.about import about
from experiments.catalog.datasets import Loaded
from experiments.catalog.networks import NETWORKS, defaults_of
from experiments.config.config import Config
from experiments.problem.initial_ticket import initial_ticket
from experiments.problem.problem import Problem, make_problem
from experiments.training import logbook, logbook_moments
from experiments.training.run import Run
from rare_gems.data.dataset import Dataset, Split
from rare_gems.models.platforms import keep_freed_memory
from rare_gems.pruners.gem_miner import search
from rare_gems.storage import checkpoint
from rare_gems.storage.atomic import write_whole
from rare_gems.training import trainer

__all__ = ["main"]

TARGET = 0.03
PIXELS: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def main(args: list[str]) -> int:
    """Prints a table, a line for each network. Returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m experiments.bench epoch", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--models", nargs="+", choices=list(NETWORKS), default=["resnet20"])
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=32, help="height and width; 3 channels")
    parser.add_argument("--train-images", type=int, default=10_000, help="random pixels (default 10,000)")
    parser.add_argument("--test-images", type=int, default=2_000, help="evaluated after each epoch (default 2,000)")
    parser.add_argument("--epochs", type=int, default=5, help="of which the first, that compiles, is left out")
    parser.add_argument("--json", type=Path, help="write the figures there")
    flags = parser.parse_args(args)
    if min(flags.batch_size, flags.image_size, flags.test_images) < 1 or flags.epochs < 2:
        parser.error("expected positive numbers, and --epochs of 2 or more")
    if flags.train_images < flags.batch_size:
        parser.error(f"--train-images: expected a batch of {flags.batch_size} or more, got {flags.train_images}")
    keep_freed_memory()
    table = Table(
        "network", "steps", "ms/step", "steps s", "evaluation s", "epoch s", "above steps", "of it evaluation"
    )
    rows = []
    for model in flags.models:
        try:
            row = _measure(flags, model)
        except ValueError as error:  # such as images that are too small for the network
            parser.error(str(error))
        rows.append(row)
        table.add_row(
            model, str(row["steps"]), f"{1e3 * row['seconds_per_step']:.2f}", f"{row['seconds_of_steps']:.3f}",
            f"{row['seconds_of_evaluation']:.3f}", f"{row['seconds_per_epoch']:.3f}",
            f"{100 * row['above_steps']:.1f} %", f"{100 * row['above_steps_by_evaluation']:.1f} %",
        )  # fmt: skip
    names = ("precision", "batch_size", "image_size", "train_images", "test_images", "epochs")
    facts = about("epoch") | {name: getattr(flags, name) for name in names} | {"target": TARGET}
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(table)
    for row in rows:
        rest = row["above_steps"] - row["above_steps_by_evaluation"]
        verdict = "met" if row["above_steps"] <= TARGET else "missed"
        console.print(
            f"{row['model']}: an epoch takes {100 * row['above_steps']:.1f} % more than steps x step time (target at "
            f"most {100 * TARGET:.0f} %: {verdict}); metrics and checkpoints {100 * rest:.1f} %",
            soft_wrap=True,
        )
    console.print(f"device: {facts['device']}, {facts['host']}; {facts['versions']}", soft_wrap=True)
    if flags.json:
        write_whole(flags.json, (json.dumps(facts | {"rows": rows}, indent=2) + "\n").encode())
    return 0


def _measure(flags: argparse.Namespace, name: str) -> dict[str, Any]:
    config = Config(
        "cifar10", model=name, network=defaults_of(name), precision=flags.precision, batch_size=flags.batch_size,
        checkpoint_every=1,
    )  # fmt: skip
    problem = make_problem(_random_images(flags, name), config)
    ticket, state = initial_ticket(problem.model, config)
    phase = search(ticket.mask, sparsity=0.9856, num_epochs=150, steps_per_epoch=problem.feed.num_batches)
    key = jax.random.key(1)
    run = Run(title=name, recipe=(phase,), ticket=ticket, model_state=state, key=key, feeds=(problem.feed,))
    alone = _median(_steps_alone(run, problem, flags.epochs))
    whole = _median(_whole_epochs(run, problem, config, flags.epochs))
    evaluation = _median(_evaluations(run, problem, flags.epochs))
    return {
        "model": name,
        "steps": problem.feed.num_batches,
        "seconds_per_step": alone / problem.feed.num_batches,
        "seconds_of_steps": alone,
        "seconds_of_evaluation": evaluation,
        "seconds_per_epoch": whole,
        "above_steps": whole / alone - 1,
        "above_steps_by_evaluation": evaluation / alone,
    }  # fmt: skip


def _random_images(flags: argparse.Namespace, name: str) -> Loaded:
    rng, shape = np.random.default_rng(0), (flags.image_size, flags.image_size, 3)

    def drawn(num: int) -> Split:
        return Split(rng.integers(0, 256, (num, *shape), np.uint8), rng.integers(0, 10, num).astype(np.int32))

    splits = drawn(flags.train_images), drawn(flags.test_images), None
    return Loaded(Dataset(name, *splits, 10, crop_padding=4, flip=True, note="", **PIXELS))


def _moments(run: Run, problem: Problem, num_epochs: int) -> Iterator[trainer.Moment]:
    moments = trainer.epochs(
        run.recipe, run.ticket, run.model_state, loss_fn=problem.loss_fn, feed=run.feeds, key=run.key
    )
    for _, moment in zip(range(num_epochs), moments, strict=False):  # in this order no further epoch is begun
        yield moment


def _steps_alone(run: Run, problem: Problem, num_epochs: int) -> Iterator[float]:
    """Seconds of each epoch's steps, nothing between."""
    start = time.perf_counter()
    for moment in _moments(run, problem, num_epochs):
        jax.block_until_ready(moment.carry.totals)
        yield time.perf_counter() - start
        start = time.perf_counter()


def _whole_epochs(run: Run, problem: Problem, config: Config, num_epochs: int) -> Iterator[float]:
    """Seconds of each epoch as a run has them: rows, TensorBoard, and a checkpoint in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        book = logbook.open_logbook(run, problem, Path(folder), config, quiet=True)
        try:
            start = time.perf_counter()
            for moment in _moments(run, problem, num_epochs):
                logbook_moments.take([book], moment)
                yield time.perf_counter() - start
                start = time.perf_counter()
        finally:
            book.table.close()
            checkpoint.close(book.manager)


def _evaluations(run: Run, problem: Problem, number: int) -> Iterator[float]:
    for _ in range(number):
        start = time.perf_counter()
        jax.block_until_ready(problem.ranked(run.ticket.params, run.model_state, problem.splits["test"]))
        yield time.perf_counter() - start


def _median(seconds: Iterator[float]) -> float:
    """Of all but the first."""
    _, *others = seconds
    return statistics.median(others)
