"""What runs of one configuration begin with, which they share, and the runs that are made of it."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.catalog.datasets import Loaded
from experiments.catalog.sanity_checks import Check
from experiments.config.config import Config
from experiments.config.saved import of_problem, without_free
from experiments.problem.data import load_data
from experiments.problem.found_ticket import of_network, source_of
from experiments.problem.initial_ticket import data_key, last_kernel, run_key, start, weights_of
from experiments.problem.network import layers_of, unread_layers
from experiments.problem.problem import Problem, make_feed, make_loss, make_problem
from experiments.problem.prunable import of_kernels
from experiments.problem.recipe import recipe_for, training_phase
from experiments.run_folder import paths
from experiments.terminal import progress
from experiments.terminal.errors import UsageError
from experiments.training import devices
from experiments.training.run import Run
from rare_gems import transforms
from rare_gems.models.layer_order import Layers
from rare_gems.phase import ModelState, Phase, Recipe, Ticket
from rare_gems.storage import ticket_file
from rare_gems.training.programs import Programs

__all__ = ["Setup", "edited_run", "forget", "search_run", "search_runs", "setup_of", "setups_of", "tell_skipped"]


class Setup(NamedTuple):
    """What runs of one configuration begin with: the problem, a note on its data, the first ticket, what is to be told
    of it, and the layers that count, in the order of their use."""

    config: Config
    problem: Problem
    note: str
    ticket: Ticket
    model_state: ModelState
    told: tuple[str, ...]
    layers: Layers


def setups_of(configs: Sequence[Config], num_at_once: int) -> list[Setup]:
    """The setups of runs, all on the devices of `num_at_once` runs at once."""
    if len(configs) == 1:
        return [setup_of(without_free(configs[0]))]
    mesh = devices.mesh_for(configs[0], num_at_once)
    return [_setup_on(without_free(config), mesh) for config in configs]


@functools.lru_cache(maxsize=1)
def setup_of(config: Config) -> Setup:
    """Makes what a ticket and its checks share; `config` is that of `without_free`."""
    return _setup_on(config, devices.mesh_for(config))


def _setup_on(config: Config, mesh: Mesh | None) -> Setup:
    problem, note = _problem(of_problem(config), mesh)
    last = last_kernel(problem.model, problem.image_shape) if config.replace_classifier else None
    begun = start(problem.model, config, last)
    layers = layers_of(problem.model, problem.image_shape, config)
    return Setup(
        config=config,
        problem=problem,
        note=note,
        ticket=begun.ticket,
        model_state=begun.model_state,
        told=(*begun.notes, *([unread_layers(layers)] if layers.unread else [])),
        layers=layers,
    )


@functools.lru_cache(maxsize=1)
def _problem(config: Config, mesh: Mesh | None) -> tuple[Problem, str]:
    """Makes the problem that runs share, one after the other or at once; `config` is that of `of_problem`."""
    loaded = _loaded(config)
    problem = make_problem(loaded, config, mesh)
    return problem, loaded.data.note


@functools.lru_cache(maxsize=1)
def _loaded(config: Config) -> Loaded:
    loaded = load_data(config)
    for line in loaded.notes:
        progress.note(line)
    tell_skipped(loaded.skipped)
    return loaded


def forget() -> None:
    """Has the next run read its data again, which may be others now."""
    for cached in (setup_of, _problem, _loaded, _recipe, _finetuning):
        cached.cache_clear()


def tell_skipped(skipped: Sequence[str], most: int = 20) -> None:
    """Prints which images were left out, the first of them by name."""
    if skipped:
        progress.note(f"skipped {len(skipped)} broken images:")
        for line in skipped[:most]:
            progress.note(f"  {line}")
        if len(skipped) > most:
            progress.note(f"  and {len(skipped) - most} more; all are in {paths.SUMMARY}")


def search_runs(setups: Sequence[Setup]) -> list[Run]:
    """Makes the runs of setups. Those that differ in seeds alone get one recipe, which is compared once."""
    recipes: dict[_Asked, Recipe] = {}
    runs = []
    for setup in setups:
        run = search_run(setup, None)
        recipe = recipes.setdefault(_asked(setup), run.recipe)
        runs.append(run._replace(recipe=recipe))
    return runs


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A setup, equal to those that differ from it in seeds alone."""

    name: tuple[Config, int]
    setup: Setup = dataclasses.field(compare=False)


