"""Methods whose mask changes while the weights train, and the dense network, whose mask does not."""

from typing import Any

from experiments.catalog.pruners.options import options_of
from experiments.catalog.pruners.pruner import Pruner, Setting
from rare_gems.phase import Recipe
from rare_gems.pruners.deep_r import deep_r
from rare_gems.pruners.dsr import dsr
from rare_gems.pruners.gmp import gmp
from rare_gems.pruners.parts.finetune import dense
from rare_gems.pruners.rigl import rigl
from rare_gems.pruners.snfs import snfs
from rare_gems.pruners.sparse_evolutionary_training import sparse_evolutionary_training

__all__ = ["ROWS"]

_GIVEN = ("sparsity", "num_epochs", "steps_per_epoch", "learning_rate", "invert")


def _dense(s: Setting) -> Recipe:
    assert s.finetune is not None  # one epoch at least, as the command line says
    return dense(s.finetune)


def _moving(method: Any) -> Any:
    return lambda s, **options: method(s.mask, **s.training | options)


ROWS = {
    "gmp": Pruner(
        what="removes weights along a cubic schedule while training (Zhu and Gupta)",
        make=lambda s, **options: gmp(s.mask, **s.training | options | s.inverted),
        options=options_of("gmp", gmp, without=(*_GIVEN, "initial_sparsity")),
        trains="weights", length="epochs", invertible=True,
    ),
    "rigl": Pruner(
        what="drops the smallest weights and grows by gradient while training (Evci et al.)",
        make=_moving(rigl), options=options_of("rigl", rigl, without=_GIVEN), trains="weights", length="epochs",
    ),
    "set": Pruner(
        what="drops the smallest weights and grows at random while training (Mocanu et al.)",
        make=_moving(sparse_evolutionary_training),
        options=options_of("set", sparse_evolutionary_training, without=_GIVEN),
        trains="weights", length="epochs",
    ),
    "snfs": Pruner(
        what="drops the smallest weights, which come back where the momentum is large (Dettmers and Zettlemoyer)",
        make=_moving(snfs), options=options_of("snfs", snfs, without=_GIVEN), trains="weights", length="epochs",
    ),
    "dsr": Pruner(
        what="drops weights below an adaptive threshold, which come back where others stay (Mostafa and Wang)",
        make=_moving(dsr), options=options_of("dsr", dsr, without=_GIVEN), trains="weights", length="epochs",
    ),
    "deep_r": Pruner(
        what="random walk of weights with fixed signs, rewired where they cross zero (Bellec et al.)",
        make=_moving(deep_r), options=options_of("deep_r", deep_r, without=_GIVEN), trains="weights", length="epochs",
    ),
    "dense": Pruner(
        what="no pruning", make=_dense, options=options_of("dense", _dense), trains="weights", removes=False,
    ),
}  # fmt: skip
