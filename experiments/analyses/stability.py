"""Stability of subnetworks, to the order of the data and to pruning, of runs that are recognised by what they asked.

Source: Stabilizing the Lottery Ticket Hypothesis, section 2.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.analyses.measures import Row, check_trained, common_mask, have_one_mask
from experiments.analyses.networks import Network
from experiments.config.saved import FREE, digest, fields_of, flat
from experiments.problem.found_ticket import rewound_to, source_of
from experiments.problem.training import Part, descent_for, smoothing_for
from experiments.terminal.errors import UsageError
from rare_gems import masks
from rare_gems.analysis import distance, overlap

__all__ = ["check_one_mask", "labels", "order_pairs", "pruning_pairs", "samples", "summary"]

Pair = tuple[Network, Network]


def samples(networks: Sequence[Network], wholes: Sequence[Network] = (), *, intersect: bool = False) -> list[Row]:
    """The distance of every pair that is a sample of a stability.

    Args:
      networks: trained ones. wholes: further whole networks, to compare subnetworks with.
      intersect: pairs of other orders may differ in their masks, and are compared over what both keep.
    Returns:
      rows of `stability` ("data order" or "pruning"), `ticket` (what pairs of one kind share), `rewound_to` (the step),
      `first`, `second`, `l2`, `angle`.
    Raises:
      UsageError: if there is no pair of either kind, and for two masks that differ.
    """
    check_trained("stability", networks)
    orders = order_pairs(networks)
    for a, b in orders:
        check_one_mask("stability", a, b, intersect)
    pruned, why = pruning_pairs([*wholes, *networks], networks)
    if not orders and not pruned:
        raise UsageError(
            "stability: expected runs of one ticket that differ in --data-seed alone (--pruner=ticket), or a whole "
            "network (--pruner=dense, or the first round of --keep=rounds) and its subnetworks of one --data-seed, got "
            f"{len(networks)} without such a pair{why and f'; {why}'}"
        )
    rows = []
    names = labels([b for _, b in (*orders, *pruned)])
    for kind, pairs in (("data order", orders), ("pruning", pruned)):
        for a, b in pairs:
            mask = b.mask if kind == "pruning" else common_mask(a, b)[0]
            shared: Row = {"stability": kind, "ticket": names[b.folder, b.round], "rewound_to": rewound_to(b.config)}
            both: Row = {"first": a.name, "second": b.name}
            rows.append(shared | both | distance.between(a.params, b.params, mask)._asdict())
    return rows


def summary(rows: Sequence[Row]) -> list[Row]:
    """Mean, least and most over the samples of each kind of stability, ticket and step rewound to."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["stability"], row["ticket"], row["rewound_to"]), []).append(row)
    means = []
    for (kind, ticket, step), some in groups.items():
        mean: Row = {"stability": kind, "ticket": ticket, "rewound_to": step, "pairs": len(some)}
        for name in ("l2", "angle"):
            values = [row[name] for row in some]
            mean |= {name: float(np.mean(values)), f"{name}_min": min(values), f"{name}_max": max(values)}
        means.append(mean)
    kinds, tickets = ([*dict.fromkeys(row[name] for row in means)] for name in ("stability", "ticket"))
    place = lambda row: (kinds.index(row["stability"]), tickets.index(row["ticket"]), row["rewound_to"])  # noqa: E731
    return sorted(means, key=place)


def order_pairs(networks: Sequence[Network]) -> list[Pair]:
    """All pairs of runs that differ in their order of batches alone."""
    groups: dict[tuple[Any, ...], dict[int | None, Network]] = {}
    for network in networks:
        key = digest(fields_of(dataclasses.replace(network.config, data_seed=None))), network.check, network.round
        groups.setdefault(key, {}).setdefault(network.config.data_seed, network)
    return [pair for group in groups.values() for pair in itertools.combinations(group.values(), 2)]


def pruning_pairs(wholes: Sequence[Network], networks: Sequence[Network]) -> tuple[list[Pair], str]:
    """Whole networks with the subnetworks that trained as they did, from the same weights and in the same order; and
    why some whole network and subnetwork are no such pair."""
    pairs, why, seen = [], "", set()
    for whole, part in itertools.product(wholes, networks):
        if not whole.is_whole or part.is_whole:
            continue
        if reason := _why_apart(whole, part):
            why = why or f"{whole.name} and {part.name}: {reason}"
        elif (same := (_digest(whole.params), _digest(part.params))) not in seen:  # a ticket trained again is no sample
            seen.add(same)
            pairs.append((whole, part))
    return pairs, why


