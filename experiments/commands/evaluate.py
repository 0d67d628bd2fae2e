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

from experiments.catalog.networks import input_shape
from experiments.config.config import Config
from experiments.config.parse import read_flags
from experiments.config.saved import from_fields
from experiments.problem.data import facts_of, load_data
from experiments.problem.evaluation import tops_of
from experiments.problem.initial_ticket import drawn
from experiments.problem.network import network_for
from experiments.problem.problem import Problem, make_problem
from experiments.run_folder import folder as run_folders
from experiments.run_folder import paths
from experiments.run_folder.summary import dataset_name
from experiments.terminal.errors import UsageError
from rare_gems import masks
from rare_gems.models.model import Model
from rare_gems.phase import Mask, ModelState, Params
from rare_gems.storage import seed_file, ticket_file

__all__ = ["Evaluate", "evaluate"]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """The test accuracy of a ticket, measured again; nothing is searched or trained.

    Of a run folder: of the trained ticket, and of its initial weights under the mask. Of a file of
    `experiments.export RUN --to=seed`: of the weights that its seed draws, under its mask.
    """

    ticket: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TICKET")]
    """a run folder, or a .json of experiments.export --to=seed"""
    data_dir: Path | None = None
    """where TFDS keeps its data sets, or where the images are, if not where the run found them"""


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
    read = _of_run if asked.ticket.is_dir() else _of_seed
    config, weights = read(asked.ticket, asked.data_dir)
    _report(Console(markup=False, emoji=False), config, make_problem(load_data(config), config), weights)


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
    for name in (paths.CONFIG, paths.TICKET, paths.SUMMARY):
        if not (folder / name).is_file():
            raise UsageError(f"{folder}: expected a finished run, got one without {name}")
    config = _configuration(
        {k: v for k, v in run_folders.read_fields(folder).items() if k != "check"}, folder, data_dir
    )
    like, state = jax.eval_shape(lambda: drawn(_network(config), config))
    noted = _noted(folder / paths.SUMMARY)
    weights = []
    for file, name in ((paths.SEARCH, "initial, under the mask"), (paths.TICKET, "trained")):
        if not (folder / file).is_file():
            continue
        try:
            found = ticket_file.load(folder / file, like=like._replace(scores=None), like_state=state)
        except ValueError as error:
            raise UsageError(f"{error}".replace("does not match `like`", "not of this network")) from None
        value = noted.get("after_finetune" if file == paths.TICKET else "before_finetune")
        value = noted.get("before_finetune") if value is None else value  # nothing was finetuned
        weights.append(_Weights(name, found.ticket.params, found.model_state, found.ticket.mask, value))
    return config, weights


def _of_seed(file: Path, data_dir: Path | None) -> tuple[Config, list[_Weights]]:
    if not file.is_file():
        raise UsageError(f"{file}: expected a run folder or a file of experiments.export --to=seed, got nothing there")
    try:
        entries = seed_file.read(file)
        config = _configuration(entries.get("config"), file, data_dir)
        ticket, state = drawn(_network(config), config)
        found = seed_file.load(file, ticket.mask, params=ticket.params, like_state=state)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return config, [_Weights("as drawn, under the mask", ticket.params, found.model_state, found.mask, None)]


def _configuration(fields: Any, where: Path, data_dir: Path | None) -> Config:
    try:
        config = from_fields(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{where}: expected the configuration of a run ({error})") from None
    return config if data_dir is None else dataclasses.replace(config, data_dir=data_dir)


def _network(config: Config) -> Model:
    facts = facts_of(config)
    return network_for(config, input_shape(config.model, facts.image_shape), facts.num_classes)


def _noted(summary: Path) -> dict[str, Any]:
    try:
        return json.loads(summary.read_text())["accuracy"]
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{summary}: expected the summary of a run, got something else") from None
