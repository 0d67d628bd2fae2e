"""What a run begins with that trains the ticket of another run again."""

from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.config.config import Config
from experiments.run_folder import folder as run_folders
from experiments.run_folder import paths
from experiments.terminal.errors import UsageError
from rare_gems.phase import ModelState, Ticket
from rare_gems.storage import ticket_file

__all__ = ["check_source", "found_ticket", "of_network", "other_pixels", "rewound_to", "source_of"]


def source_of(config: Config) -> Config | None:
    """The configuration of the run that found the ticket of this one; None where it finds its own, and where that run
    is not there (yet).

    Raises:
      UsageError: if its configuration cannot be read.
    """
    begins = config.method.begins
    run: Path | None = begins(config.options) if begins else None
    try:
        return None if run is None else run_folders.read_config(run)[0]
    except OSError:
        return None


def check_source(config: Config, folder: Path) -> None:
    """Raises UsageError if the run that found the ticket of the run in `folder` is gone, so that it cannot be asked."""
    if config.method.begins is not None and source_of(config) is None:
        run = config.method.begins(config.options)
        raise UsageError(
            f"{folder}: trains the ticket of {run}, and no run is there; expected it, or the command in the folder "
            "from which that name leads to it"
        )


def rewound_to(config: Config) -> int:
    """The step whose weights a ticket begins with, 0 for the initial ones; a ticket of another run says that of it."""
    found = source_of(config) or config
    rewinds = found.method.rewinds
    return 0 if rewinds is None else max(0, rewinds(found.options))


def other_pixels(config: Config, run: Path) -> tuple[str, ...]:
    """What is to be told where the run that this one begins with scaled its images in another way; nothing where it did
    not, or where its folder does not say."""
    try:
        normalized = run_folders.read_fields(run).get("normalize", True)
    except (OSError, ValueError, AttributeError):
        return ()
    if normalized == config.normalize:
        return ()
    theirs, ours = ("normalized", "in [0, 1]") if normalized else ("in [0, 1]", "normalized")
    flag = "--normalize" if normalized else "--no-normalize"
    return (f"{run} was trained on pixels that are {theirs}, here they are {ours}; {flag} has them as there",)


def of_network(error: ValueError, model: str) -> str:
    """What is said of a ticket file that does not fit a network, in the words of who types commands."""
    return str(error).replace("does not match `like`", f"expected a network like {model} here, got another")


def found_ticket(config: Config, run: Path, ticket: Ticket, state: ModelState) -> tuple[Ticket, ModelState]:
    """What the search of another run left: its weights, its statistics, and, where the mask has removed a weight, that
    of when the network was last whole; so that other masks of it can be tried.

    Args:
      run: the run folder, as an option names it. ticket, state: drawn for this run, for their structure, scores and
        mask.
    Raises:
      UsageError: if the folder has no such file, or one of another network.
    """
    file, flag = run / paths.SEARCH, f"--{config.pruner}.run"
    if not file.is_file():
        raise UsageError(f"{flag}: expected a run folder with the {paths.SEARCH} that its search left, got {run}")
    try:
        search = ticket_file.load(file, like=ticket._replace(scores=None), like_state=state)
    except ValueError as error:
        raise UsageError(f"{flag}: {of_network(error, config.model)}") from None
    found, whole = search.ticket, search.ticket.params if search.initial is None else search.initial
    params = jax.tree.map(
        lambda m, kept, w: kept if m is None else jnp.where(m, kept, w), found.mask, found.params, whole,
        is_leaf=lambda leaf: leaf is None,
    )  # fmt: skip
    return ticket._replace(params=params), search.model_state
