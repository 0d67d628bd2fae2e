"""Every pruner that `--pruner` names: how its recipe is made, and which of the common flags it takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.config import Config, UsageError
from experiments.options import as_options
from rare_gems import keep_ratios, masks, ticket_io
from rare_gems.models.model import Model
from rare_gems.phase import LossFn, Mask, Phase, Recipe
from rare_gems.pruners import random as random_tickets
from rare_gems.pruners.continuous_sparsification import continuous_sparsification
from rare_gems.pruners.edge_popup import edge_popup
from rare_gems.pruners.finetune import dense, finetune
from rare_gems.pruners.force import force
from rare_gems.pruners.gem_miner import gem_miner
from rare_gems.pruners.gmp import gmp
from rare_gems.pruners.grasp import grasp
from rare_gems.pruners.hybrid import hybrid
from rare_gems.pruners.imp import imp, lottery_ticket, lrr
from rare_gems.pruners.jackpot import jackpot
from rare_gems.pruners.magnitude import magnitude
from rare_gems.pruners.prospr import prospr
from rare_gems.pruners.rigl import rigl
from rare_gems.pruners.set import sparse_evolutionary_training
from rare_gems.pruners.smart_ratio import smart_ratio
from rare_gems.pruners.snip import snip
from rare_gems.pruners.supermask import supermask
from rare_gems.pruners.synflow import synflow

__all__ = ["PRUNERS", "Setting", "recipe_for", "ticket_counts", "training_phase"]


class Setting(NamedTuple):
    """What a recipe is made for. `loss(temperature)` is the training loss with the logits divided by it;
    `finetune_steps` the steps of an epoch of finetuning, where the search sees other data; `invert` turns the
    scores of the search upside down."""

    config: Config
    mask: Mask
    steps_per_epoch: int
    finetune_steps: int
    image_shape: tuple[int, ...]
    model: Model
    loss: Callable[[float], LossFn]
    invert: bool = False

    @property
    def common(self) -> dict[str, Any]:
        """What every method takes."""
        return {"sparsity": self.config.sparsity, "finetune": training_phase(self.config, self.finetune_steps)}

    @property
    def search(self) -> dict[str, Any]:
        """What methods that train scores take beside that."""
        return self.common | {
            "num_epochs": self.config.epochs, "steps_per_epoch": self.steps_per_epoch,
            "learning_rate": self.config.learning_rate, "momentum": self.config.momentum,
        }  # fmt: skip

    @property
    def training(self) -> dict[str, Any]:
        """What methods that train weights in the search take."""
        return self.search | {"weight_decay": self.config.weight_decay}

    @property
    def options(self) -> dict[str, Any]:
        """The method's own."""
        return as_options(getattr(self.config, self.config.pruner, None))

    @property
    def inverted(self) -> dict[str, Any]:
        return {"invert": True} if self.invert else {}


def recipe_for(setting: Setting) -> Recipe:
    """The pruner's recipe.

    Raises:
      ValueError: for what the pruner refuses, naming the flag where an option of its own is to blame.
    """
    pruner = setting.config.pruner
    try:
        return PRUNERS[pruner](setting)
    except UsageError:
        raise
    except ValueError as error:
        name, colon, rest = str(error).partition(":")
        name = {"num_batches": "batches", "num_rounds": "rounds"}.get(name, name)
        if colon and name in setting.options:
            raise UsageError(f"--{pruner}.{name}".replace("_", "-") + colon + rest) from None
        hint = f"--{pruner}.linear=None".replace("_", "-")
        raise UsageError(f"{pruner}: {error}".replace("linear=None", hint)) from None


def training_phase(config: Config, steps_per_epoch: int) -> Phase | None:
    """The finetuning that every pruner ends with, if there is any."""
    if config.finetune_epochs == 0:
        return None
    return finetune(
        num_epochs=config.finetune_epochs, steps_per_epoch=steps_per_epoch,
        learning_rate=config.finetune_learning_rate, momentum=config.momentum, weight_decay=config.weight_decay,
    )  # fmt: skip


def _searching(method: Callable[..., Recipe]) -> Callable[[Setting], Recipe]:
    """Trains scores for --epochs."""
    return lambda s: method(s.mask, **s.search | s.options | s.inverted)


def _at_initialization(method: Callable[..., Recipe]) -> Callable[[Setting], Recipe]:
    """Scores the untrained network with its own loss."""

    def make(s: Setting) -> Recipe:
        options = {{"batches": "num_batches", "rounds": "num_rounds"}.get(k, k): v for k, v in s.options.items()}
        return method(s.mask, loss_fn=s.loss(options.pop("temperature", 1.0)), **s.common | options | s.inverted)

    return make


def _rounds(s: Setting, method: Callable[..., Recipe]) -> Recipe:
    options = s.options
    if "round_epochs" in options:
        options |= {"num_epochs": options.pop("round_epochs"), "num_rounds": options.pop("rounds")}
        options |= {} if options.pop("decay") else {"milestones": ()}
    if "rewind_batch_norm" in options:
        options["rewind_state"] = options.pop("rewind_batch_norm")
    return method(s.mask, **s.training | options | s.inverted)


def _synflow(s: Setting) -> Recipe:
    return synflow(
        s.mask, apply=s.model.apply, image_shape=s.image_shape, num_rounds=s.config.synflow.rounds,
        **s.common | s.inverted,
    )  # fmt: skip


