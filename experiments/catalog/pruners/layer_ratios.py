"""Methods that decide how much of each layer is kept, and draw the rest or take the largest weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from experiments.catalog.pruners.options import options_of
from experiments.catalog.pruners.pruner import Pruner, Setting
from experiments.terminal.errors import UsageError
from rare_gems import keep_ratios, masks
from rare_gems.phase import Mask, Recipe
from rare_gems.pruners.hybrid import hybrid
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.pruners.random_mask import random, random_ticket
from rare_gems.pruners.smart_ratio import smart_ratio
from rare_gems.storage import ticket_file

__all__ = ["ROWS"]

_Version = Literal["v1", "v2", "v3", "v4", "v5", "v6"]
_TUNED = ("v5", "v6")  # by SGD, for --epochs
_TAKEN_BY = {
    "candidates": ("v4", "v6"), "radius": ("v4", "v6"), "candidate_steps": ("v4", "v6"), "exact": ("v1", "v2", "v3"),
    "linear": ("v1", "v2", "v3", "v5"), "family": ("v1", "v2", "v3", "v5"), "decay": ("v1", "v2", "v3", "v5"),
}  # fmt: skip


def _none(s: Setting) -> Recipe:
    """No options."""
    del s
    return ()


def _at_ratios(s: Setting, counts: Callable[[Mask, int], Any]) -> Recipe:
    tree = counts(s.mask, masks.count_for(masks.num_prunable(s.mask), s.sparsity))
    return random_ticket(s.mask, tree, finetune=s.finetune)


def _copied(s: Setting, *, ticket: Path | None = None) -> Recipe:
    """A random ticket with the layer ratios of another.

    Args:
      ticket: a ticket.safetensors, or a run folder
    """
    if ticket is None:
        raise UsageError("--copied-ratios.ticket: expected a ticket.safetensors or a run folder, got none")
    try:
        counts = _ticket_counts(ticket)
        return _at_ratios(s, lambda mask, count: keep_ratios.copied(mask, count, counts))
    except ValueError as error:
        raise UsageError(f"--copied-ratios.ticket: {ticket}: {error}") from None


def _ticket_counts(path: Path) -> dict[str, tuple[int, int]]:
    """Per layer: name -> (kept, prunable), from a ticket file or the one of a run folder."""
    file = ticket_file.find(path)
    if file is None:
        raise UsageError(f"expected a ticket.safetensors or the folder of a finished run, got {path}")
    layers = ticket_file.load(file).metadata["layers"]
    return {layer["name"]: (layer["num_kept"], layer["num_prunable"]) for layer in layers}


def _smart_ratio(s: Setting, *, version: _Version = "v1", ticket: Path | None = None, **options: Any) -> Recipe:
    """Smart ratios, of which some versions start from the ratios of another ticket.

    Args:
      version: v1: Su et al.; v2, v3: other first and last layers; v4: a search near IMP's ratios; v5, v6: SGD on v2, v4
      ticket: v2, v5: a GEM-MINER ticket that gives the first and last ratio; v4, v6: an IMP ticket that gives all
    """
    if ticket is None and version in ("v4", "v6"):
        raise UsageError(
            f"--smart-ratio.ticket: {version} starts from IMP's ratios; expected a ticket of imp, got none"
        )
    if ticket is not None and version in ("v1", "v3"):
        raise UsageError(f"--smart-ratio.ticket: {version} takes no ratios from elsewhere; expected v2, v4, v5 or v6")
    order = s.order
    if ticket is not None:
        try:
            counts = _ticket_counts(ticket)
            whole = masks.num_prunable(s.mask)
            keep_ratios.copied(s.mask, masks.count_for(whole, s.sparsity), counts)  # refuses another network
        except ValueError as error:
            raise UsageError(f"--smart-ratio.ticket: {ticket}: {error}") from None
        ratios = {name: kept / size for name, (kept, size) in counts.items()}
        ends = ratios[order[0]], ratios[order[-1]]
        options |= {"ends": ends} if version in ("v2", "v5") else {"ratios": ratios}
    training = {k: v for k, v in s.search.items() if k != "momentum"} if version in ("v4", *_TUNED) else s.common
    try:
        return smart_ratio(s.mask, version=version, order=order, **training | options)
    except ValueError as error:
        flag = "--smart-ratio.ticket=RUN, of gem_miner on this network"
        raise ValueError(str(error).replace("ends=(first, last)", flag)) from None


def _other_version(options: Any, name: str) -> str | None:
    taking = _TAKEN_BY.get(name, (options.version,))
    if options.version in taking:
        return None
    return f"smart ratio {options.version} has no such option; expected version {', '.join(taking)}"


def _hybrid(s: Setting, **options: Any) -> Recipe:
    training = finetune(
        num_epochs=s.num_epochs, steps_per_epoch=s.steps_per_epoch, learning_rate=s.learning_rate,
        momentum=s.momentum, weight_decay=s.weight_decay, name="search", descent=s.descent, loss_fn=s.weights_loss,
    )  # fmt: skip
    return hybrid(s.mask, training=training, order=s.order, **s.common | options | s.inverted)


_SMART_GIVEN = ("sparsity", "num_epochs", "steps_per_epoch", "learning_rate", "momentum", "seed")

ROWS = {
    "random": Pruner(
        what="a random mask of the network, or of each layer at equal ratios",
        make=lambda s, **options: random(s.mask, **s.common | options),
        options=options_of("random", random, without=("sparsity",)), reads_data=False,
    ),
    "uniform": Pruner(
        what="random masks at equal layer ratios",
        make=lambda s: _at_ratios(s, keep_ratios.uniform), options=options_of("uniform", _none), reads_data=False,
    ),
    "erk": Pruner(
        what="random masks at Erdos-Renyi-kernel layer ratios",
        make=lambda s: _at_ratios(s, keep_ratios.erk), options=options_of("erk", _none), reads_data=False,
    ),
    "copied_ratios": Pruner(
        what="random masks at the layer ratios of another ticket",
        make=_copied, options=options_of("copied_ratios", _copied), reads_data=False,
    ),
    "smart_ratio": Pruner(
        what="random masks at Su et al.'s layer ratios (v1), or v2 to v6 of Rare Gems",
        make=_smart_ratio,
        options=options_of("smart_ratio", _smart_ratio, smart_ratio, without=_SMART_GIVEN),
        reads_data=lambda options: options.version in ("v4", *_TUNED), with_momentum=lambda options: False,
        length=lambda options: options.version in _TUNED, why_idle=_other_version,
    ),
    "hybrid": Pruner(
        what="trains, keeps the largest weights at smart ratios, trains on (Sanity-Checking Pruning)",
        make=_hybrid,
        options=options_of("hybrid", hybrid, without=("sparsity", "version", "exact", "invert")),
        trains="weights", length="epochs", invertible=True, keeps_rounds=True,
    ),
}  # fmt: skip
