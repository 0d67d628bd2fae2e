"""`python -m experiments.reproduce [ITEM]`: the tables, figures and claims of the papers, listed, planned and run."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated

import jax
import tyro
from rich.console import Console

from experiments.catalog.datasets import DATASETS
from experiments.cluster import flags, worker
from experiments.commands import reproduce_list
from experiments.comparison import make
from experiments.comparison.columns import Speaks, paired
from experiments.comparison.expand import Combination
from experiments.config.flags import read_flags, typed_by_name
from experiments.reproduction import report
from experiments.reproduction.choose import Chosen
from experiments.reproduction.spread import PartRuns, Scale, Wanted, item_folder, item_of, spread, without_training
from experiments.reproduction.values import Values, values_of
from experiments.run_folder import paths
from experiments.terminal.errors import RunFailed, UsageError

__all__ = ["reproduce"]


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Runs what is behind a table, figure or claim of a paper, and puts the paper's numbers beside ours.

    Without an item it lists them all, with their cost. Flags of the experiments themselves (--epochs,
    --train-examples, --gem-miner.period, ...) change the recipe for all columns that take them, which the table says.
    What is finished is not run again, also if another item made it; a killed command goes on where it was.
    """

    item: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="ITEM")] = None
    """rare-gems-table-3, ...; without: the list"""
    scale: Scale = "paper"
    """the paper's own, or a stated reduction that two CPU cores finish within an hour"""
    num_seeds: int | None = None
    """default: as many as the paper's trials, or those of the reduction"""
    seed: int = 42
    """the first"""
    dataset: str | None = None
    """another data set for all parts"""
    parts: str | None = None
    """some parts of the item alone, by names, networks or data sets, separated by commas: LeNet, ..."""
    columns: str | None = None
    """some columns alone, by their names, separated by commas; with the dense network and the columns that they need"""
    sparsities: str | None = None
    """some sparsities alone: 0.9,0.9856"""
    run_dir: Path = paths.RUNS / "reproduce"
    """where the folders of items go, and the runs that they share"""
    dry_run: bool = False
    """print what would be run and what it would cost, and stop"""
    time: bool = False
    """time a few steps of each network on this device, so that hours are known; of one item, or of all"""
    count: bool = False
    """count runs, steps and operations of all items again, for the list; after a change of rows or presets"""
    launch: Annotated[flags.Launch, tyro.conf.arg(name="")] = flags.Launch()  # noqa: RUF009


@dataclasses.dataclass(frozen=True)
class _Place:
    run_dir: Path | None = None


# Methods and checks are the paper's.
_CHANGES = "--columns, --sparsities, --dataset, --num-seeds, or flags of a run that its columns take, such as --epochs"
_SPEAKS = Speaks(
    flags=typed_by_name(Reproduce),
    instead=dict.fromkeys(("pruners",), _CHANGES),
    otherwise=_CHANGES,
    lists="one value, whose results have a folder of their own",
)


def reproduce(args: list[str]) -> None:
    """Does what the command line asks for.

    Raises:
      UsageError: for a mistake. RunFailed: if runs failed, once all others are done.
    """
    if jax.distributed.is_initialized():
        raise UsageError("the runs of a table are spread over jobs, not over the processes of one; expected --launcher")
    asked, extra = read_flags(Reproduce, args, "python -m experiments.reproduce", return_unknown_args=True)
    flags.check(asked.launch)
    if asked.num_seeds is not None and asked.num_seeds < 1:
        raise UsageError(f"--num-seeds: expected 1 or more, got {asked.num_seeds}")
    if asked.dataset is not None and asked.dataset not in DATASETS:
        raise UsageError(f"--dataset: expected one of {', '.join(DATASETS)}, got {asked.dataset!r}")
    paired(extra, _SPEAKS)
    console = Console(markup=False, emoji=False)
    wanted = Wanted(
        scale=asked.scale, root=asked.run_dir, flags=tuple(extra), dataset=asked.dataset, num_seeds=asked.num_seeds,
        seed=asked.seed, chosen=Chosen(*map(_words, (asked.parts, asked.columns, asked.sparsities))),
    )  # fmt: skip
    if asked.item in (None, "[]"):  # what tyro makes of it where only flags follow that are a run's
        if wanted != Wanted(wanted.scale, wanted.root) or asked.dry_run or asked.launch.launcher:
            raise UsageError("expected a table, figure or claim first; python -m experiments.reproduce lists them")
        if asked.count:
            reproduce_list.count_all()
        reproduce_list.print_items(console, wanted, measured=asked.time)
        return
    if asked.count:
        raise UsageError("--count: counts all items for the list; expected no table, figure or claim with it")
    item = item_of(asked.item)
    if asked.launch.launcher in ("local", "slurm"):
        jax.config.update("jax_platforms", "cpu")  # the accelerators are the jobs'
    parts = spread(item, wanted)
    plans = [make.plans(runs.combinations) for runs in parts]  # raises for what a method refuses
    for line in make.check_weights(_everything(parts), there=not asked.dry_run):
        console.print(line, soft_wrap=True, highlight=False)
    if asked.dry_run or asked.time:
        reproduce_list.print_plan(console, item, wanted, parts, plans, measured=asked.time)
        return
    folder = item_folder(item, wanted)
    report.check_tables(folder)
    launch, told = make.launch_for(asked.launch, _everything(parts), [cell for plan in plans for cell in plan])
    for line in told:
        console.print(line, soft_wrap=True, highlight=False)
    asked = dataclasses.replace(asked, launch=launch)
    failures = [] if without_training(item) else _make(asked, args, parts, folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not worker.in_job():
        values: list[Values] = [values_of(runs, plan) for runs, plan in zip(parts, plans, strict=True)]
        report.report(console, item, parts, values, folder, _typed(args))
    if failures:
        number = len(_everything(parts))
        raise RunFailed(f"{len(failures)} of {number} runs failed: {'; '.join(failures)}")


def _words(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(word.strip() for word in text.split(","))


def _typed(args: list[str]) -> str:
    """The command, without the place where its results go."""
    _, others = read_flags(_Place, args, "", return_unknown_args=True)
    return shlex.join(["python", "-m", "experiments.reproduce", *others])


def _everything(parts: list[PartRuns]) -> list[Combination]:
    """The runs of all parts, what others need first of all."""
    runs = [each for part in parts for each in part.combinations]
    needed = {need.folder for each in runs for need in each.needs}
    return sorted(runs, key=lambda each: each.folder not in needed)


def _make(asked: Reproduce, args: list[str], parts: list[PartRuns], folder: Path) -> list[str]:
    """Has every run made, here or by jobs, and says what failed."""
    everything = _everything(parts)
    make.check(everything)
    make.check_data(everything, asked.launch)
    folder.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        report.write_runs(parts, folder)

    if asked.launch.launcher is None:
        return make.make_all(everything, folder, write)
    _, others = read_flags(flags.Launch, args, "", return_unknown_args=True)
    command = [sys.executable, "-m", "experiments.reproduce", *others]
    return make.make_by_jobs(asked.launch, command, everything, folder, write)
