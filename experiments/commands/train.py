"""`python -m experiments.<dataset>`: finds tickets (or resumes, or reports), checks them, prints."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from experiments.commands import fit_report, sweep_table
from experiments.commands.dry_run import print_plan
from experiments.commands.help import print_help
from experiments.commands.leaf_table import tell_dense, tell_doubts
from experiments.commands.sanity_report import report_checks
from experiments.config import sweep
from experiments.config.config import Config
from experiments.config.saved import fields_of
from experiments.config.sweep import Combination
from experiments.config.validate import chosen_checks
from experiments.distributed import processes
from experiments.problem.initial_ticket import check_pretrained
from experiments.problem.recipe import check_recipes, plan_of
from experiments.run_folder import folder as run_folder
from experiments.run_folder import paths
from experiments.terminal.errors import UsageError
from experiments.training import devices, grouping, runner
from rare_gems.masks import LeafReport
from rare_gems.reports import run_tables

__all__ = ["train"]


def train(dataset: str, args: list[str]) -> None:
    """Does what the command line asks for.

    Raises:
      UsageError: for a mistake. RunFailed, Interrupted, HostLost: as `training.loop.train_together`.
    """
    if print_help(dataset, args):
        return
    try:
        combinations = sweep.expand(dataset, args)
        config, names = combinations[0].config, chosen_checks(combinations[0].config)
    except ValueError as error:
        processes.check_agreement({"error": str(error)})  # the others may have none
        raise
    swept = [combination.swept for combination in combinations]
    processes.check_agreement(_agreed(config) | {"sweep": swept, "error": None})
    console = Console(quiet=not processes.is_main(), markup=False, emoji=False)
    if config.dry_run:
        _print_plans(console, combinations)
        return
    leaves: dict[tuple[str | None, ...], list[LeafReport]] = {}
    for own, *_ in combinations:  # nothing is trained before all can be
        _check_folder(own)
        devices.check(own)
        leaves[own.model, own.prunable, own.dense] = plan_of(own).leaves
        check_recipes(own, names)
    for (model, *_), some in leaves.items():
        tell_doubts(console, model or "", some)
    tell_dense(console, config)
    everything = [run for combination in combinations for run in _seeds(combination.config)]
    runner.check_folders([config for config, _ in everything], [folder for _, folder in everything], names)
    if len(combinations) > 1:
        _check_weights(combinations)
    _finish(console, combinations, names)


def _check_weights(combinations: Sequence[Combination]) -> None:
    """Reads the pre-trained weights of what is not finished, each file once for each network."""
    begun: dict[tuple[Any, ...], Config] = {}
    for combination in combinations:
        for config, folder in _seeds(combination.config):
            if config.pretrained is not None and run_folder.finished(folder, fields_of(config)) is None:
                of = config.model, config.network, config.replace_classifier
                begun.setdefault((config.pretrained, *of, config.allow_missing, config.allow_unexpected), config)
    for config in begun.values():
        check_pretrained(config)


def _finish(console: Console, combinations: Sequence[Combination], names: Sequence[str]) -> None:
    """Trains what is not finished, and prints a table for each run, for its seeds, and for all combinations."""
    runs = [_seeds(combination.config) for combination in combinations]
    everything = [run for seeds in runs for run in seeds]
    tickets: dict[Path, dict[str, Any]] = {}
    if grouping.at_once(combinations[0].config, len(everything)) > 1:
        folders = [folder for _, folder in everything]
        made = runner.finish_tickets([config for config, _ in everything], folders)
        tickets = dict(zip(folders, made, strict=True))
    means = []
    for combination, seeds in zip(combinations, runs, strict=True):
        summaries = []
        shown = runner.with_finished_checks(names, seeds) if names else names
        for config, folder in seeds:
            ticket = tickets.get(folder) or runner.finish_tickets([config], [folder])[0]
            rows = [ticket, *runner.finish_checks(config, folder, shown)]
            title = f"{rows[0]['dataset_name']}, {config.model}, seed {config.seed}"
            title += f", data seed {config.data_seed}" if config.data_seed is not None and not combination.swept else ""
            run_tables.print_table(console, rows, title=title + _swept(combination))
            console.print(f"files: {folder}", soft_wrap=True, markup=False, highlight=False)
            summaries.append(rows)
        means.append([run_tables.aggregate(list(rows)) for rows in zip(*summaries, strict=True)])
        if len(seeds) > 1:
            title = f"{means[-1][0]['dataset_name']}, {combination.config.model}, {len(seeds)} seeds"
            run_tables.print_table(console, means[-1], title=title + _swept(combination))
        if names and processes.is_main():
            place = seeds[0][1] if len(seeds) == 1 else paths.seeds_folder(combination.config)
            report_checks(console, place, summaries)
    if len(combinations) > 1 and processes.is_main():
        sweep_table.report(console, combinations, [rows[0] for rows in means])


def _agreed(config: Config) -> dict[str, Any]:
    """What all processes of a run have to be told alike; where the data are may differ from host to host."""
    others = {"num_seeds": config.num_seeds, "run_dir": str(config.run_dir), "dry_run": config.dry_run}
    return fields_of(config) | others | {"data_dir": None}


def _check_folder(config: Config) -> None:
    if config.num_seeds > 1 and config.run_dir is not None and (config.run_dir / paths.CONFIG).exists():
        raise UsageError(f"--num-seeds: {config.run_dir} is the folder of a single run; expected another --run-dir")


def _seeds(config: Config) -> list[tuple[Config, Path]]:
    """Each seed's own configuration and folder."""
    runs = [dataclasses.replace(config, seed=config.seed + i, num_seeds=1) for i in range(config.num_seeds)]
    return [(run, paths.run_folder(run, one_of_many=len(runs) > 1)) for run in runs]


def _swept(combination: Combination) -> str:
    return f", {sweep.spelled(combination.swept)}" if combination.swept else ""


def _print_plans(console: Console, combinations: Sequence[Combination]) -> None:
    first, text = combinations[0], combinations[0].config.for_
    runs = fit_report.runs_at_once(first.config, len(combinations) * first.config.num_seeds)
    target = None
    if text is not None:
        jax.config.update("jax_platforms", "cpu")  # the plugins of devices that are not there would complain
        target = fit_report.check_target([own.config for own in combinations], text, runs)
    print_plan(console, first.config, first.sources)
    for combination in combinations[1:]:
        plan_of(combination.config)  # raises for what the pruner refuses
    if len(combinations) > 1:
        number = len(combinations)
        console.print(f"the plan above is that of {sweep.spelled(first.swept)}; {number} combinations in all:")
        for combination in combinations:
            console.print(f"  {sweep.spelled(combination.swept)}", highlight=False)
    if target is not None and processes.is_main():
        fit_report.print_fit(console, first.config, target, runs)
