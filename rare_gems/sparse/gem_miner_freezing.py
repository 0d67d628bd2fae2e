"""GEM-MINER's freezing for `prune`."""

from typing import Any

import jax
import jax.numpy as jnp

from rare_gems import masks, schedules, transforms
from rare_gems.phase import Mask, Scores, Ticket, Transform
from rare_gems.pruners.parts.counts import check_whole, freezing_counts
from rare_gems.sparse.methods import Method, edited

__all__ = ["freezing"]


def freezing(sparsity: float, *, num_rounds: int, every: int) -> Method:
    """GEM-MINER's freezing, where the params that the optimizer trains are the scores p.

      p = clip(p, 0, 1);  after every `every` updates the lowest p are frozen at 0, down to
      round(n (1 - s)^(r / R)) that are not, at round r of R

    The network sees `w * ste.round_half(p)` (frozen scores round to 0); the regulariser is
    `optax.add_decayed_weights(2 * strength)` in the optimizer.

    Args:
      sparsity: s, the fraction frozen in the end, in [0, 1). num_rounds: R. every: updates from round to round.
    Raises:
      ValueError: in `init`, where nothing would be left.
    Source: Rare Gems, Algorithm 1.
    """
    check_whole(1, num_rounds=num_rounds, every=every)
    due = schedules.every(every)

    def recipe(mask: Mask) -> Transform:
        counts = freezing_counts(mask, sparsity, num_rounds)
        freeze = transforms.keep_top(counts, score=_scores_as_params, at=lambda step: (step + 1) // every - 1)
        return transforms.chain(
            edited(lambda ticket, context: ticket._replace(params=_clipped(ticket))).after,
            transforms.when(lambda step: due(step) & (step + 1 <= num_rounds * every), freeze),
        )

    return Method(recipe=recipe, keeps_scores=False)


def _scores_as_params(ticket: Ticket) -> Scores:
    return masks.map_kept(lambda p: p, ticket.params, ticket.mask)


def _clipped(ticket: Ticket) -> Any:
    return jax.tree.map(lambda p, m: p if m is None else jnp.clip(p, 0, 1), ticket.params, ticket.mask)
