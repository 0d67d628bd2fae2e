"""--dry-run: what would be run, where each number comes from, and what it would cost."""

import itertools
import math
from functools import partial
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.table import Table

from experiments.config import Config, as_dict
from experiments.datasets import facts_of
from experiments.methods import Setting, recipe_for
from experiments.networks import forward_flop, input_shape, network_for
from experiments.options import Force, Imp, Lrr, Synflow
from experiments.problem import make_loss
from rare_gems import masks, schedules
from rare_gems.data.batches import num_batches
from rare_gems.phase import Mask, Phase, Recipe
from rare_gems.pruners.gem_miner import freezing_counts
from rare_gems.pruners.imp import rounds_for

__all__ = ["print_plan", "recipe_of"]


def print_plan(console: Console, dataset: str, config: Config, sources: dict[str, str]) -> None:
    """Prints the resolved configuration with its sources, the prunable count, the rounds and the cost.

    Raises:
      ValueError: for what the pruner refuses.
    """
    facts = facts_of(dataset, config)
    num_held_out = facts.num_validation or facts.num_test
    recipe, mask, steps = recipe_of(dataset, config)
    table = Table("field", "value", "source", title=f"experiments.{dataset}")
    for name, value in _flat(as_dict(dataset, config)).items():
        if name != "dataset":
            table.add_row(name, str(value), sources[name])
    console.print(table)
    n = masks.num_prunable(mask)
    console.print(f"prunable: {n:,} weights in {len(jax.tree.leaves(mask))} layers")
    if config.pruner != "dense":
        console.print(f"kept at the end: {masks.count_for(n, config.sparsity):,}")
    rounds = _rounds(config, mask)
    if rounds:
        what = (
            rounds.what if len(rounds.counts) > 1 else rounds.what.replace("rounds", "round").replace("keep", "keeps")
        )
        console.print(f"{len(rounds.counts)} {what} {_spelled(rounds)}", soft_wrap=True)
    shape = input_shape(config, facts.image_shape)
    forward, total = forward_flop(network_for(config, shape, facts.num_classes), shape), 0.0
    for phase, again in _grouped(recipe):
        times = f"{again} times " if again > 1 else ""
        epochs, rest = divmod(phase.num_steps, steps)
        length = f"{epochs} epochs of {steps} steps" + (f" and {rest} steps" if rest else "")
        if not phase.uses_data:
            console.print(f"{phase.name}: {phase.num_steps} forward and backward passes of one image")
            total += phase.num_steps * 3 * forward
            continue
        passes, seen = again * phase.num_steps * phase.passes, again * epochs * num_held_out
        total += forward * (3 * passes * config.batch_size + seen)
        console.print(
            f"{phase.name}: {times}{length if epochs else f'{rest} steps'} = {passes:,} forward and backward passes of "
            f"{config.batch_size} images, and {seen:,} images evaluated", soft_wrap=True,
        )  # fmt: skip

    console.print(
        f"about {total:.2g} floating-point operations in all: {forward / 1e6:,.0f} million for the forward pass of an "
        "image, the backward pass twice that", soft_wrap=True,
    )  # fmt: skip


class _Rounds(NamedTuple):
    """The weights kept after each round, and after which epoch that is (None where rounds are no epochs apart)."""

    what: str
    counts: tuple[int, ...]
    epochs: tuple[int, ...] | None = None


def _rounds(config: Config, mask: Mask) -> _Rounds | None:
    """The schedule by which weights are removed, of the pruners that remove them in rounds."""
    n, sparsity, own = masks.num_prunable(mask), config.sparsity, getattr(config, config.pruner, None)
    if config.pruner == "gem_miner" and config.gem_miner.freeze:
        number, period = schedules.num_rounds(config.epochs, config.gem_miner.period), config.gem_miner.period
        counts = freezing_counts(mask, sparsity, number)  # in all; "layer" shares them out at equal ratios
        return _Rounds(f"freezing rounds ({config.gem_miner.scope} scope) keep", counts,
                       tuple(period * (r + 1) + 1 for r in range(number)))  # fmt: skip
    if isinstance(own, Imp | Lrr):
        number = own.rounds or rounds_for(sparsity, own.rate)
        counts = schedules.exponential_counts(n, sparsity, number)
        return _Rounds(f"rounds of {own.round_epochs} epochs keep", counts)
    if config.pruner == "edge_popup" and config.edge_popup.gradual:
        number = schedules.num_rounds(config.epochs, config.edge_popup.period)
        return _Rounds("rounds keep", schedules.exponential_counts(n, sparsity, number),
                       (0, *(config.edge_popup.period * (r + 1) for r in range(1, number))))  # fmt: skip
    if isinstance(own, Synflow | Force):
        return _Rounds("rounds keep", schedules.exponential_counts(n, sparsity, own.rounds))
    return None


def _spelled(rounds: _Rounds, most: int = 30) -> str:
    epochs = rounds.epochs or (None,) * len(rounds.counts)
    told = [f"{count:,}" + ("" if epoch is None else f" after epoch {epoch}")
            for count, epoch in zip(rounds.counts, epochs, strict=True)]  # fmt: skip
    told = told if len(told) <= most else [*told[:5], "...", *told[-5:]]
    return ", ".join(told)


def _grouped(recipe: Recipe) -> list[tuple[Phase, int]]:
    """The phases that train or score, a phase that comes several times in a row once with its number."""
    trained = [phase for phase in recipe if phase.num_steps]
    groups = [list(group) for _, group in itertools.groupby(trained, id)]
    return [(group[0], len(group)) for group in groups]


def recipe_of(dataset: str, config: Config, share: float = 1.0) -> tuple[Recipe, Mask, int]:
    """The recipe that a configuration stands for, an abstract mask, and the steps of an epoch; no data is read.

    Args:
      share: of the training examples, that the search sees.
    Raises:
      ValueError: for what the pruner refuses.
    """
    facts = facts_of(dataset, config)
    size, shape = facts.num_train, input_shape(config, facts.image_shape)
    model = network_for(config, shape, facts.num_classes)
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    mask = jax.eval_shape(masks.ones, params)
    steps, whole = (num_batches(math.floor(size * part), config.batch_size) for part in (share, 1.0))
    return recipe_for(Setting(config, mask, steps, whole, shape, model, partial(make_loss, model))), mask, steps


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    flat = {}
    for name, value in fields.items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat
