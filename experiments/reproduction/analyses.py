"""The analyses that an item asks for, of those of its runs that are finished."""

import itertools
import statistics
from collections.abc import Mapping, Sequence

from experiments.analyses import lines
from experiments.analyses.networks import networks_of
from experiments.comparison.expand import Combination
from experiments.papers.item import Analysis, Part
from experiments.run_folder import paths
from experiments.terminal.errors import UsageError
from rare_gems.analysis import distance, overlap
from rare_gems.phase import Mask, Ticket
from rare_gems.storage import ticket_file

__all__ = ["KINDS", "TOGETHER", "computed", "stability"]

Cell = tuple[str, str, int]  # column, sparsity, seed


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
        for cell, values in KINDS[asked.what](by_cell, asked).items():
            found.setdefault(cell, {}).update({f"{asked.what}.{name}": value for name, value in values.items()})
    return found


def _overlaps(by_cell: Mapping[Cell, Combination], asked: Analysis) -> dict[Cell, dict[str, float]]:
    """Of the masks of each column and of `asked.against`."""
    found = {}
    for (column, sparsity, seed), each in by_cell.items():
        other = by_cell.get((asked.against, sparsity, seed))
        if other is None or column == asked.against or column not in (asked.columns or [column]):
            continue
        if all((one.folder / paths.SUMMARY).exists() for one in (each, other)):
            found[column, sparsity, seed] = _overlap(each, other)
    return found


def _overlap(each: Combination, other: Combination) -> dict[str, float]:
    """Of the masks of two tickets, and of random ones with those ratios."""
    ours, theirs = _mask(each), _mask(other)
    both = overlap.between(ours, theirs)._asdict()
    chance = {f"{name}_by_chance": value for name, value in overlap.by_chance(ours, theirs)._asdict().items()}
    return {name: 100 * value for name, value in (both | chance).items()}


def _mask(each: Combination) -> Mask:
    return ticket_file.load(each.folder / paths.TICKET).ticket.mask


def _stabilities(by_cell: Mapping[Cell, Combination], asked: Analysis) -> dict[Cell, dict[str, float]]:
    """Of one ticket that several columns train, under orders of the data of their own: values of the first column.

    order_*: the mean over all pairs of them. pruning_*: the mean distance to the whole network (`_whole`) of those that
    see the data in its order. With `asked.check` of what that check makes of the tickets, such as the random
    subnetwork: one mask of one seed, as the check draws by the seed alone.
    """
    found = {}
    first, check = asked.columns[0], asked.check
    for column, sparsity, seed in by_cell:
        if column != first:
            continue
        some = [by_cell[name, sparsity, seed] for name in asked.columns if (name, sparsity, seed) in by_cell]
        whole, order = _whole(some[0], by_cell.get((asked.against, "0.0", seed)))
        if check:
            some = [each._replace(folder=paths.check_folder(each.folder, check)) for each in some]
        tickets = [(each, _ticket(each)) for each in some if (each.folder / paths.SUMMARY).exists()]
        values = stability(
            [ticket for _, ticket in tickets],
            [ticket for each, ticket in tickets if whole is not None and _order(each) == order],
            whole,
        )
        if values:
            named = {f"{check}_{name}": value for name, value in values.items()} if check else values
            found[column, sparsity, seed] = named
    return found


def _whole(first: Combination, dense: Combination | None) -> tuple[Ticket | None, int | None]:
    """The whole network that trained as a ticket did, and its order of the data: from the weights W_k that the ticket
    was rewound to, by a new optimizer, it is what the first round of the search trained, if that was kept; the dense
    run goes through step k with its momentum. None if neither is there."""
    if 1 in (kept := paths.round_files(first.folder)):
        return ticket_file.load(kept[1]).ticket, _order(first)
    if dense is None or not (dense.folder / paths.SUMMARY).exists():
        return None, None
    return _ticket(dense), _order(dense)


def stability(tickets: Sequence[Ticket], pruned: Sequence[Ticket], whole: Ticket | None) -> dict[str, float]:
    """The distances of tickets of one mask to each other, and of those that were `pruned` to the whole network.

    Returns:
      order_l2, order_angle: means over all pairs of tickets; pruning_l2, pruning_angle: means over `pruned`; without
      those of which there are no pairs.
    Raises:
      ValueError: if two tickets have other masks.
    Example:
      >>> import numpy as np
      >>> ticket = lambda *w: Ticket({"w": np.array(w)}, None, {"w": np.array([True, True, False])})
      >>> stability([ticket(3.0, 0.0, 1.0), ticket(0.0, 4.0, 0.0)], [], None)
      {'order_l2': 5.0, 'order_angle': 90.0}

    Source: Stabilizing, section 2.
    """
    for ticket in tickets[1:]:
        if overlap.between(tickets[0].mask, ticket.mask).jaccard < 1:
            raise ValueError("stability: expected tickets of one mask, got two")
    pairs = [distance.between(a.params, b.params, a.mask) for a, b in itertools.combinations(tickets, 2)]
    found = {"order": pairs}
    if whole is not None:
        found["pruning"] = [distance.between(ticket.params, whole.params, ticket.mask) for ticket in pruned]
    return {
        f"{kind}_{name}": statistics.fmean(getattr(each, name) for each in some)
        for kind, some in found.items()
        for name in distance.Distance._fields
        if some
    }


def _connectivities(by_cell: Mapping[Cell, Combination], asked: Analysis) -> dict[Cell, dict[str, float]]:
    """Of one ticket that several columns train, under orders of the data of their own: values of the first column.

    error_barrier (points of accuracy) and loss_barrier: the means over all pairs of them, on the whole test set.
    """
    found = {}
    for column, sparsity, seed in by_cell:
        if column != asked.columns[0]:
            continue
        some = [by_cell[name, sparsity, seed] for name in asked.columns if (name, sparsity, seed) in by_cell]
        done = [each.folder for each in some if (each.folder / paths.SUMMARY).exists()]
        if len(done) < 2:
            continue
        pairs = list(itertools.combinations(networks_of(done), 2))
        heights = lines.barriers(lines.lines(pairs, examples=0))
        found[column, sparsity, seed] = {
            "error_barrier": 100 * statistics.fmean(each["error_barrier"] for each in heights),
            "loss_barrier": statistics.fmean(each["loss_barrier"] for each in heights),
        }
    return found


def _order(each: Combination) -> int | None:
    """The seed of its order of the data, where it has one of its own."""
    return getattr(each.config, "data_seed", None)


def _ticket(each: Combination) -> Ticket:
    return ticket_file.load(each.folder / paths.TICKET).ticket


TOGETHER = frozenset({"stability", "connectivity"})  # kinds of which the columns are compared with each other
KINDS = {"overlap": _overlaps, "stability": _stabilities, "connectivity": _connectivities}
