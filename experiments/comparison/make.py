"""Has the runs of a comparison made, here or by jobs: what is finished stays, what others make is left to them."""

import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.catalog.networks import NETWORKS
from experiments.cluster import collector, share
from experiments.cluster.flags import Launch, has_submitit
from experiments.cluster.worker import cores, in_job
from experiments.comparison.expand import Combination
from experiments.config.config import Config
from experiments.config.saved import fields_of
from experiments.problem.data import load_data
from experiments.problem.initial_ticket import check_pretrained
from experiments.problem.recipe import Planned, check_recipes, plan_of
from experiments.run_folder import folder as run_folder
from experiments.run_folder import paths
from experiments.terminal.errors import Busy, RunFailed, UsageError
from experiments.training.runner import check_folders, finish_checks, finish_tickets
from rare_gems import masks
from rare_gems.phase import Ticket
from rare_gems.storage import ticket_file

__all__ = ["check", "check_data", "check_weights", "launch_for", "make_all", "make_by_jobs", "plans"]

_LONG = 100_000  # steps: two minutes of LeNet-300-100, beside which the seconds that jobs take to start do not count


def plans(combinations: Sequence[Combination]) -> list[tuple[Combination, Planned]]:
    """What is known of the runs of the first seed before anything is read.

    Raises:
      ValueError: for what a method or a check refuses.
    """
    found: dict[tuple[str, str], tuple[Combination, Planned]] = {}
    with tempfile.TemporaryDirectory() as place:
        for each in combinations:
            cell = each.column, each.sparsity
            if cell not in found:
                found[cell] = each, _planned(each, Path(place))
    return list(found.values())


def _planned(each: Combination, place: Path) -> Planned:
    """The plan of a run; a ticket that it reads and that is not there yet is made up in `place`."""
    unread = [need for need in each.needs if not _finished(need)]
    options = {name: value for name, value in vars(each.config.options).items() if isinstance(value, Path)}
    mine = {name for name, value in options.items() if value in [need.folder for need in unread]}
    config = each.config
    if mine:
        options = dataclasses.replace(config.options, **dict.fromkeys(mine, _stand_in(config, place)))
        config = dataclasses.replace(config, options=options)
    plan = plan_of(config)
    check_recipes(config, each.checks, known=plan)
    return plan


def _stand_in(config: Config, folder: Path) -> Path:
    """A ticket of the network at the sparsity, in place of one that is still to be found; equal ones are one file."""
    abstract = plan_of(dataclasses.replace(config, pruner="random", options=None)).mask
    told = f"{config.dataset} {config.model} {config.sparsity} {abstract}"
    file = folder / f"{hashlib.sha256(told.encode()).hexdigest()}.safetensors"
    if file.exists():
        return file
    leaves, structure = jax.tree.flatten(abstract)
    counts = [max(1, int((1 - config.sparsity) * leaf.size)) for leaf in leaves]
    largest = max(range(len(leaves)), key=lambda i: leaves[i].size)  # takes the rest, so that the count is exact
    counts[largest] += masks.count_for(masks.num_prunable(abstract), config.sparsity) - sum(counts)
    kept = [(np.arange(leaf.size) < count).reshape(leaf.shape) for leaf, count in zip(leaves, counts, strict=True)]
    mask = jax.tree.unflatten(structure, kept)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.int8), mask)  # nobody reads them
    header = {"dataset": config.dataset, "model": config.model, "method": "random", "seed": 0}
    ticket_file.save(file, Ticket(params, None, mask), metadata=header | {"sparsity_target": config.sparsity})
    return file


def check(combinations: Sequence[Combination]) -> None:
    """Refuses, before anything is trained, folders of something else.

    Raises:
      UsageError: naming the folder.
    """
    for each in combinations:
        seeds = sum((other.column, other.sparsity) == (each.column, each.sparsity) for other in combinations)
        if (asked := each.config.at_once or 1) > seeds:
            raise UsageError(f"--at-once: expected at most the {seeds} seeds that there are, got {asked}")
    everything = [need for each in combinations for need in (*each.needs, each)]
    check_folders([each.config for each in everything], [each.folder for each in everything])
    for each in combinations:
        check_folders([each.config], [each.folder], each.checks)


def check_data(combinations: Sequence[Combination], launch: Launch) -> None:
    """Reads every data set once where there are several, so that one that is missing is told before the first run.

    Args:
      launch: with local jobs also where there is one, which each of them would tell by itself; SLURM's may see other
        disks.
    Raises:
      UsageError: naming what is missing.
    """
    wanted = {(e.config.dataset, e.config.source): e for e in combinations if not (e.folder / paths.SUMMARY).exists()}
    for each in wanted.values() if len(wanted) > 1 or launch.launcher == "local" else ():
        load_data(each.config)


