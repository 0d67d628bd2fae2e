"""From configurations to finished run folders: tickets, one or several at once, and their sanity checks."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.catalog.datasets import Loaded
from experiments.catalog.sanity_checks import CHECKS, Check
from experiments.config.config import Config
from experiments.config.saved import fields_of, of_problem, without_free
from experiments.distributed import processes
from experiments.problem.data import load_data
from experiments.problem.found_ticket import of_network
from experiments.problem.initial_ticket import data_key, last_kernel, run_key, start, weights_of
from experiments.problem.network import layers_of, unread_layers
from experiments.problem.problem import Problem, make_feed, make_loss, make_problem
from experiments.problem.prunable import of_kernels
from experiments.problem.recipe import recipe_for, training_phase
from experiments.run_folder import folder, paths
from experiments.run_folder.summary import write_results
from experiments.terminal import progress
from experiments.terminal.errors import RunFailed, UsageError, spell
from experiments.training import devices, grouping
from experiments.training.loop import train_together
from experiments.training.run import Run
from rare_gems import transforms
from rare_gems.models.layer_order import Layers
from rare_gems.phase import ModelState, Recipe, Ticket
from rare_gems.storage import ticket_file

__all__ = ["check_folders", "finish_checks", "finish_tickets"]

Summary = dict[str, Any]


class _Bench(NamedTuple):
    """What runs of one configuration begin with: the problem, a note on its data, the first ticket, what is to be told
    of it, and the layers that count, in the order of their use."""

    config: Config
    problem: Problem
    note: str
    ticket: Ticket
    model_state: ModelState
    told: tuple[str, ...]
    layers: Layers


def finish_tickets(configs: Sequence[Config], folders: Sequence[Path]) -> list[Summary]:
    """The summaries of the tickets that configurations ask for, each in its run folder: read if finished, else made.

    As many train at once as --at-once allows, share a program and fit in memory.

    Raises:
      ValueError: for what the pruner, the data or a folder refuses, before anything is written.
      RunFailed, Interrupted, HostLost: as `training.loop.train_together`.
    """
    fields = [fields_of(config) for config in configs]
    pairs = list(zip(folders, fields, strict=True))
    summaries = processes.on_main(lambda: [folder.finished(place, own) for place, own in pairs])
    left: dict[Any, list[int]] = {}  # by what they train on, and what of it counts
    for i, summary in enumerate(summaries):
        if summary is None:
            processes.on_main(functools.partial(folder.check_free, folders[i]))
            alike = of_problem(configs[i]), configs[i].prunable, configs[i].dense
            left.setdefault(alike, []).append(i)
    for some in left.values():
        for group in _groups([configs[i] for i in some]):
            chosen = [some[i] for i in group]
            benches = _benches([configs[i] for i in chosen], len(chosen))
            for line in benches[0].told:
                progress.note(line)
            made = _make(
                benches,
                _searches(benches),
                [fields[i] for i in chosen],
                configs[chosen[0]].pruner,
                [folders[i] for i in chosen],
            )
            for i, summary in zip(chosen, made, strict=True):
                summaries[i] = summary
    return [summary for summary in summaries if summary is not None]


def check_folders(configs: Sequence[Config], folders: Sequence[Path], names: Sequence[str] = ()) -> None:
    """Refuses, before the first of several runs, folders of which one would be refused at its turn. Writes nothing.

    Args:
      names: the sanity checks that each run undergoes.
    Raises:
      UsageError: for a folder of something else, or that cannot be written, and for a finished run without what its
        checks begin with.
    """

    def look() -> None:
        for config, place in zip(configs, folders, strict=True):
            fields = fields_of(config)
            done = folder.finished(place, fields) is not None
            if not done:
                folder.check_place(place)
            for name in names:
                own = paths.check_folder(place, name)
                if folder.finished(own, fields | {"check": name}) is not None:
                    continue
                folder.check_place(own)
                edits = CHECKS[name].edit is not None and not CHECKS[name].afresh
                if done and edits and not (place / paths.SEARCH).is_file():
                    raise UsageError(
                        f"--sanity={name}: {place / paths.SEARCH} is not there; expected what the search left"
                    )

    processes.on_main(look)


def finish_checks(config: Config, run_folder: Path, names: Sequence[str]) -> list[Summary]:
    """The summaries of sanity checks of the finished run in `run_folder`, each in a folder of its own there.

    Raises:
      as `finish_tickets`.
    """
    summaries = []
    for name in names:
        place, fields = paths.check_folder(run_folder, name), fields_of(config) | {"check": name}
        summary = processes.on_main(functools.partial(folder.finished, place, fields))
        if summary is None:
            processes.on_main(functools.partial(folder.check_free, place))
            bench, check = _bench(without_free(config)), CHECKS[name]
            bench = bench._replace(config=dataclasses.replace(bench.config, keep="ticket"))  # rounds are of the run
            run = _search(bench, check) if check.edit is None else _edited(bench, check, run_folder)
            (summary,) = _make([bench], [run], [fields], name, [place])
        summaries.append(summary)
    return summaries


def _groups(configs: Sequence[Config]) -> list[list[int]]:
    """Which train at once, by their numbers; runs that train one by one are not looked at before their turn."""
    if grouping.at_once(configs[0], len(configs)) == 1:
        return [[i] for i in range(len(configs))]
    benches = _benches(configs, 1)
    return grouping.groups_of(configs[0], _searches(benches), benches[0].problem)


def _benches(configs: Sequence[Config], num_at_once: int) -> list[_Bench]:
    """The benches of runs, all on the devices of `num_at_once` runs at once."""
    if len(configs) == 1:
        return [_bench(without_free(configs[0]))]
    mesh = devices.mesh_for(configs[0], num_at_once)
    return [_bench_on(without_free(config), mesh) for config in configs]


@functools.lru_cache(maxsize=1)
def _bench(config: Config) -> _Bench:
    """Makes what a ticket and its checks share; `config` is that of `without_free`."""
    return _bench_on(config, devices.mesh_for(config))


def _bench_on(config: Config, mesh: Mesh | None) -> _Bench:
    problem, note = _problem(of_problem(config), mesh)
    last = last_kernel(problem.model, problem.image_shape) if config.replace_classifier else None
    begun = start(problem.model, config, last)
    layers = layers_of(problem.model, problem.image_shape, config)
    return _Bench(
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
    _tell_skipped(loaded.skipped)
    return loaded


def _tell_skipped(skipped: Sequence[str], most: int = 20) -> None:
    if skipped:
        progress.note(f"skipped {len(skipped)} broken images:")
        for line in skipped[:most]:
            progress.note(f"  {line}")
        if len(skipped) > most:
            progress.note(f"  and {len(skipped) - most} more; all are in {paths.SUMMARY}")


def _searches(benches: Sequence[_Bench]) -> list[Run]:
    """Makes the runs of benches. Those that differ in seeds alone get one recipe, which is compared once."""
    recipes: dict[Config, Recipe] = {}
    runs = []
    for bench in benches:
        run = _search(bench, None)
        recipe = recipes.setdefault(dataclasses.replace(bench.config, seed=0, data_seed=None), run.recipe)
        runs.append(run._replace(recipe=recipe))
    return runs


def _search(bench: _Bench, check: Check | None) -> Run:
    """The whole recipe; a check may invert its scores, or feed it other data until the finetuning."""
    config, problem = bench.config, bench.problem
    feed = problem.feed
    if check and check.corrupt:
        corrupted = check.corrupt(problem.data, config.seed)
        feed = make_feed(problem.data, corrupted, config, problem.skipped, problem.mesh)
    recipe = recipe_for(
        config,
        bench.ticket.mask,
        steps_per_epoch=feed.num_batches,
        finetune_steps=problem.feed.num_batches,
        loss=functools.partial(make_loss, problem.model, mesh=problem.norm_mesh),
        model=problem.model,
        image_shape=problem.image_shape,
        invert=bool(check and check.invert),
    )
    feeds = tuple(problem.feed if phase.name == "finetune" else feed for phase in recipe)
    title = f"{config.dataset} {config.pruner}" + (f", {check.what}" if check else "")
    return Run(
        title=title, recipe=recipe, ticket=bench.ticket, model_state=bench.model_state, key=run_key(config),
        feeds=feeds, data_key=data_key(config),
    )  # fmt: skip


def _edited(bench: _Bench, check: Check, run_folder: Path) -> Run:
    """An edit of the ticket found, then the same finetuning.

    A weight that the ticket's mask had removed comes back as it was when the network was last whole.
    """
    config, problem, ticket, state = bench.config, bench.problem, bench.ticket, bench.model_state
    assert check.edit is not None
    try:
        mask = ticket_file.load(run_folder / paths.TICKET, like=ticket).ticket.mask
    except ValueError as error:
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
    loss = functools.partial(make_loss, problem.model, mesh=problem.norm_mesh)
    finetuning = training_phase(config, problem.feed.num_batches, loss)
    edit = check.edit(weights_of(config))
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
    )


def _make(
    benches: Sequence[_Bench], runs: Sequence[Run], fields: Sequence[dict[str, Any]], name: str, places: Sequence[Path]
) -> list[Summary]:
    """The summaries of runs that train at once, each in its folder, which is claimed first."""
    problem, note = benches[0].problem, benches[0].note
    with contextlib.ExitStack() as claims:

        def claim() -> None:
            for place, own in zip(places, fields, strict=True):
                claims.enter_context(folder.claim(place, own))

        def write() -> list[Summary]:
            return [
                write_results(
                    place,
                    own,
                    name,
                    note,
                    problem.skipped,
                    result,
                    order=benches[0].layers.read + benches[0].layers.unread,
                    at_once=len(runs),
                )
                for place, own, result in zip(places, fields, results, strict=True)
            ]

        processes.on_main(claim)
        try:
            told = len(problem.skipped)
            results = train_together(runs, problem, places, [bench.config for bench in benches])
            _tell_skipped(problem.skipped[told:])
            return processes.on_main(write)
        except OSError as error:
            raise RunFailed(spell(error)) from error
