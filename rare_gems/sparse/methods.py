"""Methods for `prune`: when masks are made, and how they move. Updates of the optimizer are counted from 1."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from rare_gems import masks, transforms
from rare_gems.phase import Context, Mask, Phase, Recipe, Scores, Step, Ticket, Transform
from rare_gems.pruners import rigl as growing
from rare_gems.pruners import sparse_evolutionary_training as evolving
from rare_gems.pruners.gmp import cubic_counts
from rare_gems.pruners.parts.counts import check_whole
from rare_gems.pruners.parts.saliency import one_shot
from rare_gems.sparse.choices import Scope, Score, checked_mask, counts_at, layers_of, score_fn, shared_out
from rare_gems.structures import check_structure

__all__ = ["Method", "fixed", "gradual", "magnitude", "random", "rigl", "selected",
           "snip", "sparse_evolutionary_training"]  # fmt: skip


class Method(NamedTuple):
    """How a network is pruned: `recipe(mask)`, called with the prunable structure, returns a recipe of the trainer,
    a transform that follows every step, or edits and such a transform. `keeps_scores`: whether the ticket's scores live
    on from step to step. `mask`: that of `fixed`, in the structure of the params."""

    recipe: Callable[[Mask], Recipe | Transform | tuple[Phase | Transform, ...]]
    keeps_scores: bool = True
    mask: Mask | None = None


def fixed(mask: Mask) -> Method:
    """Keeps a mask that is known, for example that of a ticket.

    Args:
      mask: bool arrays in the structure of the params, None where a leaf is not prunable.
    Raises:
      ValueError: in `init`, for a mask of another structure or shape, and for one that is not bool; in `prune`, outside
        of `jit`, for one that keeps nothing.
    """

    def recipe(whole: Mask) -> Recipe:
        check_structure("mask", mask, whole, "the prunable params")
        jax.eval_shape(masks.apply, whole, mask)  # raises for another shape, and for what is not bool
        return (edited(lambda ticket, context: ticket._replace(mask=jax.tree.map(jnp.array, mask))),)  # copies

    return Method(recipe=recipe, keeps_scores=False, mask=mask)


def magnitude(sparsity: float, *, scope: Scope = "global") -> Method:
    """Keeps the largest |w| of the params that `init` is given, and that mask from then on.

    Args:
      sparsity: the fraction removed, in [0, 1).
      scope: rank over the whole network ("global"), or within each layer: at equal ratios ("uniform"), at
        Erdos-Renyi-kernel ratios ("erk"), or at ratios of your own, (mask, number kept) -> a tree of integers
        that sum to it.
    """
    return _at_start(sparsity, scope, "magnitude")


def random(sparsity: float, *, scope: Scope = "global") -> Method:
    """Keeps a random mask of exact size. Arguments as in `magnitude`."""
    return _at_start(sparsity, scope, "random")


def _at_start(sparsity: float, scope: Scope, score: Score) -> Method:
    rank = score_fn(score)

    def recipe(mask: Mask) -> Recipe:
        keep = transforms.keep_top(counts_at(mask, sparsity, scope), layers_of(scope))
        return (transforms.edit(transforms.scores_from(rank), keep),)

    return Method(recipe=recipe, keeps_scores=False)


def snip(sparsity: float, *, scope: Literal["global", "layer"] = "global", batches: int = 1) -> Method:
    """SNIP: the weights rest in the first `batches` updates; then the largest |sum of w * dL/dw| are kept.

    Args:
      sparsity: the fraction removed, in [0, 1). scope: rank over the whole network, or within each layer at equal
        ratios. batches: updates whose gradients the criterion looks at.
    Source: Lee et al., SNIP, Algorithm 1 (see `rare_gems.pruners.snip`).
    """

    check_whole(1, batches=batches)

    def recipe(mask: Mask) -> Recipe:
        return (one_shot(None, mask=mask, sparsity=sparsity, num_batches=batches, scope=scope),)

    return Method(recipe=recipe)


def gradual(
    sparsity: float,
    *,
    stop: int,
    start: int = 0,
    every: int = 100,
    score: Score = "magnitude",
    scope: Scope = "global",
    initial_sparsity: float = 0.0,
    revive: bool = False,
) -> Method:
    """Removes the lowest scores after every `every` updates, fast at first, then ever slower.

      s_t = s_f + (s_i - s_f) (1 - (t - start) / (stop - start))^3

    Args:
      sparsity: s_f, the fraction removed in the end, in [0, 1).
      start, stop: the updates after which pruning begins and after which the target is reached (if `every` does not
        divide their distance, the last before it). With `start == stop` all goes at once, after that update.
      every: updates from one pruning to the next.
      score: what ranks: "magnitude" |w|, "saliency" |w * dL/dw| of the last batch, "random", or a function
        (ticket, context) -> float arrays in the structure of the mask.
      scope: as in `magnitude`.
      initial_sparsity: s_i, removed after update `start`; with `start` 0 nothing is, before the first round. 0 where
        all goes at once.
      revive: rank removed weights too, which are 0 as weights.
    Raises:
      ValueError: for updates out of order; in `init` for a sparsity outside its range, and where nothing, or nothing
        of a layer, would be kept.
    Source: Zhu and Gupta, Eq. 1 (see `rare_gems.pruners.gmp`).
    """
    check_whole(start=start, stop=stop)
    check_whole(1, every=every)
    if not 0 <= start <= stop or stop < 1:
        raise ValueError(f"start, stop: expected 0 <= start <= stop and stop >= 1, got {start} and {stop}")
    if start < stop and not 1 <= every <= stop - start:
        raise ValueError(f"every: expected 1 to {stop - start} updates, got {every}")
    num_rounds = (stop - start) // every
    if not num_rounds and initial_sparsity:
        raise ValueError(f"initial_sparsity: expected 0 where all goes at once, got {initial_sparsity}")
    rank = score_fn(score)

    def recipe(mask: Mask) -> Transform:
        counts = [counts_at(mask, sparsity, scope)]
        if num_rounds:
            totals = cubic_counts(masks.num_prunable(mask), sparsity, num_rounds, initial_sparsity)
            counts = [shared_out(mask, total, scope) for total in totals]

        def is_round(step: Step) -> jax.Array:
            after = jnp.asarray(step) + 1 - start
            return (after >= 0) & (after % every == 0) & (after <= num_rounds * every)

        keep = transforms.keep_top(counts, layers_of(scope), revive=revive, at=lambda step: (step + 1 - start) // every)
        return transforms.when(is_round, transforms.chain(transforms.scores_from(rank), keep))

    return Method(recipe=recipe, keeps_scores=False)


def selected(select: Callable[[Scores], Mask], *, score: Score = "magnitude", at: int = 0, every: int = 0) -> Method:
    """A mask that a function of the scores selects, such as 2 of every 4: `lambda s: keep_n_of_m(s, 2, 4)`.

    Args:
      select: scores -> bool arrays of the same structure.
      score: as in `gradual`; "saliency" needs `at` above 0.
      at: the update after which the mask is made; 0: before the first.
      every: make it anew after so many updates, over all weights; 0: it stays.
    """
    rank = score_fn(score)
    check_whole(at=at, every=every)
    if at == 0 and score == "saliency":
        raise ValueError("at: expected 1 or more for a score that needs gradients, got 0")

    def choose(ticket: Ticket, context: Context) -> Ticket:
        try:
            scores = rank(ticket, context)
        except (AttributeError, TypeError, ValueError) as error:
            if context.grads is not None:
                raise
            raise ValueError(
                "score: expected one that needs no gradient before the first update; else `at` 1"
            ) from error
        return ticket._replace(mask=checked_mask(select(scores), ticket.mask))

    def is_round(step: Step) -> jax.Array:
        after = jnp.asarray(step) + 1 - at
        return (after >= 0) & (after % every == 0) if every else after == 0

    def recipe(mask: Mask) -> tuple[Phase | Transform, ...]:
        first = edited(choose)
        again = (transforms.when(is_round, first.after),) if at or every else ()
        return again if at else (first, *again)

    return Method(recipe=recipe, keeps_scores=False)


def rigl(sparsity: float, *, num_steps: int, **options: Any) -> Method:
    """RigL: a random mask that drops small weights and grows where dense gradients are large.

    Args:
      sparsity: the fraction removed, in [0, 1). num_steps: the updates of the whole training.
      options: as in `rare_gems.pruners.rigl`: `every` (100 updates), `drop_fraction` (0.3 of a layer, falling to 0),
        `stop` (0.75 of `num_steps`, after which the mask stays), `ratios` ("erk"; or "uniform"), `counts`.
    """
    return _moving(growing.rigl, sparsity, num_steps, options)


def sparse_evolutionary_training(sparsity: float, *, num_steps: int, every: int, **options: Any) -> Method:
    """SET: a random mask that drops small weights and grows as many at random.

    Args:
      every: updates from one change of the mask to the next. The others: as in `rigl`.
    """
    return _moving(evolving.sparse_evolutionary_training, sparsity, num_steps, {"every": every, **options})


def _moving(factory: Callable[..., Recipe], sparsity: float, num_steps: int, options: dict[str, Any]) -> Method:
    known = ("every", "drop_fraction", "stop", "ratios", "counts")
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"options: expected some of {', '.join(known)}, got {', '.join(unknown)}")
    check_whole(1, num_steps=num_steps, **{name: options[name] for name in ("every",) if name in options})

    def recipe(mask: Mask) -> Recipe:
        return factory(mask, sparsity=sparsity, num_epochs=num_steps, steps_per_epoch=1, **options)

    return Method(recipe=recipe, keeps_scores=False)


def edited(fn: Callable[[Ticket, Context], Ticket]) -> Any:
    """A phase without steps that makes the ticket fn(ticket, context)."""
    return transforms.edit(
        Transform(init=lambda ticket: (), update=lambda ticket, state, context: (fn(ticket, context), state))
    )
