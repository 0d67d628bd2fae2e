"""From a configuration to finished run folders: the ticket, and its sanity checks beside it."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import config as configs
from experiments import outcome, plan, progress, records
from experiments.checks import CHECKS, Check
from experiments.config import Config, UsageError
from experiments.exits import spell
from experiments.methods import Setting, recipe_for, training_phase
from experiments.metrics import RunFailed
from experiments.problem import Problem, load_data, make_feed, make_loss, make_problem
from experiments.resuming import Job
from experiments.run import train_together
from experiments.starting import run_key, start_ticket
from rare_gems import ticket_io, transforms
from rare_gems.feeds import Stream
from rare_gems.phase import ModelState, Ticket, Transform

__all__ = ["at_once", "check_recipes", "settle_checks", "settle_ticket", "settle_tickets"]


class _Lab(NamedTuple):
    """A configuration with its data and its start, made when first needed: a finished run needs neither. It is without
    what changes neither, so that ticket and checks share it."""

    dataset: str
    config: Config
    problem: Callable[[], tuple[Problem, str]]
    start: Callable[[], tuple[Ticket, ModelState]]


@functools.lru_cache(maxsize=1)
def _lab(dataset: str, config: Config) -> _Lab:
    @functools.cache
    def problem() -> tuple[Problem, str]:
        loaded = load_data(dataset, config)
        _tell_skipped(loaded.skipped)
        return make_problem(loaded, config), loaded.data.note

    return _Lab(dataset, config, problem, functools.cache(lambda: start_ticket(problem()[0].model, config)))


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
    """The same for several seeds of one configuration, as many of them at once as it says.

    Raises:
      as `settle_ticket`.
    """
    fields = [configs.as_dict(dataset, config) for config in configs_]
    summaries = [records.finished(folder, own) for folder, own in zip(folders, fields, strict=True)]
    left = [i for i, summary in enumerate(summaries) if summary is None]
    size = at_once(configs_[0], len(left))
    for first in range(0, len(left), size):
        group = left[first : first + size]
        if len(group) == 1:
            summaries[group[0]] = settle_ticket(dataset, configs_[group[0]], folders[group[0]])
            continue
        made = _train_group(dataset, [configs_[i] for i in group], [folders[i] for i in group])
        for i, summary in zip(group, made, strict=True):
            summaries[i] = summary
    return [summary for summary in summaries if summary is not None]


def at_once(config: Config, num_runs: int) -> int:
    """How many of so many runs train at once: seeds whose training images differ, and streams, one by one."""
    if config.at_once is not None:
        return config.at_once
    alone = config.train_examples or config.validation_examples or config.stream or jax.default_backend() == "cpu"
    return 1 if alone else max(1, num_runs)


def _train_group(dataset: str, group: Sequence[Config], folders: Sequence[Path]) -> list[dict[str, Any]]:
    labs = [_lab(dataset, configs.without_free(group[0]))]
    problem, _ = labs[0].problem()
    for config in group[1:]:
        start = functools.partial(start_ticket, problem.model, config)
        labs.append(labs[0]._replace(config=configs.without_free(config), start=start))
    for folder in folders:
        records.check_free(folder)
    todo = [_search(lab, None) for lab in labs]
    if any(isinstance(feed, Stream) for feed in todo[0].feeds):
        return [settle_ticket(dataset, config, folder) for config, folder in zip(group, folders, strict=True)]
    fields = [configs.as_dict(dataset, config) for config in group]
    return _make(labs[0], todo, fields, group[0].pruner, folders)


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
        feed = make_feed(problem.data, check.corrupt(problem.data, config), config, problem.skipped)
    setting = Setting(
        config, ticket.mask, feed.num_batches, problem.feed.num_batches, problem.image_shape,
        problem.model, functools.partial(make_loss, problem.model), bool(check and check.invert),
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
    summary = records.finished(folder, fields)
    if summary is not None:
        return summary
    records.check_free(folder)
    return _make(lab, [make_job()], [fields], name, [folder])[0]


def _make(
    lab: _Lab, todo: Sequence[Job], fields: Sequence[dict[str, Any]], name: str, folders: Sequence[Path]
) -> list[dict[str, Any]]:
    """The summaries of runs that train at once, each in its folder, which is claimed first."""
    problem, note = lab.problem()
    with contextlib.ExitStack() as claims:
        for folder, own in zip(folders, fields, strict=True):
            claims.enter_context(records.claim(folder, own))
        try:
            told = len(problem.skipped)
            results = train_together(todo, problem, folders, lab.config)
            _tell_skipped(problem.skipped[told:])
            return [
                outcome.write(folder, own, name, note, problem.skipped, result, len(todo))
                for folder, own, result in zip(folders, fields, results, strict=True)
            ]
        except OSError as error:
            raise RunFailed(spell(error)) from error
