"""What `python -m experiments.<dataset>` does: parse, run (or resume, or report), check, print."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import checks, devices, exits, groups, hosts, jobs, plan, sanity_runs, sweeps
from experiments import config as configs
from experiments.config import Config, UsageError
from experiments.sweeps import Member
from rare_gems import report

__all__ = ["main"]


def main(dataset: str, args: list[str] | None = None) -> int:
    """Runs one experiment; returns the exit status, as in `exits.status_of`."""
    return exits.status_of(dataset, lambda: _main(dataset, sys.argv[1:] if args is None else args))


def _main(dataset: str, args: list[str]) -> None:
    try:
        members = sweeps.expand(dataset, args)
        config, names = members[0].config, checks.chosen(members[0].config)
    except ValueError as error:
        hosts.check_agreement({"error": str(error)})  # the others may have none
        raise
    hosts.check_agreement(_agreed(dataset, config) | {"sweep": [member.swept for member in members], "error": None})
    console = Console(quiet=not hosts.is_main())
    if config.dry_run:
        _print_plans(console, dataset, members)
        return
    for member in members:
        _check_folder(member.config)
        devices.check(member.config)
        jobs.check_recipes(dataset, member.config, names)
        if len(members) > 1:  # nothing is trained before all can be
            plan.recipe_of(dataset, member.config)
    runs = [_seeds(dataset, member.config) for member in members]
    flat = [run for seeds in runs for run in seeds]
    tickets: dict[Path, dict[str, Any]] = {}
    if groups.at_once(config, len(flat)) > 1:
        made = jobs.settle_tickets(dataset, *zip(*flat, strict=True))
        tickets = {folder: summary for (_, folder), summary in zip(flat, made, strict=True)}
    means = []
    for member, seeds in zip(members, runs, strict=True):
        summaries = []
        for run, folder in seeds:
            ticket = tickets.get(folder) or jobs.settle_ticket(dataset, run, folder)
            rows = [ticket, *jobs.settle_checks(dataset, run, folder, names)]
            title = f"{rows[0]['dataset_name']}, {run.model}, seed {run.seed}"
            report.print_table(console, rows, title=title + _swept(member))
            console.print(f"files: {folder}", soft_wrap=True, markup=False, highlight=False)
            summaries.append(rows)
        means.append([report.aggregate(list(rows)) for rows in zip(*summaries, strict=True)])
        if len(seeds) > 1:
            title = f"{means[-1][0]['dataset_name']}, {run.model}, {len(seeds)} seeds"
            report.print_table(console, means[-1], title=title + _swept(member))
        if names and hosts.is_main():
            sanity_runs.report_checks(console, _report_folder(dataset, member.config, seeds), summaries)
    if len(members) > 1 and hosts.is_main():
        _print_sweep(console, dataset, members, [rows[0] for rows in means])


def _agreed(dataset: str, config: Config) -> dict[str, Any]:
    """What all processes of a run have to be told alike; where the data are may differ from host to host."""
    others = {"num_seeds": config.num_seeds, "run_dir": str(config.run_dir), "dry_run": config.dry_run}
    return configs.as_dict(dataset, config) | others | {"data_dir": None}


def _check_folder(config: Config) -> None:
    if config.num_seeds > 1 and config.run_dir is not None and (config.run_dir / "config.json").exists():
        raise UsageError(f"--num-seeds: {config.run_dir} is the folder of a single run; expected another --run-dir")


def _seeds(dataset: str, config: Config) -> list[tuple[Config, Path]]:
    """Each seed's own configuration and folder."""
    runs = [dataclasses.replace(config, seed=config.seed + i, num_seeds=1) for i in range(config.num_seeds)]
    return [(run, configs.run_folder(dataset, run, one_of_many=len(runs) > 1)) for run in runs]


def _report_folder(dataset: str, config: Config, seeds: Sequence[tuple[Config, Path]]) -> Path:
    """Where what concerns all seeds goes: the run folder of one; beside the folders of several."""
    if len(seeds) == 1:
        return seeds[0][1]
    name: Any = configs.digest(configs.as_dict(dataset, config))
    return config.run_dir or Path("runs") / f"{dataset}-{config.pruner}-{name}-{len(seeds)}-seeds"


def _swept(member: Member) -> str:
    return f", {sweeps.spelled(member.swept)}" if member.swept else ""


def _print_sweep(console: Console, dataset: str, members: Sequence[Member], rows: Sequence[dict[str, Any]]) -> None:
    """The combined table: a row for each combination, mean and standard deviation over its seeds."""
    first = members[0].config
    named = [row | {"name": sweeps.spelled(member.swept)} for row, member in zip(rows, members, strict=True)]
    seeds = f"{first.num_seeds} {'seed' if first.num_seeds == 1 else 'seeds'} each"
    title = f"{rows[0]['dataset_name']}, {first.pruner}, {first.model}, {len(members)} combinations, {seeds}"
    report.print_table(console, named, title=title)
    file = sweeps.table_file(dataset, members)
    sweeps.write_table(file, [member.swept for member in members], rows)
    console.print(f"table: {file}", soft_wrap=True, markup=False, highlight=False)


def _print_plans(console: Console, dataset: str, members: Sequence[Member]) -> None:
    first = members[0]
    plan.print_plan(console, dataset, first.config, first.sources)
    for member in members[1:]:
        plan.recipe_of(dataset, member.config)  # raises for what the pruner refuses
    if len(members) > 1:
        console.print(f"the plan above is that of {sweeps.spelled(first.swept)}; {len(members)} combinations in all:")
        for member in members:
            console.print(f"  {sweeps.spelled(member.swept)}", highlight=False)
