"""From a configuration to finished run folders: the ticket, and its sanity checks beside it."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments import config as configs
from experiments import devices, groups, hosts, outcome, plan, progress, records
from experiments.checks import CHECKS, Check
from experiments.config import Config, UsageError
from experiments.datasets import Loaded
from experiments.exits import spell
from experiments.methods import Setting, recipe_for, training_phase
from experiments.metrics import RunFailed
from experiments.problem import Problem, load_data, make_feed, make_loss, make_problem
from experiments.resuming import Job
from experiments.run import train_together
from experiments.starting import run_key, start_ticket
from rare_gems import ticket_io, transforms
from rare_gems.phase import ModelState, Recipe, Ticket, Transform

__all__ = ["check_recipes", "settle_checks", "settle_ticket", "settle_tickets"]


class _Lab(NamedTuple):
    """A configuration with its data and its start, made when first needed: a finished run needs neither. It is without
    what changes neither, so that ticket and checks share it."""

    dataset: str
    config: Config
    problem: Callable[[], tuple[Problem, str]]
    start: Callable[[], tuple[Ticket, ModelState]]


@functools.lru_cache(maxsize=1)
def _lab(dataset: str, config: Config) -> _Lab:
    return _lab_on(dataset, config, functools.cache(lambda: devices.mesh_for(config)))


def _lab_on(dataset: str, config: Config, mesh: Callable[[], Mesh | None]) -> _Lab:
    def problem() -> tuple[Problem, str]:
        return _problem(dataset, configs.of_problem(config), mesh())

    return _Lab(dataset, config, problem, functools.cache(lambda: start_ticket(problem()[0].model, config)))


@functools.lru_cache(maxsize=1)
def _problem(dataset: str, config: Config, mesh: Mesh | None) -> tuple[Problem, str]:
    """Shared by all runs on it, one after the other or at once; `config` is that of `configs.of_problem`."""
    loaded = _loaded(dataset, config)
    return make_problem(loaded, config, mesh), loaded.data.note


@functools.lru_cache(maxsize=1)
def _loaded(dataset: str, config: Config) -> Loaded:
    loaded = load_data(dataset, config)
    _tell_skipped(loaded.skipped)
    return loaded


def _tell_skipped(skipped: Sequence[str], most: int = 20) -> None:
    if skipped:
        progress.note(f"skipped {len(skipped)} broken images:")
        for line in skipped[:most]:
            progress.note(f"  {line}")
        if len(skipped) > most:
            progress.note(f"  and {len(skipped) - most} more; all are in summary.json")


def settle_ticket(dataset: str, config: Config, folder: Path) -> dict[str, Any]:
    """The summary of the ticket that `config` asks for, in its run folder: read if it is finished, else made.

    Raises:
      ValueError: for what the pruner, the data or the folder refuses, before anything is written.
    """
    lab = _lab(dataset, configs.without_free(config))
    return _settle(lab, configs.as_dict(dataset, config), config.pruner, folder, lambda: _search(lab, None))


def settle_tickets(dataset: str, configs_: Sequence[Config], folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The same for seeds and combinations of a sweep, as many of them at once as share a program and fit.

    Raises:
      as `settle_ticket`.
    """
    fields = [configs.as_dict(dataset, config) for config in configs_]
    pairs = list(zip(folders, fields, strict=True))
    summaries = hosts.on_main(lambda: [records.finished(folder, own) for folder, own in pairs])
    left: dict[Config, list[int]] = {}  # by what they train on
    for i, summary in enumerate(summaries):
        if summary is None:
            records.check_free(folders[i])
            left.setdefault(configs.of_problem(configs_[i]), []).append(i)
    for runs in left.values():
        for group in _groups(dataset, [configs_[i] for i in runs]):
            chosen = [runs[i] for i in group]
            own = [configs_[i] for i in chosen], [folders[i] for i in chosen]
            for i, summary in zip(chosen, _settle_group(dataset, *own), strict=True):
                summaries[i] = summary
    return [summary for summary in summaries if summary is not None]


def _groups(dataset: str, runs: Sequence[Config]) -> list[list[int]]:
    if groups.at_once(runs[0], len(runs)) == 1:
        return [[i] for i in range(len(runs))]
    labs = _labs(dataset, runs, 1)
    return groups.groups_of(runs[0], _searches(labs), labs[0].problem()[0])


def _settle_group(dataset: str, runs: Sequence[Config], folders: Sequence[Path]) -> list[dict[str, Any]]:
    if len(runs) == 1:
        return [settle_ticket(dataset, runs[0], folders[0])]
    labs = _labs(dataset, runs, len(runs))
    fields = [configs.as_dict(dataset, config) for config in runs]
    return _make(labs, _searches(labs), fields, runs[0].pruner, folders)


def _labs(dataset: str, runs: Sequence[Config], num_at_once: int) -> list[_Lab]:
    """One for each run, all on the devices of so many runs at once."""
    mesh = functools.cache(lambda: devices.mesh_for(runs[0], num_at_once))
    return [_lab_on(dataset, configs.without_free(config), mesh) for config in runs]


