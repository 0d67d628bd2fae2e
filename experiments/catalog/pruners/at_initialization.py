"""Methods that score the untrained network, with a batch of data or none."""

from collections.abc import Callable
from typing import Any

from experiments.catalog.pruners.options import options_of
from experiments.catalog.pruners.pruner import Pruner, Rounds, Setting
from rare_gems import masks, schedules
from rare_gems.phase import Mask, Recipe
from rare_gems.pruners.force import force
from rare_gems.pruners.grasp import grasp
from rare_gems.pruners.magnitude import magnitude
from rare_gems.pruners.prospr import prospr
from rare_gems.pruners.snip import snip
from rare_gems.pruners.synflow import synflow

__all__ = ["ROWS"]

_GIVEN = ("sparsity", "invert")


def _scoring(method: Callable[..., Recipe]) -> Callable[..., Recipe]:
    return lambda s, **options: method(s.mask, loss_fn=s.loss(1.0), **s.common | options | s.inverted)


def _grasp(s: Setting, *, temperature: float = 200.0, **options: Any) -> Recipe:
    """GraSP of the tempered loss.

    Args:
      temperature: logits are divided by it
    """
    return grasp(s.mask, loss_fn=s.loss(temperature), **s.common | options | s.inverted)


def _synflow(s: Setting, **options: Any) -> Recipe:
    return synflow(s.mask, apply=s.model.apply, image_shape=s.image_shape, **s.common | options | s.inverted)


def _prospr(s: Setting, **options: Any) -> Recipe:
    parts = options["inner_steps"] + 1
    if options["split_batch"] and s.batch_size % parts:
        raise ValueError(f"split_batch: expected a batch size divisible by {parts} (inner_steps + 1), "
                         f"got {s.batch_size}")  # fmt: skip
    return _scoring(prospr)(s, **options)


def _rounds(mask: Mask, sparsity: float, num_epochs: int, options: Any) -> Rounds:
    del num_epochs
    return Rounds("rounds keep", schedules.exponential_counts(masks.num_prunable(mask), sparsity, options.rounds))


ROWS = {
    "snip": Pruner(
        what="keeps the largest |w g| of a batch (Lee et al.)",
        make=_scoring(snip), options=options_of("snip", snip, without=_GIVEN), invertible=True,
    ),
    "grasp": Pruner(
        what="keeps the largest w Hg of a batch (Wang et al.)",
        make=_grasp, options=options_of("grasp", grasp, _grasp, without=_GIVEN), invertible=True,
    ),
    "synflow": Pruner(
        what="data-free flow of weights, in rounds, in float64 (Tanaka et al.)",
        make=_synflow, options=options_of("synflow", synflow, without=_GIVEN), invertible=True, rounds=_rounds,
        reads_data=False,
    ),
    "force": Pruner(
        what="SNIP in rounds, weights may return; --force.no-revive is iterative SNIP (de Jorge et al.)",
        make=_scoring(force), options=options_of("force", force, without=_GIVEN), invertible=True, rounds=_rounds,
    ),
    "prospr": Pruner(
        what="meta-gradient through K steps of SGD (Alizadeh et al.)",
        make=_prospr, options=options_of("prospr", prospr, without=(*_GIVEN, "batches")), invertible=True,
    ),
    "magnitude": Pruner(
        what="keeps the largest |w| at initialization",
        make=lambda s, **options: magnitude(s.mask, **s.common | options | s.inverted),
        options=options_of("magnitude", magnitude, without=_GIVEN), invertible=True, reads_data=False,
    ),
}  # fmt: skip
