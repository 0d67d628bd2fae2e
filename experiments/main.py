"""What `python -m experiments.<dataset>` does: parse, run (or resume, or report), check, print."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import checks, command_line, exits, jobs, plan, sanity_runs
from experiments import config as configs
from experiments.config import Config, UsageError
from rare_gems import report

__all__ = ["main"]


def main(dataset: str, args: list[str] | None = None) -> int:
    """Runs one experiment; returns the exit status, as in `exits.status_of`."""
    return exits.status_of(dataset, lambda: _main(dataset, sys.argv[1:] if args is None else args))


def _main(dataset: str, args: list[str]) -> None:
    config, sources = command_line.parse(dataset, args)
    names = checks.chosen(config)
    console = Console()
    if config.dry_run:
        plan.print_plan(console, dataset, config, sources)
        return
    many = config.num_seeds > 1
    if many and config.run_dir is not None and (config.run_dir / "config.json").exists():
        raise UsageError(f"--num-seeds: {config.run_dir} is the folder of a single run; expected another --run-dir")
    jobs.check_recipes(dataset, config, names)
    runs = [dataclasses.replace(config, seed=config.seed + i, num_seeds=1) for i in range(config.num_seeds)]
    folders = [configs.run_folder(dataset, run, one_of_many=many) for run in runs]
    together = jobs.at_once(config, len(runs)) > 1
    tickets = jobs.settle_tickets(dataset, runs, folders) if together else None
    summaries = []
    for i, (run, folder) in enumerate(zip(runs, folders, strict=True)):
        ticket = tickets[i] if tickets else jobs.settle_ticket(dataset, run, folder)
        rows = [ticket, *jobs.settle_checks(dataset, run, folder, names)]
        report.print_table(console, rows, title=f"{rows[0]['dataset_name']}, {run.model}, seed {run.seed}")
        console.print(f"files: {folder}", soft_wrap=True, markup=False, highlight=False)
        summaries.append(rows)
    if many:
        means = [report.aggregate(list(rows)) for rows in zip(*summaries, strict=True)]
        title = f"{means[0]['dataset_name']}, {config.model}, {len(summaries)} seeds"
        report.print_table(console, means, title=title)
    if names:
        sanity_runs.report_checks(console, _report_folder(dataset, config, folders), summaries)


def _report_folder(dataset: str, config: Config, folders: list[Path]) -> Path:
    """Where what concerns all seeds goes: the run folder of one; beside the folders of several."""
    if len(folders) == 1:
        return folders[0]
    name: Any = configs.digest(configs.as_dict(dataset, config))
    return config.run_dir or Path("runs") / f"{dataset}-{config.pruner}-{name}-{len(folders)}-seeds"
