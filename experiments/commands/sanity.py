"""`python -m experiments.sanity RUN_DIR`: the checks of finished runs, and the report over their seeds."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from experiments.catalog.sanity_checks import CHECKS
from experiments.commands.sanity_report import report_checks
from experiments.config.config import Config
from experiments.config.data_flags import with_data_dir
from experiments.config.flags import read_flags
from experiments.config.saved import differing, fields_of
from experiments.config.validate import chosen_checks
from experiments.problem.recipe import check_recipes
from experiments.run_folder import folder as run_folders
from experiments.run_folder import paths
from experiments.terminal.errors import UsageError
from experiments.training.runner import check_folders, finish_checks, with_finished_checks

__all__ = ["sanity"]


@dataclasses.dataclass(frozen=True)
class Sanity:
    """Sanity checks of a finished run: of one seed, or of all the seeds in a folder of --num-seeds.

    Each check changes one thing in the ticket found, or in the search for it, and finetunes again with the same
    recipe. A search that learns something about weights and data should lose by it. The checks:

    {checks}
    """

    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """a run folder, or a folder of seed-* run folders"""
    checks: str = "all"
    """which, separated by commas"""
    data_dir: Path | None = None
    """where TFDS keeps its data sets, if not where the run found it"""


_LISTED = "\n    ".join(f"- {name}: {check.what}" for name, check in CHECKS.items())
Sanity.__doc__ = (Sanity.__doc__ or "").format(checks=_LISTED)


def sanity(args: list[str]) -> None:
    """Does what the command line asks for.

    Raises:
      UsageError: for a mistake. RunFailed, Interrupted: as `training.loop.train_together`.
    """
    asked = read_flags(Sanity, args, "python -m experiments.sanity")
    if asked.checks.strip(" ,") == "":
        raise UsageError(f"--checks: expected all, or some of {', '.join(CHECKS)}, got none")
    runs = []
    for folder in _run_folders(asked.run_dir):
        config = _configuration(folder)
        if config.data.is_folder and asked.data_dir is not None:
            told = "a run of `folder` is one of the images where they were; expected none, or a link there"
            raise UsageError(f"--data-dir: {told}, got {asked.data_dir}")
        config = dataclasses.replace(with_data_dir(config, asked.data_dir), sanity=asked.checks, compare=False)
        if not config.method.removes:
            raise UsageError(f"{folder}: the dense network has no mask to check; expected the run of another pruner")
        names = chosen_checks(config, "--checks")
        check_recipes(config, names, "--checks")
        ticket = run_folders.finished(folder, fields_of(config))
        if ticket is None:
            raise UsageError(f"{folder}: expected a finished run, got one without {paths.SUMMARY}; finish it first")
        first = runs[0] if runs else (config, folder, names, ticket)
        recipes = (fields_of(dataclasses.replace(one, seed=config.seed)) for one in (first[0], config))
        pruners, checks = ("pruner", first[0].pruner, config.pruner), ("checks", first[2], names)
        for what, there, here in (pruners, *differing(*recipes), checks):
            if there != here:
                raise UsageError(f"{folder}: expected the {what} of {first[1]}, {there}, got {here}")
        check_folders([config], [folder], names)
        runs.append((config, folder, names, ticket))
    shown = with_finished_checks(runs[0][2], [(config, folder) for config, folder, *_ in runs])
    summaries = [[ticket, *finish_checks(config, folder, shown)] for config, folder, _, ticket in runs]
    report_checks(Console(markup=False, emoji=False), asked.run_dir, summaries)


def _run_folders(folder: Path) -> list[Path]:
    if (folder / paths.CONFIG).is_file():
        return [folder]
    folders = sorted(path.parent for path in folder.glob(f"{paths.SEEDS}/{paths.CONFIG}"))
    if not folders:
        raise UsageError(f"{folder}: expected a run folder, with a config.json, or one of seed-* run folders")
    return folders


def _configuration(folder: Path) -> Config:
    config, check = run_folders.read_config(folder)
    if check is not None:
        raise UsageError(f"{folder}: expected the run that was checked, got its sanity check {check}")
    return config
