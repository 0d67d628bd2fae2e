"""--dry-run: what would be run, where each number comes from, and what it would cost."""

from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from experiments.config import FACTS, Config, as_dict
from experiments.problem import MODELS, recipe_for
from rare_gems import masks, schedules
from rare_gems.data.batches import num_batches
from rare_gems.pruners.gem_miner import freezing_counts

__all__ = ["print_plan"]


def print_plan(console: Console, dataset: str, config: Config, sources: dict[str, str]) -> None:
    """Prints the resolved configuration with its sources, the prunable count, the rounds and the cost.

    Raises:
      ValueError: for what the pruner refuses.
    """
    shape, size, num_test, num_classes = FACTS[dataset]
    size = config.train_examples or size - config.validation_examples
    num_held_out = config.validation_examples or num_test
    params, _ = jax.eval_shape(MODELS[config.model](shape, num_classes).init, jax.random.key(0))
    mask = jax.eval_shape(masks.ones, params)
    steps = num_batches(size, config.batch_size)
    recipe = recipe_for(config, mask, steps)
    table = Table("field", "value", "source", title=f"experiments.{dataset}")
    for name, value in _flat(as_dict(dataset, config)).items():
        if name != "dataset":
            table.add_row(name, str(value), sources[name])
    console.print(table)
    n = masks.num_prunable(mask)
    console.print(f"prunable: {n:,} weights in {len(jax.tree.leaves(mask))} layers")
    if config.pruner != "dense":
        console.print(f"kept at the end: {masks.count_for(n, config.sparsity):,}")
    if config.pruner == "gem_miner" and config.gem_miner.freeze:
        rounds = schedules.num_rounds(config.epochs, config.gem_miner.period)
        scope = config.gem_miner.scope
        counts = freezing_counts(mask, config.sparsity, rounds)  # in all; the layers share them out at equal ratios
        period = config.gem_miner.period
        spelled = ", ".join(f"{count:,} after epoch {period * (r + 1) + 1}" for r, count in enumerate(counts))
        console.print(f"{rounds} freezing rounds ({scope} scope) keep {spelled}", soft_wrap=True)
    for phase in recipe:
        if phase.num_steps:
            epochs = phase.num_steps // steps
            console.print(
                f"{phase.name}: {epochs} epochs of {steps} steps = {phase.num_steps:,} forward and backward passes of "
                f"{config.batch_size} images, and {epochs * num_held_out:,} images evaluated", soft_wrap=True,
            )  # fmt: skip


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    flat = {}
    for name, value in fields.items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat
