"""`python -m experiments.analyse RUN [RUN ...]`: finished runs beside each other."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from experiments.analyses import lines, measures, stability
from experiments.analyses.dead_weights import dead_weights
from experiments.analyses.networks import Network, networks_of, whole_rounds
from experiments.commands.analyse_report import Report, write
from experiments.config.flag_names import flag_of
from experiments.config.flags import read_flags
from experiments.run_folder import folder as run_folders
from experiments.run_folder import paths
from experiments.terminal.errors import UsageError

__all__ = ["ANALYSES", "Analyse", "analyse"]


@dataclasses.dataclass(frozen=True)
class Analyse:
    """What finished runs are like beside each other: tables, CSV files and figures in one folder. Trains nothing.

    - distance: L2 and angle between the weights of each pair of runs, over the weights that both keep.
    - overlap: what the masks of each pair have in common, beside what chance would give.
    - stability: of one ticket trained under several orders of the data (runs that differ in --data-seed alone), and of
      subnetworks beside the whole network that trained from the same weights in the same order.
    - connectivity: loss and accuracy on the line between two networks of one mask, and the barrier.
    - effective: kept weights that cannot matter, since no kept path leads through them; layers that are cut.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """run folders, folders of them (seeds, a sweep), or files rounds/NN.safetensors of a run"""
    what: str = "distance,overlap"
    """which analyses, separated by commas"""
    rounds: bool = False
    """also the networks that the rounds of the runs trained (--keep=rounds)"""
    intersect: bool = False
    """stability and connectivity of masks that differ: of what both keep"""
    points: int = 11
    """of a line, from one network to the other"""
    examples: int = 2000
    """test images for a line, at most, balanced by class (0: all)"""
    statistics: int = 1000
    """training images for BatchNorm's statistics on a line, at most (0: all)"""
    out: Path | None = None
    """the folder for tables and figures (default: beside the first run, analysis- and a name made from the runs)"""
    data_dir: Path | None = None
    """where the data are, if not where the first run found them"""


def analyse(args: list[str]) -> None:
    """Does what the command line asks for.

    Raises:
      UsageError: for a mistake, before anything is written.
    """
    asked = read_flags(Analyse, args, "python -m experiments.analyse")
    names = _chosen(asked)
    _check_out(asked.out)
    networks = networks_of(asked.runs, rounds=asked.rounds)
    reports = [report for name in names for report in ANALYSES[name](asked, networks)]
    out = asked.out or _beside(networks, names)
    console = Console(markup=False, emoji=False)
    title = f"{networks[0].config.model} on {networks[0].config.dataset}"
    for report in reports:
        write(console, out, report, title)
    console.print(f"files: {out}", soft_wrap=True, highlight=False)


def _distance(asked: Analyse, networks: list[Network]) -> list[Report]:
    del asked
    return [Report("distance", measures.distances(networks))]


def _overlap(asked: Analyse, networks: list[Network]) -> list[Report]:
    del asked
    return [Report("overlap", measures.overlaps(networks))]


def _stability(asked: Analyse, networks: list[Network]) -> list[Report]:
    samples = stability.samples(networks, whole_rounds(networks), intersect=asked.intersect)
    return [Report("stability_samples", samples), Report("stability", stability.summary(samples))]


def _connectivity(asked: Analyse, networks: list[Network]) -> list[Report]:
    pairs = lines.line_pairs(networks, intersect=asked.intersect)
    rows = lines.lines(
        pairs, points=asked.points, examples=asked.examples, statistics=asked.statistics, data_dir=asked.data_dir
    )
    return [Report("connectivity", rows), Report("barriers", lines.barriers(rows))]


def _effective(asked: Analyse, networks: list[Network]) -> list[Report]:
    del asked
    return [Report("effective", dead_weights(networks))]


ANALYSES: dict[str, Callable[[Analyse, list[Network]], list[Report]]] = {
    "distance": _distance, "overlap": _overlap, "stability": _stability, "connectivity": _connectivity,
    "effective": _effective,
}  # fmt: skip

_USED_BY = {
    "intersect": ("stability", "connectivity"), "points": ("connectivity",), "examples": ("connectivity",),
    "statistics": ("connectivity",), "data_dir": ("connectivity",),
}  # fmt: skip


def _chosen(asked: Analyse) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in asked.what.split(",") if name.strip()))
    known = ", ".join(ANALYSES)
    if not names:
        raise UsageError(f"--what: expected some of {known}, got none")
    for name in names:
        if name not in ANALYSES:
            raise UsageError(f"--what: expected some of {known}, got {name!r}")
    if not asked.runs:
        raise UsageError("expected run folders, got none")
    for flag, value, low in (
        ("points", asked.points, 2), ("examples", asked.examples, 0), ("statistics", asked.statistics, 0),
    ):  # fmt: skip
        if value < low:
            raise UsageError(f"--{flag}: expected {low} or more, got {value}")
    for name, users in _USED_BY.items():
        if getattr(asked, name) != getattr(Analyse, name) and not set(users) & set(names):
            raise UsageError(f"{flag_of(name)}: {', '.join(names)} would ignore it; it is for {' and '.join(users)}")
    return names


def _check_out(out: Path | None) -> None:
    if out is not None and out.exists() and (not out.is_dir() or (out / paths.CONFIG).exists()):
        kind = "a run folder" if out.is_dir() else "a file"
        raise UsageError(f"--out: expected a folder for tables and figures, got {out}, {kind}")
    if out is not None:
        run_folders.check_place(out)


def _beside(networks: list[Network], names: list[str]) -> Path:
    """A folder beside the first run, whose name says which runs and analyses it is of."""
    told = "\n".join([*(f"{network.folder.resolve()} {network.round}" for network in networks), *names])
    return networks[0].folder.resolve().parent / f"{paths.ANALYSIS}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
