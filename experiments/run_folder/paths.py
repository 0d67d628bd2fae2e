"""Every name in the folders that commands leave; nothing else spells one.

A run folder holds config.json, metrics.csv, tensorboard/, checkpoints/, search.safetensors, ticket.safetensors, plots/,
summary.json, and, where asked for, rounds/, export.*, compact.safetensors, seed.json,
profile/ and sanity/NAME, run folders of checks. A folder of seeds holds seed-N, run folders; a comparison's
PRUNER/SPARSITY/seed-N, compare.csv, plots/ and jobs/; a sweep's sweep.csv. An analysis of runs has a folder of its own,
with tables (.csv) and plots/.
"""

from pathlib import Path

from experiments.config.config import Config
from experiments.config.saved import digest, fields_of
from rare_gems.storage.ticket_file import FILE_NAME

__all__ = [
    "ANALYSIS", "CHECKPOINTS", "COMPACT", "COMPARE_CSV", "CONFIG", "EXPORT", "JOBS", "LOCK", "METRICS", "PLOTS",
    "PROFILE", "ROUNDS", "RUNS", "SANITY", "SANITY_CSV", "SANITY_JSON", "SEARCH", "SEED", "SEEDS", "SUMMARY",
    "SWEEP_CSV", "TENSORBOARD", "TICKET", "check_folder", "compared_folder", "figure", "folder_of", "round_file",
    "round_files", "run_folder", "seed_folder", "seeds_folder",
]  # fmt: skip

RUNS = Path("runs")  # where folders go that are named by a digest
CONFIG = "config.json"
METRICS = "metrics.csv"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"
SEARCH = "search.safetensors"
TICKET = FILE_NAME
SUMMARY = "summary.json"
EXPORT = "export"  # with the suffix of another framework's file
COMPACT = "compact"  # .safetensors
SEED = "seed"  # .json
PLOTS = "plots"
PROFILE = "profile"
ROUNDS = "rounds"
LOCK = ".lock"
SANITY = "sanity"
SANITY_CSV, SANITY_JSON = "sanity.csv", "sanity.json"
SEEDS = "seed-*"
COMPARE_CSV = "compare.csv"
SWEEP_CSV = "sweep.csv"
JOBS = "jobs"
ANALYSIS = "analysis"  # and a name made from its runs


def figure(folder: Path, name: str) -> Path:
    """The file of a figure, whose folder is made."""
    (folder / PLOTS).mkdir(parents=True, exist_ok=True)
    return folder / PLOTS / f"{name}.png"


def round_file(folder: Path, number: int) -> Path:
    """The file of the network that a round trained (0: what the first began with), whose folder is made."""
    (folder / ROUNDS).mkdir(exist_ok=True)
    return folder / ROUNDS / f"{number:02d}.safetensors"


def folder_of(file: Path) -> Path:
    """The run folder in which a ticket, or the file of a round, lies."""
    return file.parent.parent if file.parent.name == ROUNDS else file.parent


def round_files(folder: Path) -> dict[int, Path]:
    """The files of the rounds that a run kept, by number."""
    files = (file for file in (folder / ROUNDS).glob("*.safetensors") if file.stem.isdecimal())
    return {int(file.stem): file for file in sorted(files, key=lambda file: int(file.stem))}


def run_folder(config: Config, *, one_of_many: bool = False) -> Path:
    """Where a run goes: --run-dir (`seed-N` in it for each of several seeds), or a name made from its digest."""
    if config.run_dir is None:
        return RUNS / f"{config.dataset}-{config.pruner}-{digest(fields_of(config))}"
    return seed_folder(config.run_dir, config.seed) if one_of_many else config.run_dir


def seed_folder(folder: Path, seed: int) -> Path:
    """The run folder of one of several seeds."""
    return folder / f"seed-{seed}"


def compared_folder(folder: Path, pruner: str, sparsity: str | None, seed: int) -> Path:
    """The run folder of one run of the comparison in `folder`; `sparsity` as typed, None for the dense network."""
    return seed_folder(folder / pruner / (sparsity or ""), seed)


def seeds_folder(config: Config) -> Path:
    """Where the report on several seeds goes, which stands beside their folders."""
    named = f"{config.dataset}-{config.pruner}-{digest(fields_of(config))}-{config.num_seeds}-seeds"
    return config.run_dir or RUNS / named


def check_folder(folder: Path, name: str) -> Path:
    """The run folder of a sanity check of the run in `folder`."""
    return folder / SANITY / name
