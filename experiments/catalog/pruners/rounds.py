"""Methods that train, remove the smallest weights, and train again."""

from collections.abc import Callable
from typing import Any

import jax

from experiments.catalog.pruners.options import options_of
from experiments.catalog.pruners.pruner import Pruner, Rounds, Setting
from rare_gems import masks, schedules
from rare_gems.models.model import with_key
from rare_gems.phase import Batch, Key, Mask, ModelState, Params, Recipe
from rare_gems.pruners.imp import imp, lottery_ticket, lrr, rounds_for
from rare_gems.pruners.obd import obd

__all__ = ["ROWS"]

_GIVEN = ("sparsity", "num_epochs", "steps_per_epoch", "invert")


def _in_rounds(method: Callable[..., Recipe]) -> Callable[..., Recipe]:
    def make(s: Setting, **options: Any) -> Recipe:
        training = {name: value for name, value in s.training.items() if name != "num_epochs"}
        return method(s.mask, **training | options | s.inverted)

    return make


def _rounds(mask: Mask, sparsity: float, num_epochs: int, options: Any) -> Rounds:
    del num_epochs
    number = options.rounds or rounds_for(sparsity, options.rate)
    counts = schedules.exponential_counts(masks.num_prunable(mask), sparsity, number)
    return Rounds(f"rounds of {options.round_epochs} epochs keep", counts)


def _obd(s: Setting, **options: Any) -> Recipe:
    def outputs(params: Params, state: ModelState, batch: Batch, key: Key) -> jax.Array:
        return with_key(s.model.apply, key)(params, state, batch.images, True)[0]

    return obd(s.mask, objective=s.loss(1.0), outputs=outputs, **s.training | options | s.inverted)


def _removals(mask: Mask, sparsity: float, num_epochs: int, options: Any) -> Rounds:
    del num_epochs
    return Rounds("rounds keep", schedules.exponential_counts(masks.num_prunable(mask), sparsity, options.rounds))


def _one_round(options: Any, name: str) -> str | None:
    idle = name == "round_epochs" and options.rounds == 1
    return "there is one round; expected --obd.rounds above 1 with it" if idle else None


def _rounds_decide(name: str) -> Callable[[Any, str], str | None]:
    flag = f"--{name}.rounds decides; expected one of the two"
    return lambda options, option: flag if option == "rate" and options.rounds is not None else None


ROWS = {
    "imp": Pruner(
        what="trains, removes the smallest weights, rewinds the others, in rounds (Stabilizing)",
        make=_in_rounds(imp),
        options=options_of("imp", imp, without=_GIVEN),
        trains="weights", length="rounds", invertible=True, keeps_rounds=True, rounds=_rounds,
        why_idle=_rounds_decide("imp"), rewinds=lambda options: options.rewind_step,
    ),
    "lottery_ticket": Pruner(
        what="trains, removes the smallest weights and rewinds the others, once (Frankle and Carbin)",
        make=lambda s, **options: lottery_ticket(s.mask, **s.training | options | s.inverted),
        options=options_of("lottery_ticket", lottery_ticket, without=_GIVEN),
        trains="weights", length="epochs", invertible=True, keeps_rounds=True,
        rewinds=lambda options: options.rewind_step,
    ),
    "lrr": Pruner(
        what="trains, removes the smallest weights, trains on at the first rate, in rounds (Renda et al.)",
        make=_in_rounds(lrr),
        options=options_of("lrr", lrr, without=_GIVEN),
        trains="weights", length="rounds", invertible=True, keeps_rounds=True, rounds=_rounds,
        why_idle=_rounds_decide("lrr"),
    ),
    "obd": Pruner(
        what="trains, removes the weights of the lowest h w^2 / 2, trains on, in one round or more (LeCun et al.)",
        make=_obd,
        options=options_of("obd", obd, without=_GIVEN),
        trains="weights", length="epochs", invertible=True, rounds=_removals, why_idle=_one_round,
    ),
}  # fmt: skip
