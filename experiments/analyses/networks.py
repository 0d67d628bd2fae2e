"""The trained networks in run folders: the tickets of finished runs, and the rounds that they kept."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.config.config import Config
from experiments.run_folder import folder as run_folders
from experiments.run_folder import paths
from experiments.terminal.errors import UsageError
from rare_gems.phase import Mask, ModelState, Params
from rare_gems.storage import ticket_file

__all__ = ["Network", "check_alike", "networks_of", "whole_rounds"]

# What decides network and data.
_ALIKE = (
    "dataset", "model", "network", "image_size", "normalize", "train_examples", "validation_examples", "prunable",
    "dense",
)  # fmt: skip


class Network(NamedTuple):
    """A trained network. name: in tables. check: the sanity check that trained it, or None. round: of the search that
    trained it, or None for the ticket. params, mask, state: as trained, in nested dicts of NumPy arrays. initial: what
    its training began with; weights that the mask removes may be anything. layers: the names, from first to last."""

    name: str
    folder: Path
    config: Config
    check: str | None
    round: int | None
    params: Params
    mask: Mask
    state: ModelState
    initial: Params
    layers: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is removed of it."""
        return all(leaf.all() for leaf in _leaves(self.mask))


def networks_of(places: Sequence[Path], *, rounds: bool = False) -> list[Network]:
    """The tickets of runs, and with `rounds` the networks that their rounds trained, in the order given.

    Args:
      places: run folders, folders of run folders (seeds, a sweep, a comparison), or files of rounds.
    Raises:
      UsageError: for what is none of these, a network that is given twice, runs that are not finished or kept no
        rounds, and runs of different networks or data.
    """
    chosen: list[tuple[Path, int | None]] = []
    given: dict[tuple[Path, int | None], Path] = {}
    for place in places:
        for folder, number in _runs(place):
            numbers: list[int | None] = [number]
            if rounds and number is None:
                numbers = [*(n for n in paths.round_files(folder) if n > 0), None]
            for n in numbers:
                if before := given.get((folder.resolve(), n)):
                    what = folder if n is None else f"round {n} of {folder}"
                    raise UsageError(f"expected each run once, got {what} twice, by {before} and by {place}")
                given[folder.resolve(), n] = place
                chosen.append((folder, n))
    if rounds and all(number is None for _, number in chosen):
        told = ", ".join(str(folder) for folder, _ in chosen[:3])
        raise UsageError(f"--rounds: expected a run with --keep=rounds, got {told} without the networks of its rounds")
    names = _names([folder for folder, _ in chosen])
    found = [_network(names[folder], folder, number) for folder, number in chosen]
    check_alike(found)
    return found


def whole_rounds(networks: Sequence[Network]) -> list[Network]:
    """The whole networks that the first rounds of these runs trained, where kept and not there already."""
    there = {(network.folder, network.round) for network in networks}
    folders = dict.fromkeys(network.folder for network in networks)
    left = [folder for folder in folders if (folder, 1) not in there and 1 in paths.round_files(folder)]
    names = {network.folder: network.name.partition(", round")[0] for network in networks}
    return [_network(names[folder], folder, 1) for folder in left]


def check_alike(networks: Sequence[Network]) -> None:
    """Raises UsageError for runs of different networks or data, naming what they differ in."""
    first = networks[0]
    for network in networks[1:]:
        for name in (*_ALIKE, *(("data_dir",) if first.config.data.is_folder else ())):
            here, there = vars(network.config)[name], vars(first.config)[name]
            if here != there:
                told = "network" if name in ("model", "network", "prunable", "dense") else "data"
                raise UsageError(f"{network.folder}: expected a run of the {told} of {first.folder}, with {name} "
                                 f"{there}, got {here}")  # fmt: skip


def _runs(place: Path) -> list[tuple[Path, int | None]]:
    """The run folders, with the number of a round where a file names one."""
    if place.is_file():
        folder = paths.folder_of(place)
        number = next((n for n, file in paths.round_files(folder).items() if file == place), None)
        if (number is None and place.name != paths.TICKET) or number == 0:
            wanted = f"a run folder, or a file of {paths.ROUNDS}/ from 01 on"
            raise UsageError(f"{place}: expected {wanted}, got another file")
        _check_finished(folder)
        return [(folder, number)]
    if not place.is_dir():
        raise UsageError(f"{place}: expected a run folder, got nothing there")
    folders = [place] if (place / paths.CONFIG).is_file() else sorted(
        file.parent for file in place.rglob(paths.CONFIG) if paths.SANITY not in file.relative_to(place).parts
    )  # fmt: skip
    if not folders:
        raise UsageError(f"{place}: expected a run folder, with a {paths.CONFIG}, or a folder of such")
    for folder in folders:
        _check_finished(folder)
    return [(folder, None) for folder in folders]


def _check_finished(folder: Path) -> None:
    for name in (paths.CONFIG, paths.TICKET, paths.SUMMARY):
        if not (folder / name).is_file():
            raise UsageError(f"{folder}: expected a finished run, got one without {name}; finish it first")


def _network(name: str, folder: Path, number: int | None) -> Network:
    config, check = run_folders.read_config(folder)
    layers = _layers(folder / paths.SUMMARY)
    if number is None:
        file = ticket_file.load(folder / paths.TICKET)
        initial = file.initial
    else:
        file = ticket_file.load(paths.round_file(folder, number))
        before = number - 1 if config.method.rewinds is None else 0
        initial = ticket_file.load(paths.round_file(folder, before)).ticket.params
    return Network(
        name=name if number is None else f"{name}, round {number}", folder=folder, config=config, check=check,
        round=number, params=file.ticket.params, mask=file.ticket.mask, state=file.model_state, initial=initial,
        layers=layers,
    )  # fmt: skip


def _layers(summary: Path) -> tuple[str, ...]:
    try:
        return tuple(layer["name"] for layer in json.loads(summary.read_text())["layers"])
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{summary}: expected the summary of a run, got something else") from None


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """Folders without what all have in common."""
    whole = {folder: folder.absolute() for folder in folders}
    base = os.path.commonpath([path.parent for path in whole.values()])
    return {folder: os.path.relpath(path, base) for folder, path in whole.items()}


def _leaves(tree: Any) -> list[np.ndarray]:
    if isinstance(tree, dict):
        return [leaf for child in tree.values() for leaf in _leaves(child)]
    return [] if tree is None else [np.asarray(tree)]
