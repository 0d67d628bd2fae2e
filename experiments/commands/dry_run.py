"""--dry-run: what would be run, where each number comes from, and what it would cost."""

import itertools

import jax
from rich.console import Console
from rich.table import Table

from experiments.catalog.pruners.pruner import Rounds
from experiments.catalog.training import GROUPS
from experiments.commands.leaf_table import print_leaves, tell_dense
from experiments.config.config import Config
from experiments.config.lengths import search_epochs
from experiments.config.saved import fields_of, flat
from experiments.problem.data import facts_of
from experiments.problem.initial_ticket import check_pretrained
from experiments.problem.network import forward_flop, layers_of, network_of, unread_layers
from experiments.problem.recipe import plan_of
from experiments.problem.training import spelled
from experiments.run_folder import paths
from experiments.training import kept_rounds, memory
from rare_gems import masks
from rare_gems.models.model import Model, shapes_of
from rare_gems.phase import Phase, Recipe
from rare_gems.storage import ticket_file

__all__ = ["print_plan"]


def print_plan(console: Console, config: Config, sources: dict[str, str]) -> None:
    """Prints the resolved configuration with its sources, what is prunable, the rounds and the cost.

    Raises:
      ValueError: for what the pruner refuses.
    """
    facts = facts_of(config)
    num_held_out = facts.num_validation or facts.num_test
    recipe, mask, steps, leaves = plan_of(config)
    table = Table("field", "value", "source", title=f"experiments.{config.dataset}")
    for name, value in flat(fields_of(config)).items():
        if name != "dataset" and (value is not None or name.split(".")[0] not in GROUPS):
            table.add_row(name, str(value), sources[name])
    console.print(table)
    n = masks.num_prunable(mask)
    model, shape = network_of(config)
    layers = layers_of(model, shape, config)
    ends = f", the first {layers.read[0]}, the last {layers.read[-1]}" if layers.read else ""
    console.print(f"prunable: {n:,} weights in {len(jax.tree.leaves(mask))} layers{ends}", soft_wrap=True)
    if layers.unread:
        console.print(unread_layers(layers), soft_wrap=True)
    print_leaves(console, leaves)
    tell_dense(console, config)
    if config.method.removes:
        console.print(f"kept at the end: {masks.count_for(n, config.sparsity):,}")
    schedule = config.method.rounds
    rounds = schedule(mask, config.sparsity, config.epochs, config.options) if schedule else None
    if rounds:
        what = (
            rounds.what if len(rounds.counts) > 1 else rounds.what.replace("rounds", "round").replace("keep", "keeps")
        )
        console.print(f"{len(rounds.counts)} {what} {_spelled(rounds)}", soft_wrap=True)
    for part in GROUPS:
        if search_epochs(config) if part == "training" else config.finetune_epochs:
            where = "the search" if part == "training" else "the finetuning"
            console.print(f"weights in {where}: {spelled(config, part)}", soft_wrap=True, markup=False, highlight=False)
    if config.keep == "rounds":
        console.print(_kept_rounds(recipe, model), soft_wrap=True)
    for line in _told_of_weights(config):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    forward, total = forward_flop(model, shape), 0.0
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
        f"about {total:.2g} floating-point operations a run{', without its sanity checks' if config.sanity else ''}: "
        f"{forward / 1e6:,.3g} million for the forward pass of an image, the backward pass twice that", soft_wrap=True,
    )  # fmt: skip


def _kept_rounds(recipe: Recipe, model: Model) -> str:
    """What --keep=rounds takes of the disk."""
    number = 1 + len(kept_rounds.rounds_in(recipe))
    each = memory.tree_bytes(shapes_of(model)) / 1e6
    return (f"--keep=rounds: {number} files in {paths.ROUNDS}/, what the first round begins with and what each trains: "
            f"{number} x {each:,.2f} MB and the masks = about {number * each:,.1f} MB of disk")  # fmt: skip


def _told_of_weights(config: Config) -> tuple[str, ...]:
    if config.pretrained is not None and ticket_file.find(config.pretrained) is None:
        return (f"--pretrained: {config.pretrained} is not there, and was not checked",)
    return check_pretrained(config)


def _spelled(rounds: Rounds, most: int = 30) -> str:
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
