"""`python -m experiments.compare DATASET`: the product of methods, sparsities and seeds, each in its run folder."""

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Annotated

import jax
import tyro
from rich.console import Console

from experiments.catalog.datasets import DATASETS
from experiments.catalog.pruners.table import PRUNERS
from experiments.cluster import flags, worker
from experiments.commands import compare_report, fit_report
from experiments.commands.leaf_table import tell_doubts
from experiments.comparison import columns, make, rows
from experiments.comparison.columns import Column, Speaks
from experiments.comparison.expand import DENSE, Asked, Combination, Expanded, expand
from experiments.config.config import Config
from experiments.config.flags import read_flags, typed_by_name
from experiments.config.saved import FREE
from experiments.problem.data import facts_of
from experiments.run_folder import paths
from experiments.terminal.errors import RunFailed, UsageError
from rare_gems.storage.atomic import write_whole

__all__ = ["compare"]

_USUAL = "gem_miner,edge_popup,smart_ratio,random"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs every pruner at every sparsity with every seed, and leaves a table and two figures.

    Flags of the experiments themselves (--model, --finetune-epochs, --gem-miner.period, ...) go to every pruner that
    has them. What is finished is not run again; a killed comparison goes on where it was. The same command started
    several times shares the work: runs that another process makes are left to it. --launcher starts it as jobs.
    """

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """digits, cifar10, ..."""
    pruners: str | None = None
    f"""names, separated by commas (default: {_USUAL}; none with --columns)"""
    columns: str | None = None
    """variants of methods, each with its flags: "EP: edge_popup; EP global: edge_popup --edge-popup.scope=global"; in
    them --sparsities=A,B is the column's own list, and --pretrained=@dense the dense run of this comparison"""
    sparsities: str = "0.95,0.9856,0.995,0.998"
    """fractions removed, separated by commas"""
    num_seeds: int = 1
    """seeds, counted from --seed"""
    seed: int = 42
    """the first"""
    dense: bool = True
    """train the dense network too, as a reference; --dense=REGEX is the flag of the experiments"""
    sanity: str = ""
    """sanity checks of every ticket that can undergo them, separated by commas, or all"""
    run_dir: Path | None = None
    """where everything goes (default: runs/ and a name made from the flags)"""
    dry_run: bool = False
    """print what would be run and what it would cost, and stop"""
    for_: Annotated[str | None, tyro.conf.arg(name="for")] = None
    """with --dry-run: whether the runs, one at a time, fit on devices that are not there, such as h200 or v5e:2x2; each
    method is compiled once"""
    launch: Annotated[flags.Launch, tyro.conf.arg(name="")] = flags.Launch()  # noqa: RUF009


_SPEAKS = Speaks(
    flags=typed_by_name(Comparison),
    instead={
        "pruner": "--pruners or --columns",
        "sparsity": "--sparsities",
        "compare": "--sanity=shuffle,shuffle_global",
    },
    otherwise="flags that the methods take",
    lists="--columns with the flags of each variant, or --sparsities",
)


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
    if asked.for_ is not None and not asked.dry_run:
        raise UsageError("--for: what a dry run is compiled for; expected --dry-run with it")
    if asked.launch.launcher in ("local", "slurm"):
        jax.config.update("jax_platforms", "cpu")  # the accelerators are the jobs'
    folder = asked.run_dir or paths.RUNS / f"compare-{asked.dataset}-{_digest(asked, extra)}"
    combinations, notes, _ = _combinations(asked, extra, folder)
    console = Console(markup=False, emoji=False)
    planned = make.plans(combinations)  # raises for what a method refuses, before anything is run
    for note in (*notes, *make.check_weights(combinations, there=not asked.dry_run)):
        console.print(note, soft_wrap=True, highlight=False)
    if asked.dry_run:
        phases = [phase for _, plan in planned for phase in plan.recipe]
        passes = asked.num_seeds * sum(phase.num_steps * phase.passes for phase in phases)
        checks = ", without the sanity checks" if any(each.checks for each in combinations) else ""
        told = f"{len(combinations)} runs, {passes:,} forward and backward passes of a batch{checks}, in {folder}"
        console.print(told, soft_wrap=True)
        if asked.for_ is not None:
            fit_report.print_fits(console, [own.config for own in combinations], asked.for_)
        return
    make.check(combinations)
    launch, told = make.launch_for(asked.launch, combinations, planned)
    make.check_data(combinations, launch)
    for note in told:
        console.print(note, soft_wrap=True, highlight=False)
    if not worker.in_job():
        tell_doubts(console, combinations[0].config.model, planned[-1][1].leaves)  # of one network
    folder.mkdir(parents=True, exist_ok=True)
    _make(console, dataclasses.replace(asked, launch=launch), args, combinations, folder)


