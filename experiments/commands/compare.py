"""`python -m experiments.compare DATASET`: the product of methods, sparsities and seeds, each in its run folder."""

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import tyro
from rich.console import Console

from experiments.catalog.datasets import DATASETS
from experiments.catalog.pruners.table import PRUNERS
from experiments.catalog.training import GROUPS
from experiments.cluster import collector, flags, share, worker
from experiments.commands import compare_report
from experiments.commands.leaf_table import tell_doubts
from experiments.config.config import Config
from experiments.config.parse import field_of, known_fields, parse, read_flags
from experiments.config.validate import flag_of, no_such_flag, why_unused
from experiments.problem.data import facts_of
from experiments.problem.recipe import plan_of
from experiments.run_folder import paths
from experiments.terminal.errors import RunFailed, UsageError
from experiments.training.runner import check_folders, finish_tickets
from rare_gems.storage.atomic import write_whole

__all__ = ["compare"]

_OWN = ("pruner", "sparsity", "seed", "num_seeds", "run_dir", "sanity", "compare", "dry_run")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs every pruner at every sparsity with every seed, and leaves a table and two figures.

    Flags of the experiments themselves (--model, --finetune-epochs, --gem-miner.period, ...) go to every pruner that
    has them. What is finished is not run again; a killed comparison goes on where it was. The same command started
    several times shares the work: runs that another process makes are left to it. --launcher starts it as jobs.
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
    """train the dense network too, as a reference; --dense=REGEX is the flag of the experiments"""
    run_dir: Path | None = None
    """where everything goes (default: runs/ and a name made from the flags)"""
    dry_run: bool = False
    """print what would be run and what it would cost, and stop"""
    launch: Annotated[flags.Launch, tyro.conf.arg(name="")] = flags.Launch()  # noqa: RUF009


class _Combination(NamedTuple):
    """One run to be made."""

    config: Config
    folder: Path

    def name(self) -> str:
        return f"{self.config.pruner} at sparsity {self.config.sparsity}, seed {self.config.seed}"


def compare(args: list[str]) -> None:
    """Does what the command line asks for.

    Raises:
      UsageError: for a mistake. RunFailed: if runs failed, once all others are done.
    """
    if jax.distributed.is_initialized():
        raise UsageError("a comparison is spread over jobs, not over the processes of one; expected --launcher")
    # --dense is a flag of the comparison, --dense=REGEX one of the experiments
    whole = [arg for arg in args if arg.startswith("--dense=")]
    asked, extra = read_flags(
        Comparison, [arg for arg in args if arg not in whole], "python -m experiments.compare", return_unknown_args=True
    )
    extra += whole
    flags.check(asked.launch)
    if asked.launch.launcher:
        jax.config.update("jax_platforms", "cpu")  # the accelerators are the jobs'
    folder = asked.run_dir or paths.RUNS / f"compare-{asked.dataset}-{_digest(asked, extra)}"
    combinations = _combinations(asked, extra, folder)
    passes, leaves = 0, []
    of_seeds = {(config.pruner, config.sparsity): config for config, _ in combinations}  # alike for all seeds
    for config in of_seeds.values():
        plan = plan_of(config)  # raises for what a method refuses, before anything is run
        passes += asked.num_seeds * sum(phase.num_steps * phase.passes for phase in plan.recipe)
        leaves = plan.leaves  # of one network
    if asked.dry_run:
        told = f"{len(combinations)} runs, {passes:,} forward and backward passes of a batch, in {folder}"
        Console(markup=False, emoji=False).print(told, soft_wrap=True)
        return
    check_folders([config for config, _ in combinations], [place for _, place in combinations])
    if not worker.in_job():
        tell_doubts(Console(markup=False, emoji=False), combinations[0].config.model, leaves)
    folder.mkdir(parents=True, exist_ok=True)
    collects = asked.launch.launcher is not None
    failures = _have_run(asked, args, combinations, folder) if collects else _run_all(combinations, folder)
    rows = _rows(combinations, folder)
    if failures and not rows:
        raise RunFailed(f"all of {len(combinations)} runs failed; the first: {failures[0]}")
    if not worker.in_job():
        chance = 1 / facts_of(combinations[0].config).num_classes
        compare_report.report(Console(markup=False, emoji=False), folder, rows, chance)
    if failures:
        raise RunFailed(f"{len(failures)} of {len(combinations)} runs failed: {'; '.join(failures)}")


