"""`python -m experiments.sanity RUN_DIR`: the checks of finished runs, and the report over their seeds."""

import csv
import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from experiments import checks, command_line, exits, jobs, records
from experiments import config as configs
from experiments.checks import CHECKS
from experiments.config import Config, UsageError
from rare_gems import comparison, comparison_plots, report, sanity_report
from rare_gems.files import write_whole

__all__ = ["main", "report_checks"]


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


def main(args: list[str] | None = None) -> int:
    """Checks a finished run; returns the exit status, as in `exits.status_of`."""
    return exits.status_of("sanity", lambda: _main(sys.argv[1:] if args is None else args))


def _main(args: list[str]) -> None:
    asked = command_line.read_flags(Sanity, args, "python -m experiments.sanity")
    if asked.checks.strip(" ,") == "":
        raise UsageError(f"--checks: expected all, or some of {', '.join(CHECKS)}, got none")
    console, summaries = Console(), []
    for folder in _run_folders(asked.run_dir):
        dataset, config = _configuration(folder)
        config = dataclasses.replace(
            config, data_dir=asked.data_dir or config.data_dir, sanity=asked.checks, compare=False
        )
        if config.pruner == "dense":
            raise UsageError(f"{folder}: the dense network has no mask to check; expected the run of another pruner")
        names = checks.chosen(config)
        jobs.check_recipes(dataset, config, names)
        ticket = records.finished(folder, configs.as_dict(dataset, config))
        if ticket is None:
            raise UsageError(f"{folder}: expected a finished run, got one without summary.json; finish it first")
        summaries.append([ticket, *jobs.settle_checks(dataset, config, folder, names)])
    report_checks(console, asked.run_dir, summaries)


def _run_folders(folder: Path) -> list[Path]:
    if (folder / "config.json").is_file():
        return [folder]
    folders = sorted(path.parent for path in folder.glob("seed-*/config.json"))
    if not folders:
        raise UsageError(f"{folder}: expected a run folder, with a config.json, or one of seed-* run folders")
    return folders


def _configuration(folder: Path) -> tuple[str, Config]:
    try:
        fields: dict[str, Any] = json.loads((folder / "config.json").read_text())
        return fields["dataset"], configs.from_dict(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{folder / 'config.json'}: expected the configuration of a run ({error})") from None


def report_checks(console: Console, folder: Path, summaries: list[list[dict[str, Any]]]) -> None:
    """Prints the table of the checks and leaves sanity.csv, sanity.json and plots/sanity.png in `folder`.

    Args:
      summaries: for each seed the ticket's summary and those of its checks, in one order.
    """
    if len({summary["pruner"] for seed in summaries for summary in seed}) != 1:
        raise UsageError(f"{folder}: expected the seeds of one pruner, got several")
    rows: list[dict[str, Any]] = []
    for column in zip(*summaries, strict=True):
        accuracies, name = [summary["accuracy"] for summary in column], column[0]["name"]
        before, after = ([a[f"{part}_finetune"] for a in accuracies] for part in ("before", "after"))
        rows.append({
            "check": name if rows else "ticket", "changes": CHECKS[name].what if rows else "nothing",
            "seeds": [summary["seed"] for summary in column],
            "before": before if None not in after else None, "after": after if None not in after else before,
        })  # fmt: skip
    first = summaries[0][0]
    seeds = "1 seed" if len(summaries) == 1 else f"{len(summaries)} seeds"
    title = f"{first['pruner']}, {first['model']} on {first['dataset_name']}, {seeds}"
    report.print_whole(console, sanity_report.sanity_table(rows, title))
    for row in rows[1:]:
        drop = comparison.paired_drop(rows[0]["after"], row["after"])
        row |= {"drop": drop._asdict(), "verdict": comparison.verdict(drop)}
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    text, figure = _tidy(rows).encode(), folder / "plots" / "sanity.png"
    known = folder / "sanity.csv"
    if not (figure.exists() and known.exists() and known.read_bytes() == text):  # a finished report is left alone
        records.write_json(folder / "sanity.json", rows)
        comparison_plots.plot_sanity(rows, figure, title)
        write_whole(known, text)
    console.print(f"report: {folder / 'sanity.csv'}", soft_wrap=True, markup=False, highlight=False)


def _tidy(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["check", "seed", "accuracy_before", "accuracy_after"])
    for row in rows:
        befores = row["before"] or [None] * len(row["after"])  # without finetuning there is one accuracy
        for seed, before, after in zip(row["seeds"], befores, row["after"], strict=True):
            writer.writerow([row["check"], seed, before, after])
    return text.getvalue()