def _at_ratios(s: Setting, counts: Callable[[Mask, int], Any]) -> Recipe:
    tree = counts(s.mask, masks.count_for(masks.num_prunable(s.mask), s.config.sparsity))
    return random_tickets.random_ticket(s.mask, tree, finetune=s.common["finetune"])


def _copied(s: Setting) -> Recipe:
    path = s.config.copied_ratios.ticket
    if path is None:
        raise UsageError("--copied-ratios.ticket: expected a ticket.safetensors or a run folder, got none")
    try:
        counts = ticket_counts(path)
        return _at_ratios(s, lambda mask, count: keep_ratios.copied(mask, count, counts))
    except ValueError as error:
        raise UsageError(f"--copied-ratios.ticket: {path}: {error}") from None


def ticket_counts(path: Path) -> dict[str, tuple[int, int]]:
    """Per layer, in network order: name -> (kept, prunable), from a ticket file or the one of a run folder."""
    file = path / "ticket.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"expected a ticket.safetensors or the folder of a finished run, got {path}")
    layers = ticket_io.load(file).metadata["layers"]
    return {layer["name"]: (layer["num_kept"], layer["num_prunable"]) for layer in layers}


def _smart_ratio(s: Setting) -> Recipe:
    options = s.options
    path, version = options.pop("ticket"), options["version"]
    if path is None and version in ("v4", "v6"):
        raise UsageError(
            f"--smart-ratio.ticket: {version} starts from IMP's ratios; expected a ticket of imp, got none"
        )
    if path is not None and version in ("v1", "v3"):
        raise UsageError(f"--smart-ratio.ticket: {version} takes no ratios from elsewhere; expected v2, v4, v5 or v6")
    if path is not None:
        try:
            counts = ticket_counts(path)
            whole = masks.num_prunable(s.mask)
            keep_ratios.copied(s.mask, masks.count_for(whole, s.config.sparsity), counts)  # refuses another network
        except ValueError as error:
            raise UsageError(f"--smart-ratio.ticket: {path}: {error}") from None
        ratios = [kept / size for kept, size in counts.values()]
        options |= {"ends": (ratios[0], ratios[-1])} if version in ("v2", "v5") else {"ratios": ratios}
    training = {k: v for k, v in s.search.items() if k != "momentum"} if version in ("v4", "v5", "v6") else s.common
    return smart_ratio(s.mask, **training | options)


def _hybrid(s: Setting) -> Recipe:
    training = finetune(
        num_epochs=s.config.epochs, steps_per_epoch=s.steps_per_epoch, learning_rate=s.config.learning_rate,
        momentum=s.config.momentum, weight_decay=s.config.weight_decay, name="search",
    )  # fmt: skip
    return hybrid(s.mask, training=training, **s.common | s.options | s.inverted)


def _jackpot(s: Setting) -> Recipe:
    if s.config.pretrained is None:
        raise UsageError(
            "--pretrained: jackpot searches a trained network; expected PyTorch weights, or the run folder or "
            "ticket.safetensors of a dense run (--pruner=dense)"
        )
    options = s.options
    criterion = options.pop("criterion")
    scoring = None
    if criterion in ("snip", "grasp"):
        method, loss = (snip, s.loss(1.0)) if criterion == "snip" else (grasp, s.loss(200.0))
        (scoring,) = method(s.mask, sparsity=s.config.sparsity, loss_fn=loss)
    drawn = random_tickets.random_scores if criterion == "random" else None
    return jackpot(s.mask, scoring=scoring, criterion=drawn, **s.search | options | s.inverted)


def _changing(s: Setting, method: Callable[..., Recipe]) -> Recipe:
    """RigL and SET, whose masks move at fixed layer ratios."""
    options = s.options
    ratios = {"uniform": keep_ratios.uniform, "erk": keep_ratios.erk}[options.pop("ratios")]
    counts = ratios(s.mask, masks.count_for(masks.num_prunable(s.mask), s.config.sparsity))
    return method(s.mask, counts=counts, **s.training | options)


PRUNERS: dict[str, Callable[[Setting], Recipe]] = {
    "gem_miner": _searching(gem_miner),
    "edge_popup": _searching(edge_popup),
    "imp": lambda s: _rounds(s, imp),
    "lottery_ticket": lambda s: _rounds(s, lottery_ticket),
    "lrr": lambda s: _rounds(s, lrr),
    "snip": _at_initialization(snip),
    "grasp": _at_initialization(grasp),
    "synflow": _synflow,
    "force": _at_initialization(force),
    "prospr": _at_initialization(prospr),
    "magnitude": lambda s: magnitude(s.mask, **s.common | s.options | s.inverted),
    "random": lambda s: random_tickets.random(s.mask, **s.common | s.options),
    "uniform": lambda s: _at_ratios(s, keep_ratios.uniform),
    "erk": lambda s: _at_ratios(s, keep_ratios.erk),
    "copied_ratios": _copied,
    "smart_ratio": _smart_ratio,
    "hybrid": _hybrid,
    "jackpot": _jackpot,
    "gmp": lambda s: gmp(s.mask, **s.training | s.options | s.inverted),
    "rigl": lambda s: _changing(s, rigl),
    "set": lambda s: _changing(s, sparse_evolutionary_training),
    "continuous_sparsification": _searching(continuous_sparsification),
    "supermask": _searching(supermask),
    "dense": lambda s: dense(s.common["finetune"]),
}
