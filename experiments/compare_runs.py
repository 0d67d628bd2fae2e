"""`python -m experiments.compare DATASET`: the product of methods, sparsities and seeds, each in its run folder."""

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import jax
import tyro
from rich.console import Console

from experiments import command_line, compare_table, exits, jobs, launching, plan, submitting
from experiments import config as configs
from experiments.config import Config, Pruner, UsageError
from experiments.datasets import facts_of
from experiments.metrics import RunFailed
from experiments.options import GROUPS
from experiments.start import DATASETS
from rare_gems.files import write_whole

__all__ = ["main"]

_OWN = ("pruner", "sparsity", "seed", "num_seeds", "run_dir", "sanity", "compare", "dry_run")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs every pruner at every sparsity with every seed, and leaves a table and two figures.

    Flags of the experiments themselves (--model, --finetune-epochs, --gem-miner.period, ...) go to every pruner that
    has them. What is finished is not run again; a killed comparison goes on where it was. The same command started
    several times shares the work: a run that another process is at is left to it. --launcher starts it as jobs.
    """

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """digits, cifar10, ..."""
    pruners: str = "gem_miner,edge_popup,smart_ratio,random"
    """names, separated by commas"""
    sparsities: str = "0.95,0.9856,0.995,0.998"
    """fractions removed, separated by commas"""
    num_seeds: int = 1
    """seeds, counted from --seed"""
    seed: int = 42
    """the first"""
    dense: bool = True
    """train the dense network too, as a reference"""
    run_dir: Path | None = None
    """where everything goes (default: runs/ and a name made from the flags)"""
    dry_run: bool = False
    """print what would be run and what it would cost, and stop"""
    launch: Annotated[launching.Launch, tyro.conf.arg(name="")] = launching.Launch()  # noqa: RUF009


class _Cell(NamedTuple):
    """One run to be made."""

    config: Config
    folder: Path

    def name(self) -> str:
        return f"{self.config.pruner} at sparsity {self.config.sparsity}, seed {self.config.seed}"


def main(args: list[str] | None = None) -> int:
    """Runs a comparison; returns the exit status, as in `exits.status_of`."""
    return exits.status_of("compare", lambda: _main(sys.argv[1:] if args is None else args))


def _main(args: list[str]) -> None:
    if jax.distributed.is_initialized():
        raise UsageError("a comparison is spread over jobs, not over the processes of one; expected --launcher")
    asked, extra = command_line.read_flags(Comparison, args, "python -m experiments.compare", return_unknown_args=True)
    launching.check(asked.launch)
    if asked.launch.launcher:
        jax.config.update("jax_platforms", "cpu")  # the accelerators are the jobs'
    folder = asked.run_dir or Path("runs") / f"compare-{asked.dataset}-{_digest(asked, extra)}"
    cells = _cells(asked, extra, folder)
    passes = 0
    for config in {(config.pruner, config.sparsity): config for config, _ in cells}.values():  # the same for all seeds
        recipe, _, _ = plan.recipe_of(asked.dataset, config)  # raises for what a method refuses, before anything is run
        passes += asked.num_seeds * sum(phase.num_steps * phase.passes for phase in recipe)
    if asked.dry_run:
        Console().print(
            f"{len(cells)} runs, {passes:,} forward and backward passes of a batch, in {folder}", soft_wrap=True
        )
        return
    folder.mkdir(parents=True, exist_ok=True)
    collects = asked.launch.launcher is not None
    failures = _have_run(asked, args, cells, folder) if collects else _run_all(asked.dataset, cells, folder)
    rows = _rows(cells, folder)
    if failures and not rows:
        raise RunFailed(f"all of {len(cells)} runs failed; the first: {failures[0]}")
    if not launching.in_job():
        compare_table.report(Console(), folder, rows, 1 / facts_of(asked.dataset, cells[0].config).num_classes)
    if failures:
        raise RunFailed(f"{len(failures)} of {len(cells)} runs failed: {'; '.join(failures)}")


def _run_all(dataset: str, cells: list[_Cell], folder: Path) -> list[str]:
    """Runs every cell, and says what failed."""

    def settle(i: int) -> str | None:
        try:
            jobs.settle_ticket(dataset, *cells[i])
        except RunFailed as error:
            return str(error)
        write_whole(folder / "compare.csv", compare_table.as_csv(_rows(cells, folder)).encode())
        return None

    return launching.go_through([cell.name() for cell in cells], settle, folder)


def _have_run(asked: Comparison, args: list[str], cells: list[_Cell], folder: Path) -> list[str]:
    """Has every cell run by jobs, which start the same command, and says what failed."""

    def left() -> list[Path]:
        return [cell.folder for cell in cells if not (cell.folder / "summary.json").exists()]

    _, others = command_line.read_flags(launching.Launch, args, "", return_unknown_args=True)
    worker = [sys.executable, "-m", "experiments.compare", *others]
    went_wrong = submitting.run_jobs(asked.launch, worker, folder / "jobs", left)
    if rows := _rows(cells, folder):
        write_whole(folder / "compare.csv", compare_table.as_csv(rows).encode())
    undone = [cell.name() for cell in cells if cell.folder in left()]
    return [f"{name} ({'; '.join(went_wrong)})" if went_wrong and not i else name for i, name in enumerate(undone)]


def _rows(cells: list[_Cell], folder: Path) -> list[dict[str, Any]]:
    return compare_table.rows_of([cell.folder for cell in cells], folder)


def _digest(asked: Comparison, extra: list[str]) -> str:
    named = dataclasses.asdict(asked) | {"run_dir": None, "dry_run": None, "extra": sorted(extra)}
    named.pop("launch")  # a worker's folder is its collector's
    return hashlib.sha256(repr(sorted(named.items())).encode()).hexdigest()[:12]


def _cells(asked: Comparison, extra: list[str], folder: Path) -> list[_Cell]:
    """Every run, the seeds outermost, so that a comparison that is stopped has whole rows of seeds."""
    if asked.dataset not in DATASETS:
        raise UsageError(f"expected a data set, one of {', '.join(DATASETS)}, got {asked.dataset!r}")
    pruners = _listed("pruners", asked.pruners, f"some of {', '.join(get_args(Pruner))}")
    for pruner in pruners:
        if pruner not in get_args(Pruner) or pruner == "dense":
            known = [name for name in get_args(Pruner) if name != "dense"]
            raise UsageError(f"--pruners: expected some of {', '.join(known)}, got {pruner!r}")
    sparsities = _listed("sparsities", asked.sparsities, "fractions removed, such as 0.95,0.9856")
    sparsities = [s for i, s in enumerate(sparsities) if _number(s) not in map(_number, sparsities[:i])]
    if asked.num_seeds < 1:
        raise UsageError(f"--num-seeds: expected 1 or more, got {asked.num_seeds}")
    flags = _paired(extra)
    taken: set[str] = set()
    cells = []
    for seed in range(asked.seed, asked.seed + asked.num_seeds):
        kinds = [("dense", "0.0")] if asked.dense else []
        for pruner, sparsity in [*kinds, *((p, s) for p in pruners for s in sparsities)]:
            chosen = [f"--pruner={pruner}", f"--sparsity={sparsity}", f"--seed={seed}"]
            own, used = _used(asked.dataset, chosen, flags)
            taken |= used
            config, _ = command_line.parse(asked.dataset, [*chosen, *own])
            place = folder / pruner if pruner == "dense" else folder / pruner / sparsity
            cells.append(_Cell(config, place / f"seed-{seed}"))
    for name in flags:
        if name not in taken:
            raise UsageError(f"--{name.replace('_', '-')}: none of {', '.join(pruners)} takes it")
    _check_one_network(cells)
    return cells


def _check_one_network(cells: list[_Cell]) -> None:
    """Two papers may report two variants of a network: what is compared must be one."""
    first = cells[0].config
    for config in (cell.config for cell in cells):
        for name, value in vars(first.network).items():
            other = getattr(config.network, name)
            if other != value:
                raise UsageError(
                    f"--network.{name}: the presets of {first.pruner} and {config.pruner} have {value} and {other}; "
                    "expected a flag that says which, so that one network is compared"
                )


def _listed(flag: str, text: str, wanted: str) -> list[str]:
    entries = list(dict.fromkeys(entry.strip() for entry in text.split(",") if entry.strip()))
    if not entries:
        raise UsageError(f"--{flag}: an empty comparison; expected {wanted}, got none")
    return entries


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--sparsities: expected fractions removed, such as 0.95,0.9856, got {text!r}") from None


def _paired(extra: list[str]) -> dict[str, list[str]]:
    """Flags with their values: field -> arguments."""
    flags: dict[str, list[str]] = {}
    name = None
    for arg in extra:
        if arg.startswith("--"):
            name = command_line.field_of(arg)
            if name in _OWN:
                raise UsageError(f"{arg}: a comparison sets it itself; expected --pruners, --sparsities, --num-seeds")
            flags[name] = [arg]
        elif name is None:
            raise UsageError(f"expected flags after the data set, got {arg!r}")
        else:
            flags[name].append(arg)
    return flags


def _used(dataset: str, chosen: list[str], flags: dict[str, list[str]]) -> tuple[list[str], set[str]]:
    """The arguments that this pruner takes, and their names."""
    pruner = chosen[0].split("=")[1]
    own = [arg for name, args in flags.items() if name.split(".")[0] not in GROUPS or name.startswith(f"{pruner}.")
           for arg in args]  # fmt: skip
    config, _ = command_line.parse(dataset, [*chosen, *own], all_used=False)
    used = {name for name in flags if configs.why_unused(config, name) is None}
    return [arg for name in flags if name in used for arg in flags[name]], used
