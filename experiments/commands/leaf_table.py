"""What counts as prunable in a network, leaf by leaf: for --dry-run, and at the start of runs where there is doubt."""

import re
from collections.abc import Sequence

from rich.console import Console

from experiments.catalog.networks import NETWORKS
from experiments.config.config import Config
from rare_gems.masks import LeafReport

__all__ = ["print_leaves", "rows_of", "tell_dense", "tell_doubts"]

_MOST = 40  # lines, before alike leaves share one


def rows_of(leaves: Sequence[LeafReport], most: int = _MOST) -> list[tuple[str, str, str]]:
    """(name, shape, prunable or why not) of each leaf; of more leaves than `most` those share a row whose names differ
    in numbers only.

    Example:
      >>> rows_of([LeafReport("conv/w", (3, 3, 1, 8), True, "kernel"), LeafReport("conv/b", (8, 1, 1), False, "bias")])
      [('conv/w', '3x3x1x8', 'prunable: kernel'), ('conv/b', '8x1x1', 'not prunable: bias')]
      >>> rows_of([LeafReport(f"fc{i}/w", (8, i), True, "kernel") for i in (1, 2, 3)], most=2)
      [('fc*/w (3)', '8x1 to 8x3', 'prunable: kernel')]
    """
    alike: dict[tuple[str, str], list[LeafReport]] = {}
    for leaf in leaves:
        name = leaf.name if len(leaves) <= most else re.sub(r"\d+", "*", leaf.name)
        alike.setdefault((name, f"{'' if leaf.prunable else 'not '}prunable: {leaf.reason}"), []).append(leaf)
    return [
        (
            name if len(some) == 1 else f"{name} ({len(some)})",
            " to ".join(dict.fromkeys(_spelled(one.shape) for one in (some[0], some[-1]))),
            why,
        )
        for (name, why), some in alike.items()
    ]


def print_leaves(console: Console, leaves: Sequence[LeafReport]) -> None:
    """Prints one line for each row of `rows_of`."""
    rows = rows_of(leaves)
    wide, shape = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
    for row in rows:
        line = f"  {row[0]:<{wide}}  {row[1]:<{shape}}  {row[2]}"
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def tell_doubts(console: Console, model: str, leaves: Sequence[LeafReport]) -> None:
    """Prints what counts, for an own network in which a leaf counts that nothing tells of, or that --prunable adds."""
    guesses = [leaf.name for leaf in leaves if leaf.prunable and leaf.is_guess]
    added = [leaf.name for leaf in leaves if leaf.prunable and "usually not" in leaf.reason]
    if added:
        told = (
            f"--prunable counts {len(added)} of its {len(leaves)} leaves though they are no kernels by the usual rule"
        )
        console.print(f"{model}: {told}; all:", markup=False, soft_wrap=True)
    elif guesses and model not in NETWORKS:
        told = f"nothing tells whether {len(guesses)} of its {len(leaves)} leaves are kernels, so they count"
        console.print(
            f"{model}: {told}; --prunable=REGEX and --dense=REGEX decide otherwise:", markup=False, soft_wrap=True
        )
    if added or (guesses and model not in NETWORKS):
        print_leaves(console, leaves)


def tell_dense(console: Console, config: Config) -> None:
    """Prints what --dense and --prunable do for the dense network, which loses nothing."""
    flags = [flag for flag, value in (("--prunable", config.prunable), ("--dense", config.dense)) if value is not None]
    if flags and not config.method.removes:
        told = f"{' and '.join(flags)}: {config.pruner} removes nothing, so only the counts of its ticket change"
        console.print(told, markup=False, soft_wrap=True)


def _spelled(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"