def _make(console: Console, asked: Comparison, args: list[str], combinations: list[Combination], folder: Path) -> None:
    """Has the runs made, and reports them."""
    named = asked.columns is not None

    def write() -> None:
        if found := rows.rows_of(combinations, folder, named=named):
            write_whole(folder / paths.COMPARE_CSV, rows.as_csv(found).encode())

    if asked.launch.launcher is None:
        failures = make.make_all(combinations, folder, write)
    else:
        _, others = read_flags(flags.Launch, args, "", return_unknown_args=True)
        command = [sys.executable, "-m", "experiments.compare", *others]
        failures = make.make_by_jobs(asked.launch, command, combinations, folder, write)
    found = rows.rows_of(combinations, folder, named=named)
    if failures and not found:
        raise RunFailed(f"all of {len(combinations)} runs failed; the first: {failures[0]}")
    if not worker.in_job():
        chance = 1 / facts_of(combinations[0].config).num_classes
        compare_report.report(console, folder, found, chance)
        compare_report.report_sanity(console, combinations)
    if failures:
        raise RunFailed(f"{len(failures)} of {len(combinations)} runs failed: {'; '.join(failures)}")


def _digest(asked: Comparison, extra: list[str]) -> str:
    """Twelve hex digits of what is compared, without flags that change nothing in a run; flags that came later do not
    change the names of older folders."""
    given = {name: args for name, args in columns.paired(extra, _SPEAKS).items() if name not in FREE}
    apart = any(len(args) > 1 for args in given.values())  # --epochs 1 in two words
    typed = sorted(given.items()) if apart else sorted(arg for args in given.values() for arg in args)
    named = dataclasses.asdict(asked) | {"run_dir": None, "dry_run": None, "extra": typed}
    named.pop("launch")  # a worker's folder is its collector's
    named.pop("for_")
    named["pruners"] = asked.pruners or ("" if asked.columns else _USUAL)
    for later in ("columns", "sanity"):
        if not named[later]:
            named.pop(later)
    return hashlib.sha256(repr(sorted(named.items())).encode()).hexdigest()[:12]


def _combinations(asked: Comparison, extra: list[str], folder: Path) -> Expanded:
    """Every run of the comparison, each in its folder."""
    if asked.dataset not in DATASETS:
        raise UsageError(f"expected a data set, one of {', '.join(DATASETS)}, got {asked.dataset!r}")
    sparsities = columns.listed("sparsities", asked.sparsities, "fractions removed, such as 0.95,0.9856")
    for sparsity in sparsities:
        _check_number(sparsity)
    if asked.num_seeds < 1:
        raise UsageError(f"--num-seeds: expected 1 or more, got {asked.num_seeds}")

    def place(config: Config, column: Column, sparsity: str | None) -> Path:
        return paths.compared_folder(folder, column.folder, sparsity, config.seed)

    return expand(
        Asked(
            dataset=asked.dataset,
            columns=_columns(asked),
            sparsities=sparsities,
            seeds=range(asked.seed, asked.seed + asked.num_seeds),
            flags=columns.paired(extra, _SPEAKS),
            sanity=asked.sanity,
        ),
        place,
    )


def _columns(asked: Comparison) -> list[Column]:
    """The dense network if it is wanted, the methods by name, and the columns with flags of their own."""
    found = [DENSE] if asked.dense else []
    if asked.columns is None or asked.pruners is not None:
        text = _USUAL if asked.pruners is None else asked.pruners
        known = [name for name, row in PRUNERS.items() if row.removes]
        wanted = f"some of {', '.join(known)}"
        pruners = columns.listed("pruners", text, wanted)
        for pruner in pruners:
            if pruner not in known:
                raise UsageError(f"--pruners: expected {wanted}, got {pruner!r}")
        typed = [name.strip() for name in text.split(",")]
        if twice := [name for name in pruners if typed.count(name) > 1]:
            told = "expected each method once; variants of one go to --columns"
            raise UsageError(f"--pruners: {told}, got {twice[0]} {typed.count(twice[0])} times")
        found += columns.of_pruners(pruners)
    if asked.columns is not None:
        found += columns.read_columns(asked.columns)
    return columns.distinct(found)


def _check_number(text: str) -> None:
    try:
        in_range = 0 <= float(text) < 1
    except ValueError:
        in_range = False
    if not in_range:
        raise UsageError(f"--sparsities: expected fractions removed in [0, 1), such as 0.95,0.9856, got {text!r}")
