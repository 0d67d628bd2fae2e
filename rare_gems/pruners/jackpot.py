"""Lottery jackpots: searches the mask of a pre-trained network, whose weights are never touched.

Source: Zhang et al., Lottery Jackpots Exist in Pre-trained Models, 2021, section 3.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rare_gems import masks, transforms, views
from rare_gems.phase import Context, Mask, Phase, Recipe, Scores, Ticket, Transform
from rare_gems.pruners.parts.counts import target_counts
from rare_gems.pruners.parts.learned_scores import score_phase
from rare_gems.pruners.parts.random_scores import random_scores
from rare_gems.training import hyperparams

__all__ = ["drawn_start", "jackpot", "magnitude_budgets", "warm_start"]


def jackpot(
    mask: Mask,
    *,
    sparsity: float,
    num_epochs: int,
    steps_per_epoch: int,
    finetune: Phase | None = None,
    criterion: Callable[[Ticket, Context], Scores] | None = None,
    scoring: Phase | None = None,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    dropped: float = 0.99,
    start: Literal["mask", "uniform"] = "mask",
    budgets: Literal["magnitude", "layer"] = "magnitude",
    invert: bool = False,
) -> Recipe:
    """Starts from the mask of a criterion, and moves it by a straight-through gradient to its scores.

      w_eff = w * h(s), h = 1 on the top k_l of s in layer l, else 0;  dL/ds = dL/dw_eff * w;
      s = 1 where the criterion keeps, `dropped` elsewhere at first;  k_l: what global magnitude pruning keeps there

    The paper's text has it otherwise: the search of section 3.2 (Eqs. 4 and 5) draws s from U[0, 1) and keeps one share
    of each layer, which are `start="uniform"` and `budgets="layer"`; that of 4.1, from a mask, has `dropped=0.95`.

    The ticket must hold pre-trained params. While the search runs, `ticket.mask` is the criterion's mask, so that
    the caller can report `masks.overlap(initial, found)` (the paper's Fig. 4). The model state (BatchNorm statistics)
    goes on moving.

    Args:
      mask: the prunable structure (arrays or `ShapeDtypeStruct`s). sparsity: the fraction removed, in [0, 1).
      num_epochs, steps_per_epoch: the length of the search (the paper: 30 or 160 epochs on CIFAR).
      finetune: the last phase (weight tuning, from the pre-trained weights); None stops at the mask.
      criterion: (ticket, context) -> scores for the initial mask, without data: by default |w|; the paper's "random"
        is `parts.random_scores.random_scores`.
      scoring: instead of a criterion, a phase that ends with scores in `ticket.scores` (SNIP, GraSP), the params as
        they were; what it does to the mask has no effect.
      learning_rate: of the scores, cosine over the epochs, SGD with `momentum`.
      weight_decay: of the scores
      dropped: score of the weights that the first mask drops; the others have 1 (text of the paper: 0.95, code: 0.99)
      start: scores at first: two values, from the mask of the criterion (the paper's warm-up), or drawn from U[0, 1)
      budgets: how many weights each layer keeps: as many as global magnitude pruning does, or one share in all
      invert: take the lowest of the criterion, and of the scores (the inverted-scores sanity check).
    Returns:
      (edit, search), with `scoring` before and `finetune` after if given.
    Raises:
      ValueError: for a value outside its range, where nothing, or ("layer") nothing of some layer, would be kept, for
        both a criterion and a scoring, and for one of them where the scores are drawn.
    Example:
      >>> mask = [jax.ShapeDtypeStruct((30, 10), bool)]
      >>> _, search = jackpot(mask, sparsity=0.9, num_epochs=3, steps_per_epoch=4)
      >>> search.trains, search.num_steps, search.hold_dead
      ('scores', 12, False)

    Deviations: the classifier is pruned and counted as every layer (the code keeps it whole, yet counts it). Ties are
    cut exactly (the code skips the update wherever they make two counts differ). The mask is reselected outright at
    every step (the code limits the swaps by a rate, which is 1 in all its runs). A layer that global magnitude leaves
    empty stays so. Known bug of the CIFAR code, not followed: its search runs on fresh weights, not the trained ones.
    """
    if criterion is not None and scoring is not None:
        raise ValueError("scoring: expected either a criterion or a scoring phase, got both")
    if not 0 <= dropped < 1:
        raise ValueError(f"dropped: expected a score in [0, 1), got {dropped}")
    for name, value, known in (("start", start, ("mask", "uniform")), ("budgets", budgets, ("magnitude", "layer"))):
        if value not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    if start == "uniform" and (criterion is not None or scoring is not None):
        raise ValueError(
            "start: expected 'mask' with a criterion or a scoring phase, got 'uniform', which draws scores"
        )
    count = target_counts(mask, sparsity, "layer" if budgets == "layer" else "global")
    rank = [] if scoring is not None else [transforms.scores_from(criterion or _magnitude)]
    view = views.reselected(invert)

    def found(ticket: Ticket, state: tuple, context: Context) -> tuple[Ticket, tuple]:
        return ticket._replace(mask=views.support(view, ticket, context.step, context.key)), state

    search = score_phase(
        view,
        Transform(lambda ticket: (), found),
        num_epochs=num_epochs, steps_per_epoch=steps_per_epoch, learning_rate=learning_rate, momentum=momentum,
        weight_decay=weight_decay, hold_dead=False,
    )  # fmt: skip
    edit = transforms.edit(*rank, warm_start(count, dropped, invert))
    if start == "uniform":
        edit = transforms.edit(transforms.scores_from(random_scores), drawn_start(count, invert))
    return (*filter(None, (scoring, edit, search, finetune)),)


def magnitude_budgets(ticket: Ticket, num_kept: int | jax.Array) -> Scores:
    """How many weights of each layer the `num_kept` largest |w| of the whole network are: a tree of int32 scalars.

    Source: Lottery Jackpots' code (its layer-wise rates). Deviation: the classifier takes part.
    """
    top = masks.keep_top(transforms.magnitude(ticket), num_kept)
    return jax.tree.map(lambda m: jnp.sum(m, dtype=jnp.int32), top)


def drawn_start(num_kept: Any, invert: bool = False) -> Transform:
    """mask = the highest scores, within budgets as of `warm_start`; the scores stay.

    Source: Lottery Jackpots, Eqs. 4 and 5.
    """

    def make(num_kept: Any) -> Transform:
        def update(ticket: Ticket, state: tuple, context: Context) -> tuple[Ticket, tuple]:
            del context
            return ticket._replace(mask=_highest(ticket, num_kept, invert)), state

        return Transform(lambda ticket: (), update)

    return hyperparams.transform(make, num_kept=num_kept)


def _highest(ticket: Ticket, num_kept: Any, invert: bool) -> Mask:
    rank = jax.tree.map(jnp.negative, ticket.scores) if invert else ticket.scores
    whole = jax.tree.structure(num_kept) == jax.tree.structure(0)
    return masks.keep_top(rank, magnitude_budgets(ticket, num_kept) if whole else num_kept, "layer")


def warm_start(num_kept: Any, dropped: float = 0.99, invert: bool = False) -> Transform:
    """mask = the highest scores within the budgets of the layers; scores = 1 where it keeps, `dropped` elsewhere.

    Args:
      num_kept: an integer, for the `magnitude_budgets`, or a tree of integers: the budgets.
      invert: the lowest scores, and the two values the other way round.
    """

    def make(num_kept: Any, dropped: jax.Array) -> Transform:
        def update(ticket: Ticket, state: tuple, context: Context) -> tuple[Ticket, tuple]:
            del context
            mask = _highest(ticket, num_kept, invert)
            one, other = (dropped, 1.0) if invert else (1.0, dropped)
            values = jax.tree.map(lambda m, s: jnp.where(m, one, other).astype(s.dtype), mask, ticket.scores)
            return ticket._replace(mask=mask, scores=values), state

        return Transform(lambda ticket: (), update)

    return hyperparams.transform(make, num_kept=num_kept, dropped=float(dropped))


def _magnitude(ticket: Ticket, context: Context) -> Scores:
    del context
    return transforms.magnitude(ticket)
