"""`python -m experiments.export RUN`: the ticket of a finished run as a file for another framework."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console

from experiments.commands.export_compact import image_shape, write_compact
from experiments.commands.export_formats import FORMATS, Exported
from experiments.commands.export_seed import write_seed
from experiments.config.flags import read_flags
from experiments.run_folder import paths
from experiments.terminal.errors import UsageError
from rare_gems import masks
from rare_gems.phase import Params, PyTree
from rare_gems.storage import ticket_file
from rare_gems.storage.atomic import write_whole
from rare_gems.storage.ticket_contents import on_host
from rare_gems.storage.ticket_file import TicketFile

__all__ = ["Export", "export", "finished_ticket"]

_SUFFIXES = {"compact": ".safetensors", "seed": ".json"}
_NAMES = {"compact": paths.COMPACT, "seed": paths.SEED}


@dataclasses.dataclass(frozen=True)
class Export:
    """Writes the ticket of a finished run as a file for another framework.

    - torch: a state dict as .safetensors, or as .pt (--output=ticket.pt), with the names of torchvision or of the usual
      CIFAR repositories.
    - numpy: an .npz of arrays params/..., state/... and mask/..., with our names.
    - flax: a .msgpack of params, state and mask, for flax.serialization.msgpack_restore.
    - keras-names: an .npz (or .safetensors) of arrays LAYER/kernel, LAYER/gamma, LAYER/moving_mean, ... as Keras 3
      names the variables of layers, and the masks as LAYER/kernel_mask.
    - compact: a smaller network with equal outputs, without the channels that cannot matter, as a ticket file for
      rare_gems.models.compact_file; it says what that saves in parameters, operations and time.
    - seed: some kilobytes: the seed of the initial weights, the bits of the mask, the statistics. Evaluate it with
      python -m experiments.evaluate FILE.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """a run folder, or a ticket.safetensors"""
    to: Literal["torch", "numpy", "flax", "keras-names", "compact", "seed"]
    """whose file it is to be"""
    weights: Literal["trained", "initial"] | None = None
    """trained, after finetuning, which is usual; or initial, those that it began with (the winning ticket), as seed has
    them always"""
    masks: Literal["zeros", "prune"] = "zeros"
    """removed weights are zeros; or (torch) weight_orig and weight_mask, as torch.nn.utils.prune has them"""
    fill: bool = False
    """(torch) also write BatchNorm scales of one, and biases of zero, that our network does not have"""
    output: Path | None = None
    """the file; by default export.safetensors, .npz or .msgpack, compact.safetensors or seed.json, in the run folder"""
    overwrite: bool = False
    """replace the file if there is one"""


def export(args: list[str]) -> None:
    """Does what the command line asks for.

    Raises:
      UsageError: for a mistake, and for a run that is not finished.
    """
    asked = read_flags(Export, args, "python -m experiments.export")
    suffixes = [_SUFFIXES[asked.to]] if asked.to in _SUFFIXES else list(FORMATS[asked.to].files)
    for name, value in (("masks", asked.masks == "prune"), ("fill", asked.fill)):
        if value and asked.to != "torch":
            raise UsageError(f"--{name}: of --to=torch; expected no such flag with --to={asked.to}")
    file = finished_ticket(asked.run)
    output = _output(asked, file, suffixes)
    found = ticket_file.load(file)
    usual = "initial" if asked.to == "seed" else "trained"
    weights = asked.weights or usual
    if asked.to == "seed" and weights != usual:
        raise UsageError("--weights: a seed draws initial weights; expected no such flag with --to=seed")
    params, state = (found.ticket.params, found.model_state) if weights == "trained" else _initial(file, found)
    if asked.masks == "zeros":
        params = jax.tree.map(on_host, masks.apply(params, found.ticket.mask))
    what = Exported(
        model=_model(file, found), params=params, state=state, mask=found.ticket.mask,
        prune=asked.masks == "prune", fill=asked.fill,
    )  # fmt: skip
    told = (
        write_seed(output, file.parent, found, state) if asked.to == "seed" else _written(asked.to, what, output, file)
    )
    kept, size = found.metadata["num_kept"], found.metadata["num_prunable"]
    console = Console()
    for line in (
        f"{output}: {_whose(file, weights)}, {kept:,} of {size:,} prunable ones kept ({1 - kept / size:.2%} removed)",
        *_scaling(file.parent),
        *told,
    ):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _model(file: Path, found: TicketFile) -> str:
    """The network's name; what a search or a round left does not say it, but the run beside it does."""
    config = paths.folder_of(file) / paths.CONFIG
    if "model" in found.metadata or not config.is_file():
        return str(found.metadata.get("model"))
    return str(json.loads(config.read_text()).get("model"))


