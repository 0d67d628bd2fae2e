"""Sanity checks: edits between search and finetuning that a ticket worth its search should not survive."""

from typing import Literal

from rare_gems import masks
from rare_gems.phase import Context, State, Ticket, Transform

__all__ = ["shuffle"]


def shuffle(scope: Literal["global", "layer"] = "layer") -> Transform:
    """Puts the mask at random positions: within each layer (its ratio stays), or anywhere (a random ticket).

    Source: Rare Gems, section 4 (random shuffling); Sanity-Checking Pruning, section 3 (layerwise rearrange).
    """

    def update(ticket: Ticket, state: State, context: Context) -> tuple[Ticket, State]:
        return ticket._replace(mask=masks.shuffle(context.key, ticket.mask, scope)), state

    return Transform(lambda ticket: (), update)
