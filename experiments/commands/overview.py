"""`python -m experiments`: what there is, and what to try first."""

import textwrap
from collections.abc import Mapping

from experiments.catalog.datasets import DATASETS
from experiments.catalog.networks import NETWORKS
from experiments.catalog.pruners.table import PRUNERS
from experiments.catalog.sanity_checks import CHECKS

__all__ = ["COMMANDS", "overview"]

COMMANDS = {
    "DATASET": "find a ticket, finetune it, leave a run folder; --help shows the flags",
    "compare": "methods side by side at several sparsities, in a table and figures",
    "reproduce": "the tables and figures of the papers, their numbers beside ours",
    "sanity": "sanity checks of a finished run",
    "analyse": "finished runs beside each other: distance, overlap, stability, connectivity, effective sparsity",
    "evaluate": "the test accuracy of a ticket, without a search",
    "export": "the ticket of a finished run for PyTorch, NumPy or Flax, as a smaller network, or as seed and mask",
    "bench": "time and memory of selections, steps, epochs and reading",
}


def overview() -> str:
    """The page that `python -m experiments` prints."""
    lists: dict[str, Mapping[str, str]] = {
        "commands (python -m experiments.NAME)": COMMANDS,
        "data sets (DATASET)": {name: row.what for name, row in DATASETS.items()},
        "methods (--pruner)": {name: row.what for name, row in PRUNERS.items()},
        "networks (--model)": {name: row.what for name, row in NETWORKS.items()},
        "sanity checks (--sanity)": {name: row.what for name, row in CHECKS.items()},
    }
    parts = ["Lottery tickets: find, train, check and compare sparse subnetworks.", "", "try first:"]
    parts += ["  python -m experiments.digits --pruner=gem_miner", ""]
    for title, entries in lists.items():
        parts += [f"{title}:"]
        for name, what in entries.items():
            indent = " " * 28
            parts.append(textwrap.fill(f"  {name:<26}{what}", 118, subsequent_indent=indent))
        parts.append("")
    return "\n".join(parts).rstrip()
