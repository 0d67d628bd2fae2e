"""What steps become when they are compiled for GPUs and TPUs that are not there: memory, kernels, communication.

Example: python -m experiments.bench compile --for h200 v5e:2x2 --models resnet20 --pruners gem_miner --out results
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from experiments.bench.about import about
from experiments.bench.compile_table import as_csv, as_markdown, rich_table
from experiments.catalog.datasets import DATASETS
from experiments.catalog.networks import NETWORKS
from experiments.catalog.pruners.table import PRUNERS
from experiments.compiled.apart import Request, compile_apart
from experiments.compiled.compilers import check_installed
from experiments.compiled.fit import fit_of, told
from experiments.compiled.kinds import parse_target
from experiments.config.config import Config
from experiments.config.parse import parse
from experiments.config.saved import flat
from experiments.terminal.errors import UsageError
from rare_gems.storage.atomic import write_whole

__all__ = ["asked", "main", "measure"]

_COMPILERS = ("libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12", "nvidia-cuda-nvcc-cu12")


def main(args: list[str]) -> int:
    """Prints a line for each program, and writes the figures after each. Returns the exit status."""
    parser = _parser()
    flags = parser.parse_args(args)
    jax.config.update("jax_platforms", "cpu")  # the plugins of devices that are not there would complain
    try:
        for folder in [file.parent for file in (flags.json, flags.out) if file] + (
            [flags.texts] if flags.texts else []
        ):
            folder.mkdir(parents=True, exist_ok=True)
        files = {file.with_suffix(""): _read(file) for file in flags.again or ()} or {flags.out: list(asked(flags))}
        for row in [row for rows in files.values() for row in rows]:
            check_installed(parse_target(row["for"]))
            config_of(row)
        if not all(files.values()):
            raise UsageError("expected something to compile, got phases that these methods do not have")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    for out, rows in files.items():
        _compile_all(console, rows, flags, out)
    return 0


def _compile_all(console: Console, rows: list[dict[str, Any]], flags: argparse.Namespace, out: Path | None) -> None:
    """Compiles the programs of a table, and writes it after each."""
    there = {row["for"]: parse_target(row["for"]) for row in rows}.values()
    facts = about("compile") | {"what": "compiled, not run", "compilers": _compilers(), "device": "none"}
    facts["compiled_for"] = [f"{target.num_devices} x {target.kind.title}" for target in there]
    for i, row in enumerate(rows):
        start = time.perf_counter()
        try:
            row |= measure(row, flags.timeout, flags.texts)
        except UsageError as error:
            row["error"] = str(error)
        row["seconds"] = round(time.perf_counter() - start, 1)
        console.print(_line(row), soft_wrap=True, markup=False, highlight=False)
        _write(flags.json, out, facts | {"rows": rows if flags.again else rows[: i + 1]})
    console.print(rich_table(rows))
    for row in rows:
        if "told" in row and not row["fits"]:
            what = f"{row['model']}, {row['pruner']} {row['phase']}"
            console.print(f"{what}: {row['told']}", soft_wrap=True, markup=False)
    console.print(f"compiled, not run, {facts['date']}: {facts['versions']}, {facts['compilers']}", soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    describe = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser("python -m experiments.bench compile", description=describe)
    listed: dict[str, Any] = {"nargs": "+", "action": "extend"}
    parser.add_argument("--for", dest="targets", **listed, help="h200, h200:8, v5e:2x2, ... (default h200)")
    parser.add_argument("--models", **listed, help="networks (default resnet20)")
    parser.add_argument("--pruners", **listed, help="methods (default gem_miner)")
    parser.add_argument("--phases", **listed, help="search, finetune (default: those that the method has)")
    parser.add_argument("--precisions", **listed, help="float32, bfloat16 (default float32)")
    parser.add_argument("--runs", **listed, help="that train at once (default 1)")
    parser.add_argument(
        "--dataset", choices=list(DATASETS), default="cifar10", help="of which only the shapes are used"
    )
    parser.add_argument("--batch-size", type=int, help="default: the preset's")
    parser.add_argument("--devices", type=int, help="use so many (default: all of --for)")
    parser.add_argument("--shard-params", action="store_true", help="spread large weights over the devices")
    parser.add_argument("--unit", choices=("step", "epoch"), default="epoch",
                        help="compile the scan over an epoch, as is trained, or one step, which is faster")  # fmt: skip
    parser.add_argument("--timeout", type=float, default=900, help="seconds for each program (default 900)")
    parser.add_argument(
        "--again",
        type=Path,
        nargs="+",
        metavar="JSON",
        help="compile what is in these files again, and rewrite them and the tables beside them",
    )
    parser.add_argument("--texts", type=Path, help="a folder for the compiled texts")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--out", type=Path, help="a name without its ending: write NAME.json, NAME.csv and NAME.md")
    return parser


def asked(flags: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows that flags ask for, each what it takes to make it again.

    Raises:
      UsageError: for a name that is unknown.
    """
    lists = {
        "for": _listed("for", flags.targets, ["h200"], None),
        "model": _listed("models", flags.models, ["resnet20"], NETWORKS),
        "pruner": _listed("pruners", flags.pruners, ["gem_miner"], PRUNERS),
        "phase": _listed("phases", flags.phases, ["search", "finetune"], ("search", "finetune")),
        "precision": _listed("precisions", flags.precisions, ["float32"], ("float32", "bfloat16")),
        "runs": _listed("runs", flags.runs, ["1"], None),
    }
    for values in itertools.product(*lists.values()):
        row: dict[str, Any] = dict(zip(lists, values, strict=True))
        if not row["runs"].isdigit() or int(row["runs"]) < 1:
            raise UsageError(f"--runs: expected numbers of 1 or more, got {row['runs']!r}")
        row |= {"runs": int(row["runs"]), "dataset": flags.dataset, "batch_size": flags.batch_size, "unit": flags.unit,
                "devices": flags.devices, "shard_params": flags.shard_params}  # fmt: skip
        trains = row["phase"] == "finetune" or PRUNERS[row["pruner"]].takes_epochs(config_of(row).options)
        if trains or PRUNERS[row["pruner"]].length == "rounds":
            yield row


