"""Every method that `--pruner` names, a row each; add a method by a row in the file of its kind."""

from experiments.catalog.pruners import at_initialization, found, layer_ratios, learned_scores, rounds, while_training
from experiments.catalog.pruners.pruner import Pruner

__all__ = ["PRUNERS"]

PRUNERS: dict[str, Pruner] = (
    learned_scores.ROWS | rounds.ROWS | at_initialization.ROWS | layer_ratios.ROWS | found.ROWS | while_training.ROWS
)
