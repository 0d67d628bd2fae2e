"""Methods whose search trains a score for each weight."""

from collections.abc import Callable
from typing import Any, Literal

from experiments.catalog.pruners.options import options_of
from experiments.catalog.pruners.pruner import Pruner, Rounds, Setting
from rare_gems import masks, schedules
from rare_gems.phase import Mask, Recipe
from rare_gems.pruners.continuous_sparsification import continuous_sparsification
from rare_gems.pruners.edge_popup import edge_popup
from rare_gems.pruners.gem_miner import freezing_epochs, gem_miner, search
from rare_gems.pruners.gem_miner_auto import gem_miner_auto
from rare_gems.pruners.grasp import grasp
from rare_gems.pruners.jackpot import jackpot
from rare_gems.pruners.parts.counts import freezing_counts
from rare_gems.pruners.parts.random_scores import random_scores
from rare_gems.pruners.snip import snip
from rare_gems.pruners.supermask import supermask

__all__ = ["ROWS"]

_GIVEN = ("sparsity", "num_epochs", "steps_per_epoch", "learning_rate", "momentum", "invert")


def _searching(method: Callable[..., Recipe]) -> Callable[..., Recipe]:
    return lambda s, **options: method(s.mask, **s.search | options | s.inverted)


def _auto(s: Setting, **options: Any) -> Recipe:
    length: dict[str, Any] = {"num_epochs": s.num_epochs, "steps_per_epoch": s.steps_per_epoch}
    return gem_miner_auto(s.mask, **s.common | length | options | s.inverted)


def _jackpot(
    s: Setting, *, criterion: Literal["magnitude", "snip", "grasp", "random"] = "magnitude", **options: Any
) -> Recipe:
    """A jackpot whose first mask is that of a criterion.

    Args:
      criterion: where the mask starts
    """
    scoring = None
    if criterion in ("snip", "grasp"):
        method, temperature = (snip, 1.0) if criterion == "snip" else (grasp, 200.0)
        (scoring,) = method(s.mask, sparsity=s.sparsity, loss_fn=s.loss(temperature))
    drawn = random_scores if criterion == "random" else None
    return jackpot(s.mask, scoring=scoring, criterion=drawn, **s.search | options | s.inverted)


def _freezing(mask: Mask, sparsity: float, num_epochs: int, options: Any) -> Rounds | None:
    if not options.freeze:
        return None
    epochs = freezing_epochs(num_epochs, options.period, options.freeze_at)
    counts = freezing_counts(mask, sparsity, len(epochs))  # in all; "layer" shares them out at equal ratios
    return Rounds(f"freezing rounds ({options.scope} scope) keep", counts, epochs)


def _falling(mask: Mask, sparsity: float, num_epochs: int, options: Any) -> Rounds | None:
    if not options.gradual:
        return None
    number = schedules.num_rounds(num_epochs, options.period)
    counts = schedules.exponential_counts(masks.num_prunable(mask), sparsity, number)
    return Rounds("rounds keep", counts, (0, *(options.period * (r + 1) for r in range(1, number))))


def _idle_in_gem_miner(options: Any, name: str) -> str | None:
    if name in ("period", "scope", "at_least", "freeze_at") and not options.freeze:
        return "nothing is frozen with --gem-miner.no-freeze"
    return "there is no regulariser with --gem-miner.l2=0" if name == "norm" and not options.l2 else None


def _without_gradual(options: Any, name: str) -> str | None:
    idle = name == "period" and not options.gradual
    return "of the gradual variant; expected --edge-popup.gradual with it" if idle else None


def _without_mask(options: Any, name: str) -> str | None:
    idle = name in ("criterion", "dropped") and options.start == "uniform"
    return "scores are drawn with --jackpot.start=uniform" if idle else None


ROWS = {
    "gem_miner": Pruner(
        what="learns scores, rounds them, freezes the lowest every period (Rare Gems)",
        make=_searching(gem_miner),
        options=options_of("gem_miner", search, without=_GIVEN),
        trains="scores", length="epochs", invertible=lambda options: options.freeze, follows_bound=True,
        rounds=_freezing, why_idle=_idle_in_gem_miner, with_momentum=lambda options: options.optimizer == "sgd",
    ),
    "gem_miner_auto": Pruner(
        what="GEM-MINER without knobs: steps of a given length, an exact count at every round, nothing frozen (ours)",
        make=_auto,
        options=options_of("gem_miner_auto", gem_miner_auto, without=_GIVEN),
        trains="scores", length="epochs", invertible=True, takes_rate=False,
    ),
    "edge_popup": Pruner(
        what="learns scores, sees the top k of their size (Ramanujan et al.; Rare Gems, Table 3)",
        make=_searching(edge_popup),
        options=options_of("edge_popup", edge_popup, without=_GIVEN),
        trains="scores", length="epochs", invertible=True, rounds=_falling, why_idle=_without_gradual,
    ),
    "jackpot": Pruner(
        what="searches the mask of a trained network (--pretrained), whose weights stay (Lottery Jackpots)",
        make=_jackpot,
        options=options_of("jackpot", _jackpot, jackpot, without=_GIVEN),
        trains="scores", length="epochs", invertible=True, needs_weights=True, why_idle=_without_mask,
    ),
    "continuous_sparsification": Pruner(
        what="masks sigmoid(beta s) that harden while beta rises (Savarese et al.)",
        make=_searching(continuous_sparsification),
        options=options_of("continuous_sparsification", continuous_sparsification, without=_GIVEN),
        trains="scores", length="epochs", invertible=True,
    ),
    "supermask": Pruner(
        what="masks drawn from Bernoulli(sigmoid(s)) (Zhou et al.)",
        make=_searching(supermask),
        options=options_of("supermask", supermask, without=(*_GIVEN, "weight_decay")),
        trains="scores", length="epochs", invertible=True,
    ),
}  # fmt: skip