def check_one_mask(what: str, a: Network, b: Network, intersect: bool) -> None:
    """Raises UsageError for two masks that differ, unless what both keep is to be compared."""
    if not intersect and not have_one_mask(a, b):
        shared = 100 * overlap.between(a.mask, b.mask).shared
        raise UsageError(
            f"{what}: expected networks of one mask, got {a.name} and {b.name}, whose masks share {shared:.1f} %; "
            "--intersect takes what both keep, and --pruner=ticket trains one ticket under several --data-seed"
        )


def labels(networks: Sequence[Network]) -> dict[tuple[Path, int | None], str]:
    """By folder and round, what the samples of one stability have in common, whatever their seeds; of several recipes
    under one such name also in what they differ."""
    groups: dict[tuple[str, int], dict[tuple[Path, int | None], Row]] = {}
    for place, network in {(network.folder, network.round): network for network in networks}.items():
        alike = groups.setdefault((_label(network), rewound_to(network.config)), {})
        alike[place] = _recipe(network)
    found = {}
    for (name, _), recipes in groups.items():
        first, *others = recipes.values()
        fields = dict.fromkeys(field for recipe in recipes.values() for field in recipe)
        apart = [field for field in fields if any(each.get(field) != first.get(field) for each in others)]
        for place, recipe in recipes.items():
            found[place] = ", ".join([name, *(f"{field} {recipe.get(field)}" for field in apart)])
    return found


def _recipe(network: Network) -> Row:
    """How a ticket was found and trained, but for seeds, and for other runs that it names, which have seeds of their
    own."""
    config = source_of(network.config) or network.config
    options = {f"{config.pruner}.{name}": value for name, value in vars(config.options).items()}
    left = {*FREE, "seed", "data_seed", *(name for name, value in (vars(config) | options).items()
                                          if isinstance(value, Path))}  # fmt: skip
    found = {name: value for name, value in flat(fields_of(config)).items()
             if name not in left and not name.startswith("finetune")}  # fmt: skip
    return found | _training(network)  # whose finetuning counts is that of the network


def _label(network: Network) -> str:
    config, parts = network.config, []
    source = source_of(config)
    parts.append(config.pruner if source is None else source.pruner)
    parts += [network.check] if network.check else []
    kept, size = masks.num_kept(network.mask), masks.num_prunable(network.mask)
    return ", ".join([*parts, f"{100 * kept / size:.3g} % kept"])


def _why_apart(whole: Network, part: Network) -> str | None:
    """Why a subnetwork is not what the whole network would be, pruned before its training; None if it is."""
    seeds = whole.config.data_seed, part.config.data_seed
    if None in seeds:
        return "without --data-seed every training has an order of its own"
    if seeds[0] != seeds[1]:
        return f"--data-seed is {seeds[0]} and {seeds[1]}"
    there, here = _training(whole), _training(part)
    for name, value in there.items():
        if here[name] != value:
            return f"they trained otherwise, {name} {value} and {here[name]}"
    begun = (masks.apply(network.initial, part.mask) for network in (whole, part))
    if not all(np.array_equal(*leaves) for leaves in zip(*map(_floats, begun), strict=True)):
        return "they began with other weights"
    return None


def _training(network: Network) -> Row:
    """How the network trained: a round as the search does, a ticket as the finetuning."""
    config = network.config
    in_rounds = config.method.length == "rounds"
    part: Part = "finetune" if network.round is None else "training"
    how = descent_for(config, part)
    if network.round is None:
        length, rate = config.finetune_epochs, config.finetune_learning_rate
    else:
        length, rate = config.options.round_epochs if in_rounds else config.epochs, config.learning_rate
        if in_rounds and not config.options.decay:
            how = how._replace(
                schedule="constant", milestones=None, milestone_steps=None, decay_factor=None, end_rate=None
            )
    shared = {name: vars(config)[name] for name in ("momentum", "weight_decay", "batch_size", "precision")}
    shared |= {"label smoothing": smoothing_for(config, part)} | how._asdict()
    return {"epochs": length, "learning rate": rate, "first step": rewound_to(config)} | shared


def _digest(params: Any) -> str:
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in _floats(params))).hexdigest()


def _floats(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
