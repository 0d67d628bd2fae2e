"""Every sanity check, a row each: what it changes in the ticket that was found, or in the search for it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from rare_gems import init, sanity
from rare_gems.data import corrupt, streamed_dataset
from rare_gems.data.dataset import Dataset, Split
from rare_gems.data.streamed_dataset import Examples, Streamed
from rare_gems.phase import Params, Transform

__all__ = ["CHECKS", "Check"]

Draw = Callable[..., Params] | None  # (key, params, mask) -> params; None where the network draws its weights itself
Corrupt = Callable[[Dataset | Streamed, int], Split | Examples]  # (data, seed) -> the training split


class Check(NamedTuple):
    """A row of the catalogue: one change, nothing else.

    what: as in tables. edit: of the ticket found, made from how the run draws weights. corrupt: the search's training
    data. invert: the search keeps the lowest scores. afresh: the edit is of the untrained network, whose weights and
    statistics the search has not touched. share: of the training examples, that the search sees. draws: it draws
    kernels again. redraws: it draws them as the run did, which a network of one's own does whole.
    """

    what: str
    edit: Callable[[Draw], Transform] | None = None
    corrupt: Corrupt | None = None
    invert: bool = False
    afresh: bool = False
    share: float = 1.0
    draws: bool = False
    redraws: bool = False


# Streamed data and data on the device have corruptions of equal names and meaning.
def _random_labels(data: Any, seed: int) -> Split | Examples:
    return _kind(data).random_labels(data.train, data.num_classes, seed)


def _random_pixels(data: Any, seed: int) -> Split | Examples:
    return _kind(data).random_pixels(data.train, seed)


def _random_data(data: Any, seed: int) -> Split | Examples:
    return _random_pixels(data._replace(train=_random_labels(data, seed)), seed)


def _half(data: Any, seed: int) -> Split | Examples:
    return _kind(data).half(data.train, data.num_classes, seed)


def _kind(data: Dataset | Streamed) -> Any:
    return streamed_dataset if isinstance(data, Streamed) else corrupt


CHECKS: dict[str, Check] = {
    "shuffle": Check(what="mask shuffled within each layer", edit=lambda draw: sanity.shuffle("layer")),
    "shuffle_global": Check(what="mask shuffled over the network", edit=lambda draw: sanity.shuffle("global")),
    "random_ticket": Check(
        what="random mask of the same layer ratios, network untouched",
        edit=lambda draw: sanity.random_ticket(),
        afresh=True,
    ),
    "reinit": Check(
        what="weights drawn again, as at first",
        edit=lambda draw: sanity.reinit(draw or init.kaiming_normal),
        draws=True,
        redraws=True,
    ),
    "reinit_kaiming_normal": Check(
        what="weights drawn again, N(0, 2/fan)",
        edit=lambda draw: sanity.reinit(init.kaiming_normal),
        draws=True,
    ),
    "shuffle_weights": Check(
        what="kept weights shuffled within each layer", edit=lambda draw: sanity.shuffle_weights()
    ),
    "invert": Check("search keeps the lowest scores", invert=True),
    "random_labels": Check("search on random labels", corrupt=_random_labels),
    "random_pixels": Check("search on shuffled pixels", corrupt=_random_pixels),
    "random_data": Check("search on random labels and shuffled pixels", corrupt=_random_data),
    "half_data": Check("search on half of the data, so in half of the steps", corrupt=_half, share=0.5),
}
