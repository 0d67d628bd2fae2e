"""What `experiments.reproduce` tells before anything is run: the list of items, and the plan of one."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.comparison import make
from experiments.comparison.expand import Combination
from experiments.papers.item import Item
from experiments.papers.table import ITEMS
from experiments.problem.recipe import Planned
from experiments.reproduction import cost
from experiments.reproduction.report import RUNS_CSV
from experiments.reproduction.spread import PartRuns, Wanted, item_folder, spread, without_training
from experiments.run_folder import paths
from rare_gems import masks
from rare_gems.reports import run_tables
from rare_gems.storage.atomic import write_whole

__all__ = ["COSTS", "count", "count_all", "counted", "print_items", "print_plan"]

COSTS = Path(__file__).parent.parent / "papers" / "costs.json"  # {item: {scale: [runs, steps, operations]}}

Plans = list[tuple[Combination, Planned]]


def counted(item: Item, parts: Sequence[PartRuns], plans: Sequence[Plans]) -> cost.Cost:
    """The cost of an item; what is known without training costs nothing."""
    if without_training(item):
        return cost.Cost(0, 0, 0.0, {}, {})
    planned = [plan for some in plans for plan in some]
    first = parts[0].combinations[0]
    seeds = sum((each.column, each.sparsity) == (first.column, first.sparsity) for each in parts[0].combinations)
    return cost.cost_of(planned, seeds)


def count(item: Item) -> dict[str, list[float]]:
    """The cost of an item at both scales, {scale: [runs, steps, operations]}, as in costs.json."""
    found = {}
    for scale in ("paper", "small"):
        parts = spread(item, Wanted(scale, paths.RUNS / "reproduce"))
        one = counted(item, parts, [make.plans(part.combinations) for part in parts])
        found[scale] = [one.runs, one.steps, float(f"{one.flop:.3g}")]
    return found


def count_all() -> None:
    """Counts every item again, and keeps that beside the rows."""
    lines = [f'"{name}": {json.dumps(count(item))}' for name, item in ITEMS.items()]
    write_whole(COSTS, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def print_items(console: Console, wanted: Wanted, *, measured: bool) -> None:
    """Prints every item: what it shows, on what, its cost at the scale, and whether results are there.

    Args:
      measured: time what has not been timed yet on this device.
    """
    known = json.loads(COSTS.read_text()) if COSTS.exists() else {}
    table = Table(title=f"Tables, figures and claims of the papers, at {wanted.scale} scale", box=None, pad_edge=False)
    for heading in ("item", "shows", "data set, network", "runs", "steps", "operations", "hours", "results"):
        table.add_column(heading, justify="right" if heading in ("runs", "steps", "operations", "hours") else "left")
    for item in ITEMS.values():
        runs, steps, flop = known.get(item.id, {}).get(wanted.scale, (None, None, None))
        hours = cost.remembered(item.id, wanted.scale)
        if measured and hours is None:
            parts = spread(item, wanted)
            found = counted(item, parts, [make.plans(part.combinations) for part in parts])
            hours = cost.measure(found)
            cost.remember(item.id, wanted.scale, hours)
        on: dict[str, dict[str, None]] = {}
        for part in item.parts:
            on.setdefault(_dataset(part, wanted), {})[_model(part, wanted)] = None
        where = "; ".join(f"{dataset}: {', '.join(models)}" for dataset, models in on.items())
        cells = ["-" if runs is None else f"{runs:,}", "-" if steps is None else f"{steps:.3g}"]
        cells += ["-" if flop is None else f"{flop:.2g}", "-" if hours is None else f"{hours:.2g}"]
        table.add_row(item.id, f"{item.paper}, {item.number}: {item.shows}", where, *cells, _results(item, wanted))
    run_tables.print_whole(console, table)
    told = "python -m experiments.reproduce ITEM [--scale=small] [--dry-run] runs one; --time fills in the hours here"
    console.print(told, soft_wrap=True, highlight=False)


def _dataset(part: Any, wanted: Wanted) -> str:
    return part.small.dataset or part.dataset if wanted.scale == "small" else part.dataset


def _model(part: Any, wanted: Wanted) -> str:
    return part.small.model or part.model if wanted.scale == "small" else part.model


def _results(item: Item, wanted: Wanted) -> str:
    """How many runs are there, of the unchanged recipe."""
    file = item_folder(item, wanted) / RUNS_CSV
    try:
        with file.open() as lines:
            return f"{sum(1 for _ in csv.reader(lines)) - 1} runs"
    except (OSError, csv.Error):
        return "none" if not without_training(item) else "needs no runs"


def print_plan(
    console: Console, item: Item, wanted: Wanted, parts: Sequence[PartRuns], plans: Sequence[Plans], *, measured: bool
) -> None:
    """Prints the runs of an item and what they cost."""
    console.print(f"{item.id}: {item.paper}, {item.number}: {item.shows}", soft_wrap=True, highlight=False)
    for note in item.notes:
        console.print(note, soft_wrap=True, highlight=False)
    for runs, some in zip(parts, plans, strict=True):
        config = runs.combinations[0].config
        table = Table(title=f"{config.model} on {config.dataset}", caption="\n".join(runs.notes) or None, box=None)
        table.title_justify = table.caption_justify = "left"
        for heading in ("column", "method", "sparsity", "kept", "search epochs", "all epochs", "checks"):
            table.add_column(heading)
        for each, plan in some:
            trained = [phase for phase in plan.recipe if phase.uses_data]
            search = sum(p.num_steps for p in trained if p.name != "finetune") / plan.steps_per_epoch
            epochs = sum(phase.num_steps for phase in trained) / plan.steps_per_epoch
            size = masks.num_prunable(plan.mask)
            kept = masks.count_for(size, each.config.sparsity)
            table.add_row(each.column, each.config.pruner, each.sparsity, f"{kept:,} of {size:,}", f"{search:.6g}",
                          f"{epochs:.6g}", ", ".join(each.checks) or "none")  # fmt: skip
        run_tables.print_whole(console, table)
    found = counted(item, parts, plans)
    hours = cost.measure(found) if measured else cost.known_hours(found)
    if measured and wanted == Wanted(wanted.scale, wanted.root, seed=wanted.seed):
        cost.remember(item.id, wanted.scale, hours or 0.0)
    told = "not timed here yet; --time does it" if hours is None else f"about {hours:.2g} hours on this device"
    if not found.runs:
        told = "known without training"
    work = f"{found.runs} runs, {found.steps:,} steps, about {found.flop:.2g} floating-point operations"
    console.print(f"{work}; {told}; in {item_folder(item, wanted)}", soft_wrap=True, highlight=False)
