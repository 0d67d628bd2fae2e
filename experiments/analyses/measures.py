"""Pairs of trained networks as rows of numbers: distances of weights, overlaps of masks."""

import itertools
from collections.abc import Sequence
from typing import Any

from experiments.analyses.networks import Network
from experiments.problem.found_ticket import check_source
from experiments.terminal.errors import UsageError
from rare_gems import masks
from rare_gems.analysis import distance, overlap
from rare_gems.phase import Mask

__all__ = ["ALL", "Row", "check_trained", "common_mask", "distances", "have_one_mask", "overlaps"]

Row = dict[str, Any]
ALL = "all"  # the row of all layers together


def distances(networks: Sequence[Network]) -> list[Row]:
    """L2 and angle of every pair, over the kept weights: of all layers, then of each.

    Returns:
      rows of `first`, `second`, `layer`, `weights` (how many are compared), `over` ("their mask", or "what both keep"
      where the masks differ), `l2`, `angle` (degrees).
    Raises:
      UsageError: for fewer than two networks.
    """
    rows: list[Row] = []
    for a, b in _pairs("distance", networks):
        mask, over = common_mask(a, b)
        counts = masks.layer_counts(mask)
        both: Row = {"first": a.name, "second": b.name}
        whole = distance.between(a.params, b.params, mask)
        each = distance.per_layer(a.params, b.params, mask)
        rows.append(both | {"layer": ALL, "weights": masks.num_kept(mask), "over": over} | whole._asdict())
        rows += [both | {"layer": name, "weights": counts[name][0], "over": over} | each[name]._asdict()
                 for name in a.layers]  # fmt: skip
    return rows


def overlaps(networks: Sequence[Network]) -> list[Row]:
    """What the masks of every pair have in common, beside what two random masks with their layer counts would.

    Returns:
      rows of `first`, `second`, `layer`, `shared`, `jaccard`, `eq7` and the same with `_by_chance`.
    Raises:
      UsageError: for fewer than two networks.
    """
    rows: list[Row] = []
    for a, b in _pairs("overlap", networks):
        found = {ALL: overlap.between(a.mask, b.mask)} | overlap.per_layer(a.mask, b.mask)
        chance = {ALL: overlap.by_chance(a.mask, b.mask)} | overlap.by_chance_per_layer(a.mask, b.mask)
        for name in (ALL, *a.layers):
            by_chance = {f"{measure}_by_chance": value for measure, value in chance[name]._asdict().items()}
            rows.append({"first": a.name, "second": b.name, "layer": name} | found[name]._asdict() | by_chance)
    return rows


def common_mask(a: Network, b: Network) -> tuple[Mask, str]:
    """The mask over which two networks are compared, and what it is."""
    if have_one_mask(a, b):
        return a.mask, "their mask"
    return overlap.common(a.mask, b.mask, "both"), "what both keep"


def have_one_mask(a: Network, b: Network) -> bool:
    """Whether both keep the same weights."""
    counts = masks.layer_counts(a.mask)
    return counts == masks.layer_counts(b.mask) and overlap.between(a.mask, b.mask).jaccard == 1


def check_trained(what: str, networks: Sequence[Network]) -> None:
    """Raises UsageError for a ticket whose weights were never trained under its mask, or whose finder is gone."""
    for network in networks:
        if network.round is None and network.config.finetune_epochs == 0:
            raise UsageError(f"{what}: expected a ticket that was trained, got {network.folder} of --finetune-epochs=0")
        check_source(network.config, network.folder)


def _pairs(what: str, networks: Sequence[Network]) -> list[tuple[Network, Network]]:
    if len(networks) < 2:
        raise UsageError(f"{what}: expected two networks or more, got {len(networks)}; --rounds adds those that the "
                         "rounds of a run trained (--keep=rounds)")  # fmt: skip
    return list(itertools.combinations(networks, 2))
