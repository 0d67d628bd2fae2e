"""Some of an item alone: parts, columns and sparsities, by their names."""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from experiments.comparison.columns import column
from experiments.comparison.expand import DENSE
from experiments.papers.item import Column, Item, Part
from experiments.reproduction.analyses import TOGETHER
from experiments.terminal.errors import UsageError

__all__ = ["Chosen", "choose", "names_of"]

_SPARSITIES = "--sparsities="


class Chosen(NamedTuple):
    """What is wanted of an item, as typed between commas; all where nothing is named.

    parts: names, networks or data sets. columns: those whose runs they read come along, those that their analyses
    compare them with, and the dense network. sparsities: fractions removed.
    """

    parts: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    sparsities: tuple[str, ...] = ()

    def told(self) -> list[str]:
        """A line for each choice."""
        named = self._asdict().items()
        return [f"some of its {kind} alone: {', '.join(names)}" for kind, names in named if names]


def choose(item: Item, chosen: Chosen) -> Item:
    """The item with nothing but what is wanted of it. What is named counts at small scale, too, which has fewer
    columns and sparsities otherwise.

    Raises:
      UsageError: for a name that nothing has, saying which there are.
    """
    for kind, names in chosen._asdict().items():
        if "" in names:
            raise UsageError(f"--{kind}: a name is empty in {','.join(names)!r}")
    parts = _parts(item, chosen.parts)
    parts = _with_columns(item, parts, chosen.columns)
    return item._replace(parts=tuple(_at_sparsities(item, parts, chosen.sparsities)))


def names_of(part: Part) -> tuple[str, ...]:
    """What a part can be asked for by."""
    return tuple(filter(None, (part.name, part.model, part.dataset)))


def _parts(item: Item, words: Sequence[str]) -> list[Part]:
    known = dict.fromkeys(name for part in item.parts for name in names_of(part))
    names = _named(item, "parts", words, known)
    return [part for part in item.parts if not names or names & set(names_of(part))]


def _with_columns(item: Item, parts: Sequence[Part], words: Sequence[str]) -> list[Part]:
    if not words:
        return list(parts)
    own = [[each.name for each in part.columns] + [DENSE.name] * part.dense for part in parts]
    names = _named(item, "columns", words, dict.fromkeys(name for some in own for name in some))
    return [
        part._replace(columns=_needed(part, names | _compared(part, names)), small=part.small._replace(columns=()))
        for part, some in zip(parts, own, strict=True)
        if names & set(some)
    ]


def _compared(part: Part, names: set[str]) -> set[str]:
    """What the analyses of these columns compare them with."""
    found: set[str] = set()
    for asked in part.analyses:
        if not asked.columns or not names.isdisjoint(asked.columns):
            found |= {asked.against} | (set(asked.columns) if asked.what in TOGETHER else set())
    return found


def _needed(part: Part, names: Collection[str]) -> tuple[Column, ...]:
    """The columns of these names and those whose runs they read, as in --pretrained=@dense."""
    by_name = {each.name: each for each in part.columns}
    found, open_ = set(), [name for name in names if name in by_name]
    while open_:
        name = open_.pop()
        if name not in found:
            found.add(name)
            args = [arg for some in column(name, by_name[name].flags).flags.values() for arg in some]
            read = [arg.partition("=@")[2] for arg in args]
            open_ += [other for other in read if other in by_name]
    return tuple(each for each in part.columns if each.name in found)


def _at_sparsities(item: Item, parts: Sequence[Part], words: Sequence[str]) -> list[Part]:
    if not words:
        return list(parts)
    known = dict.fromkeys(one for part in parts for one in (*part.sparsities, *_own_sparsities(part.columns)))
    names = _named(item, "sparsities", [_as_there(word, known) for word in words], known)
    found = []
    for part in parts:
        sparsities = tuple(one for one in part.sparsities if one in names)
        columns = tuple(each for one in part.columns if (each := _only(one, names, sparsities)) is not None)
        if columns or (sparsities and not part.columns):
            small = part.small._replace(sparsities=())
            found.append(part._replace(columns=columns, sparsities=sparsities, small=small))
    if not found:
        there = "; ".join(f"{each.name} at {', '.join(_own_sparsities([each]) or part.sparsities)}"
                          for part in parts for each in part.columns)  # fmt: skip
        raise UsageError(f"--sparsities: none of these columns is at {', '.join(words)}; expected some of {there}")
    return found


def _as_there(word: str, known: Iterable[str]) -> str:
    """The sparsity as the item spells it: 0.90 is its 0.9."""
    try:
        return next((one for one in known if float(one) == float(word)), word)
    except ValueError:
        raise UsageError(f"--sparsities: expected fractions removed, got {word!r}") from None


def _own_sparsities(columns: Iterable[Column]) -> list[str]:
    return [one for each in columns for one in column(each.name, each.flags).sparsities or ()]


def _only(each: Column, wanted: Collection[str], common: Sequence[str]) -> Column | None:
    """The column where it is wanted: at what is left of its own list of sparsities, or in `common`; None if nowhere."""
    if _SPARSITIES not in each.flags:
        return each if common else None
    left = [one for one in _own_sparsities([each]) if one in wanted]
    words = [word for word in each.flags.split(" ") if not word.startswith(_SPARSITIES)]
    return each._replace(flags=" ".join([*words, _SPARSITIES + ",".join(left)])) if left else None


def _named(item: Item, kind: str, words: Sequence[str], known: Collection[str]) -> set[str]:
    """The names that are typed: some have commas in them."""
    names = _joined(words, known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"--{kind}: {item.id} has no {unknown[0]!r}; expected any of {'; '.join(known)}")
    return set(names)


def _joined(words: Sequence[str], known: Collection[str]) -> list[str]:
    """The names among the words between the commas of a list: the longest first."""
    names, first = [], 0
    while first < len(words):
        ends = range(len(words), first, -1)
        end = next((end for end in ends if ", ".join(words[first:end]) in known), first + 1)
        names.append(", ".join(words[first:end]))
        first = end
    return names
