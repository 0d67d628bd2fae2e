"""`python -m experiments.evaluate WHAT`: the test accuracy of a ticket that is there, without a search."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from experiments.analyses.image_batches import image_batches
from experiments.catalog.datasets import DATASETS
from experiments.commands.export import finished_ticket
from experiments.config.config import Config
from experiments.config.data_flags import with_data_dir
from experiments.config.flags import read_flags
from experiments.config.saved import from_fields
from experiments.problem.data import load_data
from experiments.problem.evaluation import tops_of
from experiments.problem.initial_ticket import drawn
from experiments.problem.network import network_of
from experiments.problem.problem import Problem, make_problem
from experiments.run_folder import folder as run_folders
from experiments.run_folder import paths
from experiments.run_folder.summary import dataset_name
from experiments.terminal.errors import UsageError
from rare_gems import masks
from rare_gems.analysis.running_statistics import make_fresh_statistics
from rare_gems.phase import Mask, ModelState, Params
from rare_gems.storage import seed_file, ticket_file

__all__ = ["Evaluate", "evaluate"]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """The test accuracy of a ticket, measured again; nothing is searched or trained.

    Of a run folder: of the trained ticket, and of the weights that its finetuning began with, under the mask. Of a file
    of `experiments.export RUN --to=seed`: of the weights that its seed draws, under its mask.
    """

    ticket: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TICKET")]
    """a run folder or its ticket.safetensors, or a .json of experiments.export --to=seed"""
    data_dir: Path | None = None
    """where TFDS keeps its data sets, or where the images are, if not where the run found them"""
    fresh_statistics: int = 0
    """also with BatchNorm's statistics computed anew for these weights, from so many training images at most"""


class _Weights(NamedTuple):
    """Weights to be evaluated. noted: the accuracy that the run wrote down, if it did."""

    name: str
    params: Params
    state: ModelState
    mask: Mask
    noted: float | None


def evaluate(args: list[str]) -> None:
    """Does what the command line asks for.

    Raises:
      UsageError: for a mistake, and for a run that is not finished.
    """
    asked = read_flags(Evaluate, args, "python -m experiments.evaluate")
    if asked.fresh_statistics < 0:
        raise UsageError(f"--fresh-statistics: expected 1 or more training images, or 0, got {asked.fresh_statistics}")
    ticket = asked.ticket
    if ticket.name == paths.TICKET and ticket.is_file():  # of a run, whose configuration stands beside it
        ticket = ticket.parent
    read = _of_run if ticket.is_dir() else _of_seed
    config, weights = read(ticket, asked.data_dir)
    problem = _problem(config)
    if asked.fresh_statistics:
        weights = _with_fresh(config, problem, weights, asked.fresh_statistics)
    _report(Console(markup=False, emoji=False), config, problem, weights)


def _problem(config: Config) -> Problem:
    """The weights are there: the file of --pretrained, of which the problem has a fingerprint, need not be."""
    return make_problem(load_data(config), dataclasses.replace(config, pretrained=None))


def _with_fresh(config: Config, problem: Problem, weights: list[_Weights], num_images: int) -> list[_Weights]:
    """All of the weights, each followed by itself with statistics that belong to it."""
    refresh = make_fresh_statistics(problem.model.apply)
    batches = [images for images, _ in image_batches(problem.data, "train", num_images, config.batch_size)]
    found = []
    for each in weights:
        state = refresh(masks.apply(each.params, each.mask), each.state, batches)
        if all(new is old for new, old in zip(*map(jax.tree.leaves, (state, each.state)), strict=True)):
            raise UsageError(f"--fresh-statistics: expected a network with running statistics, got {config.model}")
        found += [each, each._replace(name=f"{each.name}, fresh statistics", state=state, noted=None)]
    return found


def _report(console: Console, config: Config, problem: Problem, weights: list[_Weights]) -> None:
    tops, test = tops_of(problem.data), problem.splits["test"]
    title = dataset_name(config.dataset, problem.data.note)
    table = Table(title=f"{config.model} on {title}: accuracy on the test set", box=None)
    table.title_justify = "left"
    for heading in (
        "weights",
        "kept",
        "sparsity",
        *("accuracy" if top == 1 else f"top {top}" for top in tops),
        "noted",
    ):
        table.add_column(heading)
    for each in weights:
        found = np.asarray(problem.ranked(jax.device_put(masks.apply(each.params, each.mask)), each.state, test))
        counts = f"{masks.num_kept(each.mask):,} of {masks.num_prunable(each.mask):,}"
        noted = "" if each.noted is None else f"{each.noted:.2%}"
        table.add_row(
            each.name, counts, f"{masks.sparsity(each.mask):.2%}", *(f"{value:.2%}" for value in found), noted
        )
    console.print(table)


def _of_run(folder: Path, data_dir: Path | None) -> tuple[Config, list[_Weights]]:
    finished_ticket(folder)
    config = with_data_dir(run_folders.read_config(folder)[0], data_dir)
    like, state = jax.eval_shape(lambda: drawn(network_of(config)[0], config))
    like = like._replace(scores=None)
    noted = _noted(folder / paths.SUMMARY)
    try:
        trained = ticket_file.load(folder / paths.TICKET, like=like, like_state=state)
        search = folder / paths.SEARCH
        found = ticket_file.load(search, like=like, like_state=state) if search.is_file() else None
    except ValueError as error:
        raise UsageError(f"{error}".replace("does not match `like`", "not of this network")) from None
    mask, before, after = trained.ticket.mask, noted.get("before_finetune"), noted.get("after_finetune")
    weights = []
    if found is not None:  # the mask of the end, which may be thinner than what the search left
        weights.append(_Weights("before finetuning", found.ticket.params, found.model_state, mask, before))
    if after is not None or found is None:
        weights.append(_Weights("trained", trained.ticket.params, trained.model_state, mask, after))
    return config, weights


def _of_seed(file: Path, data_dir: Path | None) -> tuple[Config, list[_Weights]]:
    if not file.is_file():
        raise UsageError(f"{file}: expected a run folder or a file of experiments.export --to=seed, got nothing there")
    try:
        entries = seed_file.read(file)
        config = with_data_dir(_configuration(entries.get("config"), file), data_dir)
        ticket, state = drawn(network_of(config)[0], config)
        found = seed_file.load(file, ticket.mask, params=ticket.params, like_state=state)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return config, [_Weights("as drawn, under the mask", ticket.params, found.model_state, found.mask, None)]


def _configuration(fields: Any, file: Path) -> Config:
    try:
        config = from_fields(fields)
        DATASETS[config.dataset]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{file}: expected the configuration of a run ({error})") from None
    return config


def _noted(summary: Path) -> dict[str, Any]:
    try:
        return json.loads(summary.read_text())["accuracy"]
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{summary}: expected the summary of a run, got something else") from None
