"""What `python -m experiments.<dataset>` does: parse, run (or resume, or report), compare, print."""

import contextlib
import dataclasses
import functools
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from experiments import config as configs
from experiments import outcome, plan, records
from experiments.config import Config, UsageError
from experiments.metrics import RunFailed
from experiments.problem import Problem, load_data, make_problem, recipe_for, run_key, start_ticket, training_phase
from experiments.run import Interrupted, Job, train
from rare_gems import checkpoint, report, sanity, ticket_io, transforms
from rare_gems.phase import Ticket

__all__ = ["main"]

# The tickets that --compare puts beside the one found: the scope in which its mask is shuffled.
VARIANTS: dict[str, Literal["global", "layer"]] = {"shuffled": "layer", "random": "global"}


def main(dataset: str, args: list[str] | None = None) -> int:
    """Runs one experiment.

    Returns:
      the exit status: 0; 2 for a mistake of the user (one line on standard error); 3 for a run that failed; 75
      after SIGTERM and 130 after Ctrl-C, where the same command goes on.
    """
    with _plain_warnings():
        try:
            _main(dataset, sys.argv[1:] if args is None else args)
        except RunFailed as error:
            return _complain(dataset, error, 3)
        except Interrupted as error:
            return _complain(dataset, error.args[0], 75 if error.args[1] == signal.SIGTERM else 130)
        except OSError as error:
            return _complain(dataset, _spell(error), 2)
        except Exception as error:
            if os.environ.get("RARE_GEMS_TRACEBACK"):
                raise
            if isinstance(error, ValueError):
                return _complain(dataset, error, 2)
            hint = "RARE_GEMS_TRACEBACK=1 in the environment shows where"
            return _complain(dataset, f"{type(error).__name__}: {_one_line(error)[:300]} ({hint})", 3)
    return 0


def _complain(dataset: str, error: Any, status: int) -> int:
    print(f"experiments.{dataset}: error: {_one_line(error)}", file=sys.stderr)
    return status


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings in one line each; what Orbax prints from its threads is silenced, since it is raised here too."""
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    logger = logging.getLogger("absl")
    level = logger.level
    sys.excepthook = threading.excepthook = sys.unraisablehook = lambda *_: None
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", checkpoint.DamagedCheckpoint)
            warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
            yield
    finally:
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
        logger.setLevel(level)


def _spell(error: OSError) -> str:
    return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")


def _one_line(message: Any) -> str:
    return " ".join(str(message).split())


def _main(dataset: str, args: list[str]) -> None:
    config, sources = configs.parse(dataset, args)
    console = Console()
    if config.dry_run:
        plan.print_plan(console, dataset, config, sources)
        return
    if config.num_seeds > 1 and config.run_dir is not None and (config.run_dir / "config.json").exists():
        raise UsageError(f"--num-seeds: {config.run_dir} is the folder of a single run; expected another --run-dir")
    summaries = []
    for seed in range(config.seed, config.seed + config.num_seeds):
        run = dataclasses.replace(config, seed=seed, num_seeds=1)
        folder = configs.run_folder(dataset, run, one_of_many=config.num_seeds > 1)
        rows = _run_and_compare(dataset, run, folder)
        report.print_table(console, rows, title=f"{rows[0]['dataset_name']}, {run.model}, seed {seed}")
        console.print(f"files: {folder}", soft_wrap=True, markup=False, highlight=False)
        summaries.append(rows)
    if len(summaries) > 1:
        together = [report.aggregate(list(rows)) for rows in zip(*summaries, strict=True)]
        title = f"{together[0]['dataset_name']}, {config.model}, {len(summaries)} seeds"
        report.print_table(console, together, title=title)


def _run_and_compare(dataset: str, config: Config, folder: Path) -> list[dict[str, Any]]:
    """The summaries of the ticket and of what it is compared with; finished parts are read, not run again."""
    fields = configs.as_dict(dataset, config)

    @functools.cache
    def problem() -> tuple[Problem, str]:
        data = load_data(dataset, config)
        return make_problem(data, config), data.note

    def searched() -> Job:
        solve, _ = problem()
        ticket, state = start_ticket(solve.model, config)
        recipe = recipe_for(config, ticket.mask, solve.feed.num_batches)
        return Job(f"{dataset} {config.pruner}", recipe, ticket, state, run_key(config))

    def rearranged(name: str) -> Job:
        solve, _ = problem()
        ticket, state = start_ticket(solve.model, config)
        found = ticket_io.load(folder / "ticket.safetensors", like=ticket)
        search = ticket_io.load(folder / "search.safetensors", like=ticket, like_state=state)
        again = Ticket(search.ticket.params, search.ticket.scores, found.ticket.mask)
        edit = transforms.edit(sanity.shuffle(VARIANTS[name]))
        recipe = (edit, training_phase(config, solve.feed.num_batches))
        return Job(f"{dataset} {name}", recipe, again, search.model_state, run_key(config))

    rows = [_settle(fields, config.pruner, folder, config, problem, searched)]
    for name in VARIANTS if config.compare else ():
        job = functools.partial(rearranged, name)
        rows.append(_settle(fields | {"variant": name}, name, folder / "compare" / name, config, problem, job))
    return rows


def _settle(
    fields: dict[str, Any], name: str, folder: Path, config: Config,
    problem: Callable[[], tuple[Problem, str]], make_job: Callable[[], Job],
) -> dict[str, Any]:  # fmt: skip
    """The summary of one run folder: read if it is finished, else made. Mistakes are found before it is touched."""
    summary = records.finished(folder, fields)
    if summary is not None:
        return summary
    solve, note = problem()
    job = make_job()
    with records.claim(folder, fields):
        try:
            result = train(job, solve, folder, config)
            return outcome.write(folder, fields, name, note, result)
        except OSError as error:
            raise RunFailed(_spell(error)) from error