def _listed(flag: str, given: list[str] | None, usual: list[str], known: Any) -> list[str]:
    names = [name for text in given or usual for name in text.split(",") if name]
    for name in names:
        if known is not None and name not in known:
            raise UsageError(f"--{flag}: expected one of {', '.join(known)}, got {name!r}")
    return names


def config_of(row: dict[str, Any]) -> Config:
    """The configuration of a row.

    Raises:
      UsageError: for what does not go together.
    """
    flags = [f"--pruner={row['pruner']}", f"--model={row['model']}", f"--precision={row['precision']}"]
    flags += [f"--{name}={row[name.replace('-', '_')]}" for name in ("batch-size", "devices")
              if row[name.replace("-", "_")]]  # fmt: skip
    return parse(row["dataset"], flags + (["--shard-params"] if row["shard_params"] else []))[0]


def measure(row: dict[str, Any], timeout: float, texts: Path | None = None) -> dict[str, Any]:
    """Compiles what a row asks for; the text goes into the folder `texts`, named by the row.

    Raises:
      UsageError: for what the devices cannot share.
    """
    config, target = config_of(row), parse_target(row["for"])
    names = ("for", "model", "pruner", "phase", "precision", "runs", "unit")
    text = str(texts / ("_".join(str(row[name]).replace(":", "-") for name in names) + ".txt")) if texts else None
    answer = compile_apart(Request(config, target, row["phase"], row["runs"], row["unit"], text), timeout)
    fit = fit_of(answer, target)
    found: dict[str, Any] = {
        "compiles": "program_bytes" in answer, "batch_size": config.batch_size,
        "num_devices": config.devices or target.num_devices, "usable_bytes": target.kind.usable,
    }  # fmt: skip
    if fit is not None and fit.needed is not None:
        found |= {"fits": fit.fits, "needed_bytes": fit.needed, "told": told(fit, config, target, row["runs"])}
    return found | answer


def _line(row: dict[str, Any]) -> str:
    what = f"{row['for']} {row['model']} {row['pruner']} {row['phase']} {row['precision']} x {row['runs']}"
    told = row.get("error") or f"{row['counts']['num_kernels']} kernels, {row['told']}"
    return f"{what}: {told} ({row['seconds']:.0f} s)"


def _read(file: Path) -> list[dict[str, Any]]:
    """The rows of an earlier JSON, what they are and what they had: `before` has the figures of then."""
    wanted = ("for", "model", "pruner", "phase", "precision", "runs", "dataset", "batch_size", "unit", "devices",
              "shard_params")  # fmt: skip
    try:
        rows = json.loads(file.read_text())["rows"]
        return [{name: row[name] for name in wanted} | {"before": flat(row.get("counts") or {})} for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"--again: {file}: expected the JSON of bench compile, got other fields ({error})") from None


def _compilers() -> dict[str, str]:
    found = {}
    for name in _COMPILERS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _write(file: Path | None, out: Path | None, figures: dict[str, Any]) -> None:
    for place in filter(None, (file, out and out.with_suffix(".json"))):
        write_whole(place, (json.dumps(figures, indent=1) + "\n").encode())
    if out:
        write_whole(out.with_suffix(".csv"), as_csv(figures["rows"]).encode())
        write_whole(out.with_suffix(".md"), as_markdown(figures).encode())
