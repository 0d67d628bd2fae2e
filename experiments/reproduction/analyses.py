"""The analyses that an item asks for, of those of its runs that are finished."""

from collections.abc import Sequence

from experiments.comparison.expand import Combination
from experiments.papers.item import Analysis, Part
from experiments.run_folder import paths
from experiments.terminal.errors import UsageError
from rare_gems.analysis import overlap
from rare_gems.phase import Mask
from rare_gems.storage import ticket_file

__all__ = ["KINDS", "computed"]


def computed(part: Part, combinations: Sequence[Combination]) -> dict[tuple[str, str, int], dict[str, float]]:
    """The values of the analyses, {(column, sparsity, seed): {"WHAT.FIELD": number}}; percent for overlaps.

    Raises:
      UsageError: for an analysis that there is not, or a column that it names wrongly.
    """
    found: dict[tuple[str, str, int], dict[str, float]] = {}
    by_cell = {(each.column, each.sparsity, each.config.seed): each for each in combinations}
    for asked in part.analyses:
        if asked.what not in KINDS:
            raise UsageError(f"{asked.what}: expected an analysis, one of {', '.join(KINDS)}")
        for (column, sparsity, seed), each in by_cell.items():
            other = by_cell.get((asked.against, sparsity, seed))
            if other is None or column == asked.against or column not in (asked.columns or [column]):
                continue
            if all((one.folder / paths.SUMMARY).exists() for one in (each, other)):
                cell = found.setdefault((column, sparsity, seed), {})
                cell |= {f"{asked.what}.{name}": value for name, value in KINDS[asked.what](each, other, asked).items()}
    return found


def _overlap(each: Combination, other: Combination, asked: Analysis) -> dict[str, float]:
    """Of the masks of two tickets, and of random ones with those ratios."""
    del asked
    ours, theirs = _mask(each), _mask(other)
    both = overlap.between(ours, theirs)._asdict()
    chance = {f"{name}_by_chance": value for name, value in overlap.by_chance(ours, theirs)._asdict().items()}
    return {name: 100 * value for name, value in (both | chance).items()}


def _mask(each: Combination) -> Mask:
    return ticket_file.load(each.folder / paths.TICKET).ticket.mask


KINDS = {"overlap": _overlap}
