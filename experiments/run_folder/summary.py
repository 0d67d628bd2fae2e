"""What a finished run leaves: ticket.safetensors, plots, and summary.json last of all."""

import os
import platform
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.catalog.datasets import DATASETS
from experiments.run_folder import paths
from experiments.run_folder.folder import write_json
from rare_gems import __version__, masks
from rare_gems.phase import ModelState, Params, Ticket
from rare_gems.reports import run_figures
from rare_gems.storage import ticket_file

__all__ = ["DataUsed", "RunResult", "SearchResult", "dataset_name", "write_results"]

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


class SearchResult(NamedTuple):
    """What the search left: the weights to finetune, scores, mask (GEM-MINER: q, before r(p) may thin it), BatchNorm
    statistics, and `whole`: the weights when the network last was whole (initial, or of the step rewound to)."""

    ticket: Ticket
    model_state: ModelState
    whole: Params


class RunResult(NamedTuple):
    """What is left at the end. Accuracies are on the test set; `before` by mask; `after` None without finetuning;
    `top5` the top-5 accuracy after it, of many classes; `best` the best validation epoch {epoch, validation, test} or
    None; `overlap` with the mask that a search which re-selects began with; `effective`: {sparsity, num_kept,
    cut_layers} of the weights that can matter, or None where the network cannot be followed; `cost` and `seconds` of
    search and finetuning; how many runs trained `at_once`, and shared these seconds."""

    ticket: Ticket
    model_state: ModelState
    found: SearchResult
    rows: list[dict[str, Any]]
    before: dict[str, float | None]
    after: float | None
    top5: dict[str, float]
    best: dict[str, Any] | None
    overlap: float | None
    effective: dict[str, Any] | None
    cost: dict[str, dict[str, float]]
    seconds: dict[str, float]
    at_once: int


class DataUsed(NamedTuple):
    """The data of a run: a note, e.g. "JPEG"; what is taken off the pixel values in [0, 1] of each channel, and what
    they are divided by; broken images that were left out."""

    note: str
    mean: Sequence[float]
    std: Sequence[float]
    skipped: Sequence[str]


def write_results(
    folder: Path,
    fields: dict[str, Any],
    name: str,
    data: DataUsed,
    result: RunResult,
    *,
    order: Sequence[str],
) -> dict[str, Any]:
    """Writes the files of a finished run.

    Args:
      fields: the configuration. name: what tables call the ticket. order: the names of the layers, from first to last.
    Returns:
      the summary, as in summary.json.
    """
    mask, initial = result.ticket.mask, result.found.ticket.params
    ticket = result.ticket._replace(params=masks.apply(result.ticket.params, mask))  # a mask search trains no weights
    header = {key: fields[key] for key in ("dataset", "model")}
    header |= {"method": name, "seed": fields["seed"], "sparsity_target": fields["sparsity"]}
    header |= {"data_seed": fields["data_seed"]} if fields.get("data_seed") is not None else {}
    ticket_file.save(folder / paths.TICKET, ticket, metadata=header, initial=initial, model_state=result.model_state)
    counts = masks.layer_counts(mask)
    layers = [{"name": name, "num_kept": counts[name][0], "num_prunable": counts[name][1]} for name in order]
    summary = _summary(fields, name, data, result, layers)
    title = f"{name}, {fields['model']} on {summary['dataset_name']}, seed {fields['seed']}"
    if result.rows:
        run_figures.plot_search(result.rows, paths.figure(folder, "accuracy_and_sparsity"), title)
    run_figures.plot_layers(layers, paths.figure(folder, "layer_sparsity"), title)
    write_json(folder / paths.SUMMARY, summary)
    return summary


def _summary(
    fields: dict[str, Any],
    name: str,
    data: DataUsed,
    result: RunResult,
    layers: list[dict[str, Any]],
) -> dict[str, Any]:
    mask = result.ticket.mask
    sparsity = masks.layer_sparsity(mask)
    effective = result.effective or {}
    return {
        "name": name,
        "pruner": fields["pruner"],
        "model": fields["model"],
        "dataset": fields["dataset"],
        "dataset_name": dataset_name(fields["dataset"], data.note),
        "pixels": {"mean": list(data.mean), "std": list(data.std)},
        "seed": fields["seed"],
        "data_seed": fields.get("data_seed"),
        "sparsity_target": fields["sparsity"],
        "sparsity": masks.sparsity(mask),
        "num_kept": masks.num_kept(mask),
        "num_prunable": masks.num_prunable(mask),
        "effective_sparsity": effective.get("sparsity"),
        "num_effective": effective.get("num_kept"),
        "cut_layers": effective.get("cut_layers"),
        "accuracy": result.before | result.top5 | {"after_finetune": result.after, "best_validation": result.best},
        "layer_sparsity": {layer["name"]: sparsity[layer["name"]] for layer in layers},
        "layers": layers,
        "overlap_with_initial_mask": result.overlap,
        "epochs": {part: cost["epochs"] for part, cost in result.cost.items()},
        "steps": {part: cost["steps"] for part, cost in result.cost.items()},
        "forward_backward_passes": {part: cost["passes"] for part, cost in result.cost.items()},
        "seconds": result.seconds | {"total": sum(result.seconds.values())},
        "skipped_images": list(data.skipped),
        "runs_at_once": result.at_once,
        "device": _device(),
        "versions": {"python": platform.python_version(), "rare_gems": __version__}
        | {p: _version(p) for p in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a clone that is not installed
        return None


def dataset_name(dataset: str, note: str) -> str:
    """The title of a data set, with what of its note changes the images."""
    title = DATASETS[dataset].title
    told = [part for part in note.split(", ") if part == "JPEG" or re.fullmatch(r"\d+x\d+", part)]
    return f"{title} ({', '.join(told)})" if told else title


def _device() -> str:
    first, num = jax.devices()[0], len(jax.devices())
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    if first.platform == "cpu":
        parts = f" as {num} devices" if num > 1 else ""
        return f"cpu, {os.cpu_count()} cores, {platform.machine()}{parts}{processes}"
    return f"{num} x {first.device_kind}{processes}"