def _searches(labs: Sequence[_Lab]) -> list[Job]:
    """Their jobs; those that differ in the seed alone have one recipe, so that it is looked at once."""
    recipes: dict[Config, Recipe] = {}
    jobs = []
    for lab in labs:
        job = _search(lab, None)
        recipe = recipes.setdefault(dataclasses.replace(lab.config, seed=0), job.recipe)
        jobs.append(job._replace(recipe=recipe))
    return jobs


def settle_checks(dataset: str, config: Config, folder: Path, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The summaries of sanity checks of the finished run in `folder`, each in a folder of its own there."""
    lab = _lab(dataset, configs.without_free(config))
    summaries = []
    for name in names:
        check = CHECKS[name]
        make = functools.partial(_search, lab, check)
        if check.edit is not None:
            make = functools.partial(_edited, lab, check.what, check.edit, check.afresh, folder)
        fields = configs.as_dict(dataset, config) | {"check": name}
        summaries.append(_settle(lab, fields, name, folder / "sanity" / name, make))
    return summaries


def check_recipes(dataset: str, config: Config, names: tuple[str, ...]) -> None:
    """Raises UsageError for a check that would be refused once its turn comes, naming it."""
    for name in names:
        try:
            plan.recipe_of(dataset, config, CHECKS[name].share)
        except ValueError as error:
            raise UsageError(f"--sanity={name}: {error}") from None


def _search(lab: _Lab, check: Check | None) -> Job:
    """The whole recipe; a check may invert its scores, or feed it other data until the finetuning."""
    config, (problem, _) = lab.config, lab.problem()
    ticket, state = lab.start()
    feed = problem.feed
    if check and check.corrupt:
        feed = make_feed(problem.data, check.corrupt(problem.data, config), config, problem.skipped, problem.mesh)
    loss = functools.partial(make_loss, problem.model, mesh=problem.norm_mesh)
    setting = Setting(
        config, ticket.mask, feed.num_batches, problem.feed.num_batches, problem.image_shape,
        problem.model, loss, bool(check and check.invert),
    )  # fmt: skip
    recipe = recipe_for(setting)
    feeds = tuple(problem.feed if phase.name == "finetune" else feed for phase in recipe)
    title = f"{lab.dataset} {config.pruner}" + (f", {check.what}" if check else "")
    return Job(title, recipe, ticket, state, run_key(config), feeds)


def _edited(lab: _Lab, what: str, edit: Callable[[Config], Transform], afresh: bool, folder: Path) -> Job:
    """An edit of the ticket found, then the same finetuning.

    A weight that the ticket's mask had removed comes back as it was when the network was last whole.
    """
    config, (problem, _) = lab.config, lab.problem()
    ticket, state = lab.start()
    found = ticket_io.load(folder / "ticket.safetensors", like=ticket)
    mask = found.ticket.mask
    if afresh:
        begin = ticket._replace(mask=mask)
    else:
        search = ticket_io.load(folder / "search.safetensors", like=ticket, like_state=state)
        whole = jax.tree.map(
            lambda m, kept, w: kept if m is None else jnp.where(m, kept, w), mask, search.ticket.params, search.initial,
            is_leaf=lambda leaf: leaf is None,
        )  # fmt: skip
        begin, state = Ticket(whole, search.ticket.scores, mask), search.model_state
    finetuning = training_phase(config, problem.feed.num_batches)
    recipe = (transforms.edit(edit(config)), *([finetuning] if finetuning else []))
    title = f"{lab.dataset} {config.pruner}, {what}"
    return Job(title, recipe, begin, state, run_key(config), (problem.feed,) * len(recipe))


def _settle(lab: _Lab, fields: dict[str, Any], name: str, folder: Path, make_job: Callable[[], Job]) -> dict[str, Any]:
    """The summary of one run folder: read if it is finished, else made. Mistakes are found before it is touched."""
    summary = hosts.on_main(lambda: records.finished(folder, fields))
    if summary is not None:
        return summary
    hosts.on_main(lambda: records.check_free(folder))
    return _make([lab], [make_job()], [fields], name, [folder])[0]


def _make(
    labs: Sequence[_Lab], todo: Sequence[Job], fields: Sequence[dict[str, Any]], name: str, folders: Sequence[Path]
) -> list[dict[str, Any]]:
    """The summaries of runs that train at once, each in its folder, which is claimed first."""
    problem, note = labs[0].problem()
    with contextlib.ExitStack() as claims:

        def claim() -> None:
            for folder, own in zip(folders, fields, strict=True):
                claims.enter_context(records.claim(folder, own))

        def write() -> list[dict[str, Any]]:
            return [
                outcome.write(folder, own, name, note, problem.skipped, result, len(todo))
                for folder, own, result in zip(folders, fields, results, strict=True)
            ]

        hosts.on_main(claim)
        try:
            told = len(problem.skipped)
            results = train_together(todo, problem, folders, [lab.config for lab in labs])
            _tell_skipped(problem.skipped[told:])
            return hosts.on_main(write)
        except OSError as error:
            raise RunFailed(spell(error)) from error
