"""Scores without meaning, for random masks."""

from rare_gems import init
from rare_gems.phase import Context, Scores, Ticket

__all__ = ["random_scores"]


def random_scores(ticket: Ticket, context: Context) -> Scores:
    """Scores U[0, 1), so that their top k is a uniformly random subset."""
    return init.uniform_scores(context.key, ticket.mask)
