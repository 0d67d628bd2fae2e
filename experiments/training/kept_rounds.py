"""--keep=rounds: the networks that the rounds of a search trained, each as a ticket file in the run folder."""

from pathlib import Path
from typing import Any

from experiments.run_folder import paths
from experiments.training.run import Run
from rare_gems import transforms
from rare_gems.phase import ModelState, Phase, Recipe, Ticket
from rare_gems.storage import ticket_file
from rare_gems.training.trainer import Moment

__all__ = ["is_round", "keep_phase", "rounds_in"]


def is_round(phase: Phase) -> bool:
    """Whether a phase of a search trains weights under one mask, and makes another of it at its end."""
    trains = phase.trains == "params" and phase.num_steps > 0 and phase.name != "finetune"
    still = phase.during is transforms.identity() and phase.rounds is None
    return trains and still and phase.after is not transforms.identity()


def rounds_in(recipe: Recipe) -> list[int]:
    """The phases that are rounds, by their places in the recipe."""
    return [i for i, phase in enumerate(recipe) if is_round(phase)]


def keep_phase(folder: Path, run: Run, moment: Moment, metadata: dict[str, Any]) -> None:
    """Writes what the end of a phase leaves to keep, whole or not at all: the weights that a round trained under its
    mask, and, once, what the first round began with.

    Args:
      moment: of the phase's end, of this run alone. metadata: of the headers; the round's number is added.
    """
    rounds = rounds_in(run.recipe)
    if not rounds or moment.index > rounds[-1]:
        return
    if rounds[0] == 0 == moment.index:
        _save(folder, 0, run.ticket, run.model_state, metadata)
    elif moment.index == rounds[0] - 1:
        _save(folder, 0, moment.ticket, moment.model_state, metadata)
    if moment.index in rounds:
        _save(folder, 1 + rounds.index(moment.index), moment.carry.ticket, moment.carry.model_state, metadata)


def _save(folder: Path, number: int, ticket: Ticket, state: ModelState, metadata: dict[str, Any]) -> None:
    file = paths.round_file(folder, number)
    ticket_file.save(file, ticket, metadata=metadata | {"round": number}, model_state=state, with_scores=False)
