"""What the criteria at initialization share: scores w * dL/dw of an objective of their own, and when to select."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from rare_gems import masks, schedules, transforms, views
from rare_gems.phase import Batch, Context, Key, LossFn, Mask, ModelState, Params, Phase, Scores, Ticket
from rare_gems.pruners.parts.counts import check_floors, check_positive, target_counts

__all__ = ["iterative", "one_shot", "saliency", "still"]


def saliency(ticket: Ticket, context: Context) -> Scores:
    """w * dL/dw of the prunable weights, None elsewhere: the derivative of L along the mask, at a mask of ones.

    Args:
      ticket: its params are read unmasked. context: `grads` is the dense gradient at the masked params.
    Returns:
      scores in the structure of the mask, in the params' dtypes; not zero where the mask is False.
    Example:
      >>> ticket = Ticket([jnp.array([2.0, -1.0])], [jnp.zeros(2)], [jnp.array([True, True])])
      >>> saliency(ticket, Context(0, jax.random.key(0), None, [jnp.array([0.5, 3.0])]))
      [Array([ 1., -3.], dtype=float32)]
    """
    products = jax.tree.map(lambda m, w, g: None if m is None else w * g.astype(w.dtype),
                            ticket.mask, ticket.params, context.grads, is_leaf=_is_none)  # fmt: skip
    return masks.map_kept(lambda product: product, products, ticket.mask)


def still(loss_fn: LossFn) -> LossFn:
    """A loss that hands back the model state it was given: scoring moves no BatchNorm statistics."""

    def loss(params: Params, state: ModelState, batch: Batch, key: Key) -> tuple[jax.Array, tuple[ModelState, Any]]:
        value, (_, aux) = loss_fn(params, state, batch, key)
        return value, (state, aux)

    return loss


def one_shot(
    objective: LossFn | None,
    *,
    mask: Mask,
    sparsity: float,
    num_batches: int = 1,
    score: Callable[[jax.Array], jax.Array] = jnp.abs,
    scope: Literal["global", "layer"] = "global",
    at_least: int = 0,
    invert: bool = False,
    passes: int = 1,
) -> Phase:
    """Sums w * dL/dw over `num_batches` steps, then keeps the highest `score` of the sums.

    Args:
      objective: L, in the shape of a loss; it should return the model state it was given (`still`). None: the loss
        that the network trains on.
      mask: the prunable structure. sparsity: the fraction removed, in [0, 1).
      num_batches: batches that the score is summed over.
      score: leaf by leaf, what ranks: |sum| or (`lambda s: s`) the sum.
      scope: "global", or "layer" at equal ratios. at_least: of each layer, in the scope "global".
      invert: keep the lowest instead (a sanity check).
      passes: what a step costs.
    Returns:
      a phase that leaves the params as they are, the ranking as the ticket's scores, and the exact count.
    Raises:
      ValueError: as `target_counts` and `check_floors`, and for fewer than one batch.
    """
    check_positive(batches=num_batches)
    counts = target_counts(mask, sparsity, scope)
    floor = check_floors(mask, at_least, counts, scope)
    rank = transforms.scores_from(lambda ticket, context: jax.tree.map(score, ticket.scores))
    return Phase(
        view=views.masked,
        trains="params",
        optimizer=optax.set_to_zero(),
        during=transforms.accumulate_scores(saliency),
        after=transforms.chain(rank, transforms.keep_top(counts, scope, invert=invert, at_least=floor)),
        num_steps=num_batches,
        hold_dead=False,
        loss_fn=objective,
        passes=passes,
    )


def iterative(
    objective: LossFn,
    *,
    mask: Mask,
    sparsity: float,
    num_rounds: int,
    revive: bool = False,
    invert: bool = False,
    passes: int = 1,
) -> Phase:
    """Keeps the highest |w * dL/dw|, taken anew at each round's pruned network: round(n (1 - s)^(r / R)) at round r.

    Args:
      objective, mask, sparsity, invert, passes: as in `one_shot`.
      num_rounds: R, a step and a batch each.
      revive: choose among all prunable weights rather than among those kept.
    Returns:
      a phase that leaves the params as they are, the last round's |w * dL/dw| as scores, and the exact count.
    Raises:
      ValueError: as `target_counts`, and for fewer than one round.
    """
    check_positive(rounds=num_rounds)
    target_counts(mask, sparsity)
    counts = schedules.exponential_counts(masks.num_prunable(mask), sparsity, num_rounds)
    rank = transforms.scores_from(lambda ticket, context: jax.tree.map(jnp.abs, saliency(ticket, context)))
    keep = transforms.keep_top(counts, revive=revive, invert=invert, at=lambda step: step)
    return Phase(
        view=views.masked,
        trains="params",
        optimizer=optax.set_to_zero(),
        during=transforms.chain(rank, keep),
        after=transforms.identity(),
        num_steps=num_rounds,
        hold_dead=False,
        loss_fn=objective,
        passes=passes,
    )


def _is_none(leaf: object) -> bool:
    return leaf is None
