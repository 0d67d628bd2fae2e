"""From configurations to finished run folders: tickets, one or several at once, and their sanity checks."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.catalog.sanity_checks import CHECKS
from experiments.config.config import Config
from experiments.config.saved import fields_of, of_problem, without_free
from experiments.distributed import processes
from experiments.run_folder import folder, paths
from experiments.run_folder.summary import DataUsed, write_results
from experiments.terminal import progress
from experiments.terminal.errors import RunFailed, UsageError, spell
from experiments.training import grouping
from experiments.training.loop import train_together
from experiments.training.run import Run
from experiments.training.setups import Setup, edited_run, search_run, search_runs, setup_of, setups_of, tell_skipped

__all__ = ["check_folders", "finish_checks", "finish_tickets", "with_finished_checks"]

Summary = dict[str, Any]


def finish_tickets(configs: Sequence[Config], folders: Sequence[Path]) -> list[Summary]:
    """The summaries of the tickets that configurations ask for, each in its run folder: read if finished, else made.

    As many train at once as --at-once allows, share a program and fit in memory.

    Raises:
      ValueError: for what the pruner, the data or a folder refuses, before anything is written.
      RunFailed, Interrupted, HostLost: as `training.loop.train_together`.
    """
    fields = [fields_of(config) for config in configs]
    pairs = list(zip(folders, fields, strict=True))
    summaries = processes.on_main(lambda: [folder.finished(place, own) for place, own in pairs])
    left: dict[Any, list[int]] = {}  # by what they train on, and what of it counts
    for i, summary in enumerate(summaries):
        if summary is None:
            processes.on_main(functools.partial(folder.check_free, folders[i]))
            alike = of_problem(configs[i]), configs[i].prunable, configs[i].dense
            left.setdefault(alike, []).append(i)
    for some in left.values():
        for group in _groups([configs[i] for i in some]):
            chosen = [some[i] for i in group]
            setups = setups_of([configs[i] for i in chosen], len(chosen))
            for line in setups[0].told:
                progress.note(line)
            made = _make(
                setups,
                search_runs(setups),
                [fields[i] for i in chosen],
                configs[chosen[0]].pruner,
                [folders[i] for i in chosen],
            )
            for i, summary in zip(chosen, made, strict=True):
                summaries[i] = summary
    return [summary for summary in summaries if summary is not None]


def check_folders(configs: Sequence[Config], folders: Sequence[Path], names: Sequence[str] = ()) -> None:
    """Refuses, before the first of several runs, folders of which one would be refused at its turn. Writes nothing.

    Args:
      names: the sanity checks that each run undergoes.
    Raises:
      UsageError: for a folder of something else, or that cannot be written, and for a finished run without what its
        checks begin with.
    """

    def look() -> None:
        for config, place in zip(configs, folders, strict=True):
            fields = fields_of(config)
            done = folder.finished(place, fields) is not None
            if not done:
                folder.check_place(place)
            for name in names:
                own = paths.check_folder(place, name)
                if folder.finished(own, fields | {"check": name}) is not None:
                    continue
                folder.check_place(own)
                edits = CHECKS[name].edit is not None and not CHECKS[name].afresh
                if done and edits and not (place / paths.SEARCH).is_file():
                    raise UsageError(
                        f"--sanity={name}: {place / paths.SEARCH} is not there; expected what the search left"
                    )

    processes.on_main(look)


def finish_checks(config: Config, run_folder: Path, names: Sequence[str]) -> list[Summary]:
    """The summaries of sanity checks of the finished run in `run_folder`, each in a folder of its own there.

    Raises:
      as `finish_tickets`.
    """
    summaries = []
    for name in names:
        place, fields = paths.check_folder(run_folder, name), fields_of(config) | {"check": name}
        summary = processes.on_main(functools.partial(folder.finished, place, fields))
        if summary is None:
            processes.on_main(functools.partial(folder.check_free, place))
            setup, check = setup_of(without_free(config)), CHECKS[name]
            setup = setup._replace(config=dataclasses.replace(setup.config, keep="ticket"))  # rounds are of the run
            run = search_run(setup, check) if check.edit is None else edited_run(setup, check, run_folder)
            (summary,) = _make([setup], [run], [fields], name, [place])
        summaries.append(summary)
    return summaries


def with_finished_checks(names: Sequence[str], runs: Sequence[tuple[Config, Path]]) -> tuple[str, ...]:
    """The names of checks that are asked for, and of those that all runs have undergone, in the catalogue's order."""

    def done(name: str) -> bool:
        each = ((paths.check_folder(place, name), fields_of(config) | {"check": name}) for config, place in runs)
        with contextlib.suppress(UsageError):  # a check of something else is in nobody's way
            return all((own / paths.SUMMARY).is_file() and folder.finished(own, fields) for own, fields in each)
        return False

    return processes.on_main(lambda: tuple(name for name in CHECKS if name in names or done(name)))


def _groups(configs: Sequence[Config]) -> list[list[int]]:
    """Which train at once, by their numbers; runs that train one by one are not looked at before their turn."""
    if grouping.at_once(configs[0], len(configs)) == 1:
        return [[i] for i in range(len(configs))]
    setups = setups_of(configs, 1)
    return grouping.groups_of(configs[0], search_runs(setups), setups[0].problem)


def _make(
    setups: Sequence[Setup], runs: Sequence[Run], fields: Sequence[dict[str, Any]], name: str, places: Sequence[Path]
) -> list[Summary]:
    """The summaries of runs that train at once, each in its folder, which is claimed first."""
    problem, note = setups[0].problem, setups[0].note
    with contextlib.ExitStack() as claims:

        def claim() -> None:
            for place, own in zip(places, fields, strict=True):
                claims.enter_context(folder.claim(place, own))

        def write() -> list[Summary]:
            return [
                write_results(
                    place,
                    own,
                    name,
                    DataUsed(note=note, mean=problem.data.mean, std=problem.data.std, skipped=problem.skipped),
                    result,
                    order=setups[0].layers.read + setups[0].layers.unread,
                )
                for place, own, result in zip(places, fields, results, strict=True)
            ]

        processes.on_main(claim)
        try:
            told = len(problem.skipped)
            results = train_together(runs, problem, places, [setup.config for setup in setups])
            tell_skipped(problem.skipped[told:])
            return processes.on_main(write)
        except OSError as error:
            raise RunFailed(spell(error)) from error
