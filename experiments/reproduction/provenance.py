"""Where the numbers of an item come from: the data, the command, seeds, devices, versions, and the time."""

import json
from collections.abc import Sequence
from typing import Any

from experiments.catalog.datasets import DATASETS
from experiments.reproduction.spread import PartRuns
from experiments.run_folder import paths

__all__ = ["data_notes", "provenance"]

_PACKAGES = ("rare_gems", "jax", "flax", "optax")


def data_notes(runs: PartRuns) -> tuple[str, ...]:
    """How the data of a part are called in full, if not by their title alone: "CIFAR-10 (JPEG, 16x16)"."""
    titles = {row.title for row in DATASETS.values()}
    names = dict.fromkeys(summary.get("dataset_name") for summary in _summaries([runs]))
    return tuple(f"data: {name}" for name in names if name and name not in titles)


def provenance(parts: Sequence[PartRuns], command: str) -> list[str]:
    """Lines that say what made the finished runs of an item.

    Args:
      command: as typed.
    """
    found = _summaries(parts)
    if not found:
        return []
    devices = dict.fromkeys(str(summary["device"]) for summary in found if summary.get("device"))
    versions = dict.fromkeys(spelled for summary in found if (spelled := _versions(summary)))
    seeds = sorted({each.config.seed for runs in parts for each in runs.combinations})
    seconds = sum(summary.get("seconds", {}).get("total") or 0.0 for summary in found)
    told = [f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}", *devices, *versions]
    told.append(f"{len(found)} runs, {seconds:,.0f} s of training")
    return [f"command: {command}", f"made with {'; '.join(told)}"]


def _versions(summary: dict[str, Any]) -> str:
    versions = summary.get("versions", {})
    return ", ".join(f"{name} {versions[name]}" for name in _PACKAGES if versions.get(name))


def _summaries(parts: Sequence[PartRuns]) -> list[dict[str, Any]]:
    """Of the finished runs and their checks, each once."""
    made = [each for runs in parts for each in runs.combinations]
    folders = dict.fromkeys(each.folder for each in made)
    folders |= dict.fromkeys(paths.check_folder(each.folder, name) for each in made for name in each.checks)
    return [json.loads(file.read_text()) for folder in folders if (file := folder / paths.SUMMARY).is_file()]
