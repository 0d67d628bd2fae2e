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
    folders, summaries = [], []
    for seed in range(config.seed, config.seed + config.num_seeds):
        run = dataclasses.replace(config, seed=seed, num_seeds=1)
        folder = configs.run_folder(dataset, run, one_of_many=many)
        rows = [jobs.settle_ticket(dataset, run, folder), *jobs.settle_checks(dataset, run, folder, names)]
        report.print_table(console, rows, title=f"{rows[0]['dataset_name']}, {run.model}, seed {seed}")
        console.print(f"files: {folder}", soft_wrap=True, markup=False, highlight=False)
        folders.append(folder)
        summaries.append(rows)
    if many:
        together = [report.aggregate(list(rows)) for rows in zip(*summaries, strict=True)]
        title = f"{together[0]['dataset_name']}, {config.model}, {len(summaries)} seeds"
        report.print_table(console, together, title=title)
    if names:
        sanity_runs.report_checks(console, _report_folder(dataset, config, folders), summaries)


def _report_folder(dataset: str, config: Config, folders: list[Path]) -> Path:
    """Where what concerns all seeds goes: the run folder of one; beside the folders of several."""
    if len(folders) == 1:
        return folders[0]
    name: Any = configs.digest(configs.as_dict(dataset, config))
    return config.run_dir or Path("runs") / f"{dataset}-{config.pruner}-{name}-{len(folders)}-seeds"
