"""The sanity checks: what each changes in the ticket that was found, or in the search for it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.config import INVERTIBLE, Config, UsageError
from experiments.starting import weights_of
from rare_gems import init, sanity
from rare_gems.data import corrupt, examples
from rare_gems.data.examples import Examples, Streamed
from rare_gems.data.sources import Dataset, Split
from rare_gems.phase import Transform

__all__ = ["CHECKS", "Check", "chosen"]


class Check(NamedTuple):
    """One change, nothing else: an `edit` of the ticket found, other training data for the search, or inverted scores.

    `afresh`: the edit is of the untrained network, whose weights and statistics the search has not touched; `share`:
    of the training examples, that the search sees.
    """

    what: str
    edit: Callable[[Config], Transform] | None = None
    corrupt: Callable[[Dataset | Streamed, Config], Split | Examples] | None = None
    invert: bool = False
    afresh: bool = False
    share: float = 1.0


# Streamed data and data on the device have corruptions of the same names and meaning.
def _random_labels(data: Any, config: Config) -> Split | Examples:
    return _kind(data).random_labels(data.train, data.num_classes, config.seed)


def _random_pixels(data: Any, config: Config) -> Split | Examples:
    return _kind(data).random_pixels(data.train, config.seed)


def _random_data(data: Any, config: Config) -> Split | Examples:
    return _random_pixels(data._replace(train=_random_labels(data, config)), config)


def _half(data: Any, config: Config) -> Split | Examples:
    return _kind(data).half(data.train, data.num_classes, config.seed)


def _kind(data: Dataset | Streamed) -> Any:
    return examples if isinstance(data, Streamed) else corrupt


CHECKS: dict[str, Check] = {
    "shuffle": Check("mask shuffled within each layer", lambda c: sanity.shuffle("layer")),
    "shuffle_global": Check("mask shuffled over the network", lambda c: sanity.shuffle("global")),
    "random_ticket": Check(
        "random mask of the same layer ratios, network untouched", lambda c: sanity.random_ticket(), afresh=True
    ),
    "reinit": Check("weights drawn again, as at first", lambda c: sanity.reinit(weights_of(c) or init.kaiming_normal)),
    "reinit_kaiming_normal": Check("weights drawn again, N(0, 2/fan)", lambda c: sanity.reinit(init.kaiming_normal)),
    "shuffle_weights": Check("kept weights shuffled within each layer", lambda c: sanity.shuffle_weights()),
    "invert": Check("search keeps the lowest scores", invert=True),
    "random_labels": Check("search on random labels", corrupt=_random_labels),
    "random_pixels": Check("search on shuffled pixels", corrupt=_random_pixels),
    "random_data": Check("search on random labels and shuffled pixels", corrupt=_random_data),
    "half_data": Check("search on half of the data, so in half of the steps", corrupt=_half, share=0.5),
}


def chosen(config: Config) -> tuple[str, ...]:
    """The checks that a configuration asks for, each once, in the order of `CHECKS`.

    Raises:
      UsageError: for an unknown check, or one that the pruner cannot undergo.
    """
    asked = {name.strip() for name in config.sanity.split(",") if name.strip()}
    if config.compare:
        asked |= {"shuffle", "shuffle_global"}
    possible = [name for name in CHECKS if not CHECKS[name].invert or config.pruner in INVERTIBLE]
    if config.init == "model":
        possible.remove("reinit")  # what the network draws, it draws whole
    if "all" in asked:
        asked = (asked - {"all"}) | set(possible)
    for name in sorted(asked):
        if name not in CHECKS:
            raise UsageError(f"--sanity: expected some of all, {', '.join(CHECKS)}, got {name!r}")
        if name not in possible and name == "reinit":
            raise UsageError("--sanity=reinit: expected reinit_kaiming_normal with --init=model")
        if name not in possible:
            raise UsageError(f"--sanity: inversion is not defined for {config.pruner}; expected other checks")
    return tuple(name for name in CHECKS if name in asked)