def _asked(setup: Setup) -> _Asked:
    seedless = dataclasses.replace(setup.config, seed=0, data_seed=None)
    return _Asked(name=(seedless, id(setup.problem)), setup=setup)


# Runs one after the other that differ in seeds alone have one recipe, and so trace and compile it once. Few are kept,
# since each holds its problem's data: that of the search, and of its inverted check.
@functools.lru_cache(maxsize=2)
def _recipe(asked: _Asked, steps_per_epoch: int, invert: bool) -> tuple[Recipe, dict[Any, Programs]]:
    config, problem = asked.setup.config, asked.setup.problem
    recipe = recipe_for(
        config,
        asked.setup.ticket.mask,
        steps_per_epoch=steps_per_epoch,
        finetune_steps=problem.feed.num_batches,
        loss=functools.partial(make_loss, problem.model, mesh=problem.norm_mesh),
        model=problem.model,
        image_shape=problem.image_shape,
        invert=invert,
    )
    return recipe, {}


@functools.lru_cache(maxsize=1)
def _finetuning(asked: _Asked) -> tuple[Phase | None, dict[Any, Programs]]:
    config, problem = asked.setup.config, asked.setup.problem
    loss = functools.partial(make_loss, problem.model, mesh=problem.norm_mesh)
    return training_phase(config, problem.feed.num_batches, loss), {}


def search_run(setup: Setup, check: Check | None) -> Run:
    """The whole recipe; a check may invert its scores, or feed it other data until the finetuning."""
    config, problem = setup.config, setup.problem
    feed = problem.feed
    if check and check.corrupt:
        corrupted = check.corrupt(problem.data, config.seed)
        feed = make_feed(problem.data, corrupted, config, problem.skipped, problem.mesh)
    recipe, programs = _recipe(_asked(setup), feed.num_batches, bool(check and check.invert))
    feeds = tuple(problem.feed if phase.name == "finetune" else feed for phase in recipe)
    title = f"{config.dataset} {config.pruner}" + (f", {check.what}" if check else "")
    return Run(
        title=title, recipe=recipe, ticket=setup.ticket, model_state=setup.model_state, key=run_key(config),
        feeds=feeds, data_key=data_key(config), programs=None if check and check.corrupt else programs,
    )  # fmt: skip


def edited_run(setup: Setup, check: Check, run_folder: Path) -> Run:
    """An edit of the ticket found, then the same finetuning.

    A weight that the ticket's mask had removed comes back as it was when the network was last whole.
    """
    config, problem, ticket, state = setup.config, setup.problem, setup.ticket, setup.model_state
    assert check.edit is not None
    try:
        mask = ticket_file.load(run_folder / paths.TICKET, like=ticket).ticket.mask
    except ValueError as error:
        if "does not match `like`" not in str(error):
            raise UsageError(f"{run_folder}: it cannot be checked ({error})") from None
        told = "made when other leaves counted as prunable, or by another network of this name"
        raise UsageError(f"{run_folder}: {told}; it cannot be checked ({of_network(error, config.model)})") from None
    if check.afresh:
        begin = ticket._replace(mask=mask)
    else:
        search = ticket_file.load(run_folder / paths.SEARCH, like=ticket, like_state=state)
        whole = jax.tree.map(
            lambda m, kept, w: kept if m is None else jnp.where(m, kept, w), mask, search.ticket.params, search.initial,
            is_leaf=lambda leaf: leaf is None,
        )  # fmt: skip
        begin, state = Ticket(whole, search.ticket.scores, mask), search.model_state
    finetuning, programs = _finetuning(_asked(setup))
    drawn_as = source_of(config) or config
    if check.redraws and drawn_as.init == "model":
        raise UsageError(f"{run_folder}: the network drew its weights itself; expected reinit_kaiming_normal")
    edit = check.edit(weights_of(drawn_as))
    recipe = (transforms.edit(of_kernels(edit) if check.draws else edit), *([finetuning] if finetuning else []))
    title = f"{config.dataset} {config.pruner}, {check.what}"
    return Run(
        title=title,
        recipe=recipe,
        ticket=begin,
        model_state=state,
        key=run_key(config),
        feeds=(problem.feed,) * len(recipe),
        data_key=data_key(config),
        programs=programs,
    )