def _whose(file: Path, weights: str) -> str:
    """What the weights are: those of a ticket that a search found, or of a round, are not finetuned yet."""
    return f"weights of {file.name}" if weights == "trained" and file.name != paths.TICKET else f"{weights} weights"


def _written(to: str, what: Exported, output: Path, file: Path) -> list[str]:
    """Writes the file; what is to be told of it."""
    if to == "compact":
        told = write_compact(output, what, image_shape(file.parent))
        load = 'rare_gems.models.compact_file.load_compact("FILE")'
    else:
        arrays, line = FORMATS[to].arrays(what)
        write, load = FORMATS[to].files[output.suffix]
        write_whole(output, write(arrays))
        told = [line]
    return [*told, f"to load it: {load.replace('FILE', output.name)}"]


def _scaling(folder: Path) -> list[str]:
    """How the network wants its images, if that stands beside the ticket; older runs do not say it."""
    summary = json.loads((folder / paths.SUMMARY).read_text()) if (folder / paths.SUMMARY).is_file() else {}
    if "pixels" not in summary:
        return []
    mean, std = ([round(value, 4) for value in summary["pixels"][name]] for name in ("mean", "std"))
    if set(mean) == {0.0} and set(std) == {1.0}:
        return ["images for it: pixel values in [0, 1]"]
    return [f"images for it: (pixels in [0, 1] - {mean}) / {std}, a number for each channel"]


def finished_ticket(path: Path) -> Path:
    """The ticket of a finished run: a file as it is, or that of a run folder.

    Raises:
      UsageError: for what is neither.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise UsageError(f"{path}: expected a run folder or a {paths.TICKET}, got nothing there")
    if not (path / paths.CONFIG).is_file():
        runs = sorted(config.parent.name for config in path.glob(f"{paths.SEEDS}/{paths.CONFIG}"))
        one = f"; expected one of the runs in it, such as {path / runs[0]}" if runs else ", with a config.json"
        raise UsageError(f"{path}: {'a folder of several runs' if runs else 'expected a run folder'}{one}")
    for name in (paths.TICKET, paths.SUMMARY):
        if not (path / name).is_file():
            raise UsageError(f"{path}: expected a finished run, got one without {name}; finish it first")
    return path / paths.TICKET


def _output(asked: Export, file: Path, suffixes: list[str]) -> Path:
    output = asked.output or file.with_name(f"{_NAMES.get(asked.to, paths.EXPORT)}{suffixes[0]}")
    if output.suffix not in suffixes:
        raise UsageError(f"--output: expected a file that ends in {' or '.join(suffixes)}, got {output}")
    if output.is_dir() or (output.exists() and output.resolve() == file.resolve()):
        raise UsageError(f"--output: expected another file, got {output}")
    if output.exists() and not asked.overwrite:
        raise UsageError(f"--output: {output} is there already; expected another file, or --overwrite")
    return output


def _initial(file: Path, found: TicketFile) -> tuple[Params, PyTree]:
    """The weights that the finetuning began with, and the statistics that it did: those of the search, or fresh."""
    if found.initial is None:
        raise UsageError(f"--weights=initial: {file} has no initial weights; expected the ticket of a run")
    search = file.with_name(paths.SEARCH)
    if search.is_file():
        return found.initial, ticket_file.load(search).model_state
    fresh = {"mean": np.zeros_like, "var": np.ones_like}
    config = file.with_name(paths.CONFIG)
    pretrained = config.is_file() and json.loads(config.read_text()).get("pretrained")

    def begun(path: tuple, leaf: Any) -> Any:
        name = masks.path_name(path).rpartition("/")[2]
        if pretrained or name not in fresh:
            raise UsageError(f"--weights=initial: {file} has no initial state, and there is no {paths.SEARCH} with it")
        return fresh[name](leaf)

    return found.initial, jax.tree_util.tree_map_with_path(begun, found.model_state)