def _run_all(combinations: list[_Combination], folder: Path) -> list[str]:
    """Makes every run, and says what failed."""

    def finish(i: int) -> str | None:
        config, place = combinations[i]
        try:
            finish_tickets([config], [place])
        except RunFailed as error:
            return str(error)
        write_whole(folder / paths.COMPARE_CSV, compare_report.as_csv(_rows(combinations, folder)).encode())
        return None

    return share.go_through([each.name() for each in combinations], finish, folder)


def _have_run(asked: Comparison, args: list[str], combinations: list[_Combination], folder: Path) -> list[str]:
    """Has every run made by jobs, which start the same command, and says what failed."""

    def left() -> list[Path]:
        return [each.folder for each in combinations if not (each.folder / paths.SUMMARY).exists()]

    _, others = read_flags(flags.Launch, args, "", return_unknown_args=True)
    command = [sys.executable, "-m", "experiments.compare", *others]
    went_wrong = collector.run_jobs(asked.launch, command, folder / paths.JOBS, left)
    if rows := _rows(combinations, folder):
        write_whole(folder / paths.COMPARE_CSV, compare_report.as_csv(rows).encode())
    undone = [each.name() for each in combinations if each.folder in left()]
    return [f"{name} ({'; '.join(went_wrong)})" if went_wrong and not i else name for i, name in enumerate(undone)]


def _rows(combinations: list[_Combination], folder: Path) -> list[dict[str, Any]]:
    return compare_report.rows_of([each.folder for each in combinations], folder)


def _digest(asked: Comparison, extra: list[str]) -> str:
    named = dataclasses.asdict(asked) | {"run_dir": None, "dry_run": None, "extra": sorted(extra)}
    named.pop("launch")  # a worker's folder is its collector's
    return hashlib.sha256(repr(sorted(named.items())).encode()).hexdigest()[:12]


def _combinations(asked: Comparison, extra: list[str], folder: Path) -> list[_Combination]:
    """Every run, the seeds outermost, so that a comparison that is stopped has whole rows of seeds."""
    if asked.dataset not in DATASETS:
        raise UsageError(f"expected a data set, one of {', '.join(DATASETS)}, got {asked.dataset!r}")
    known = [name for name, row in PRUNERS.items() if row.removes]
    pruners = _listed("pruners", asked.pruners, f"some of {', '.join(known)}")
    for pruner in pruners:
        if pruner not in known:
            raise UsageError(f"--pruners: expected some of {', '.join(known)}, got {pruner!r}")
    sparsities = _listed("sparsities", asked.sparsities, "fractions removed, such as 0.95,0.9856")
    sparsities = [s for i, s in enumerate(sparsities) if _number(s) not in map(_number, sparsities[:i])]
    if asked.num_seeds < 1:
        raise UsageError(f"--num-seeds: expected 1 or more, got {asked.num_seeds}")
    flags = _paired(extra)
    taken: set[str] = set()
    combinations = []
    for seed in range(asked.seed, asked.seed + asked.num_seeds):
        kinds = [("dense", "0.0")] if asked.dense else []
        for pruner, sparsity in [*kinds, *((p, s) for p in pruners for s in sparsities)]:
            chosen = [f"--pruner={pruner}", f"--sparsity={sparsity}", f"--seed={seed}"]
            own, used = _used(asked.dataset, chosen, flags)
            taken |= used
            config, _ = parse(asked.dataset, [*chosen, *own])
            place = paths.compared_folder(folder, pruner, sparsity if config.method.removes else None, seed)
            combinations.append(_Combination(config, place))
    for name in flags:
        if name not in taken:
            raise UsageError(f"{flag_of(name)}: none of {', '.join(pruners)} takes it")
    _check_one_network(combinations)
    return combinations


def _check_one_network(combinations: list[_Combination]) -> None:
    """Refuses methods whose presets, from different papers, are of two variants of the network."""
    first = combinations[0].config
    for config in (each.config for each in combinations):
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
            name = field_of(arg)
            if name not in known_fields() | set(_OWN):
                own = {field.name for field in dataclasses.fields(Comparison)}
                raise UsageError(no_such_flag(name, known_fields() - set(_OWN) | own))
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
    groups = (pruner, "network", *GROUPS)
    own = [arg for name, args in flags.items() if "." not in name or name.split(".")[0] in groups for arg in args]
    config, _ = parse(dataset, [*chosen, *own], all_used=False)
    used = {name for name in flags if why_unused(config, name) is None}
    return [arg for name in flags if name in used for arg in flags[name]], used