def check_weights(combinations: Sequence[Combination], *, there: bool = True) -> list[str]:
    """Reads the files of `--pretrained` but those of runs that are still to be made, each once for each network.

    Args:
      there: refuse files that are not there, too.
    Returns:
      lines to be told: what the files are said to hold, and those that are not there.
    Raises:
      UsageError: naming the file, if it is of another network, or not whole.
    """
    begun: dict[Any, Config] = {}
    for each in combinations:
        config = each.config
        made_here = [need.folder for need in each.needs if not _finished(need)]
        if config.pretrained is not None and config.pretrained not in made_here and not _finished(each):
            of = config.model, config.network, config.replace_classifier, config.allow_missing, config.allow_unexpected
            begun.setdefault((config.pretrained, *of), config)
    told = []
    for (file, *_), config in begun.items():
        if there or ticket_file.find(file) is not None:
            told += check_pretrained(config)
        else:
            told.append(f"--pretrained: {file} is not there, and was not checked")
    return list(dict.fromkeys(told))


def _finished(each: Combination) -> bool:
    return run_folder.finished(each.folder, fields_of(each.config)) is not None


def _units(combinations: Sequence[Combination]) -> list[list[Combination]]:
    """The runs, one after the other; where several may train at once, the seeds of a cell together."""
    if not any((each.config.at_once or 1) > 1 for each in combinations):
        return [[each] for each in combinations]
    units: dict[tuple[str, str], list[Combination]] = {}
    for each in combinations:
        units.setdefault((each.column, each.sparsity), []).append(each)
    return list(units.values())


def make_all(combinations: Sequence[Combination], folder: Path, done: Callable[[], None]) -> list[str]:
    """Makes every run with its checks, those that it needs first, and says what failed.

    Args:
      folder: of the comparison. done: called after each.
    """
    units = _units(combinations)

    def finish(i: int) -> str | None:
        some = units[i]
        try:
            for need in dict.fromkeys(need for each in some for need in each.needs):
                _finish_need(need)
            finish_tickets([each.config for each in some], [each.folder for each in some])
            for each in some:
                finish_checks(each.config, each.folder, each.checks)
        except RunFailed as error:
            return str(error)
        done()
        return None

    return share.go_through([_named(unit) for unit in units], finish, folder)


def _named(unit: Sequence[Combination]) -> str:
    first, last = unit[0], unit[-1]
    return first.name() if len(unit) == 1 else f"{first.name().replace('seed', 'seeds')} to {last.config.seed}"


def _finish_need(need: Combination) -> None:
    try:
        for other in need.needs:
            _finish_need(other)
        finish_tickets([need.config], [need.folder])
    except Busy as error:
        raise share.Waiting(str(error)) from None
    except RunFailed as error:
        raise RunFailed(f"{need.name()}, which it needs: {error}") from None


def launch_for(
    launch: Launch, combinations: Sequence[Combination], planned: Sequence[tuple[Combination, Planned]]
) -> tuple[Launch, list[str]]:
    """Where the runs are made: where the flags say; where they say nothing, here, or as jobs of one core each.

    The latter where it is faster: many steps, on the CPU, of networks that gain nothing from a second core.

    Args:
      planned: of all cells, as `plans`.
    Returns:
      where, and what is told of it.
    """
    here = dataclasses.replace(launch, launcher=None)
    if launch.launcher is not None or in_job():
        return (here if launch.launcher == "here" else launch), []
    steps = {(each.column, each.sparsity): sum(phase.num_steps for phase in plan.recipe) for each, plan in planned}
    left = [each for each in combinations if not _made(each)]
    jobs = min(len(left), len(cores("0/1")))
    networks = [NETWORKS.get(each.config.model) for each in left]
    alone = all(network is not None and network.one_core for network in networks)
    alone &= not any(each.config.at_once or each.config.shard_params for each in left)
    long = sum(steps[each.column, each.sparsity] for each in left) >= _LONG
    if jobs < 2 or not (alone and long) or jax.default_backend() != "cpu":
        return here, []
    if not has_submitit():
        return here, [f"{jobs} jobs, one a core, would be faster: pip install 'rare_gems[slurm]'"]
    told = f"{jobs} local jobs, one a core (--launcher=here: one run after the other, in this process)"
    return dataclasses.replace(launch, launcher="local", num_jobs=jobs), [told]


def make_by_jobs(
    launch: Launch, command: list[str], combinations: Sequence[Combination], folder: Path, done: Callable[[], None]
) -> list[str]:
    """Has every run made by jobs, which start the command, and says what failed.

    Args:
      folder: of the comparison. done: called at the end.
    Raises:
      Interrupted, UsageError: as `collector.run_jobs`.
    """

    def left() -> list[Path]:
        return [each.folder for each in combinations if not _made(each)]

    went_wrong = collector.run_jobs(launch, command, folder / paths.JOBS, left)
    done()
    undone = left()
    names = [each.name() for each in combinations if each.folder in undone]
    return [f"{name} ({'; '.join(went_wrong)})" if went_wrong and not i else name for i, name in enumerate(names)]


def _made(each: Combination) -> bool:
    places = [each.folder, *(paths.check_folder(each.folder, name) for name in each.checks)]
    return all((place / paths.SUMMARY).exists() for place in places)
