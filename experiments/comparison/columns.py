"""The columns of a comparison: methods with their flags, as typed or as a table of a paper has them."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.catalog.pruners.table import PRUNERS
from experiments.config.flag_names import no_such_flag
from experiments.config.flags import field_of
from experiments.config.parse import known_fields
from experiments.run_folder import paths
from experiments.terminal.errors import UsageError

__all__ = [
    "OWN", "Column", "Flags", "Speaks", "column", "distinct", "listed", "of_pruners", "paired", "read_columns",
    "spelled",
]  # fmt: skip

Flags = dict[str, list[str]]  # field -> its arguments, as typed
# What a comparison sets itself, so that no flag of a run may.
OWN = ("pruner", "sparsity", "seed", "num_seeds", "run_dir", "sanity", "compare", "dry_run", "for_")
_DRY = "what a dry run is compiled for; expected it with --dry-run of a data set's command or of compare"


class Speaks(NamedTuple):
    """What a command says of flags that it does not take from a run's.

    flags: names of its own, which may be meant. instead: field that the command sets, as are those of `OWN` -> what is
    expected. otherwise: for the rest of them. lists: what takes the place of --sweep.
    """

    flags: tuple[str, ...]
    instead: Mapping[str, str]
    otherwise: str
    lists: str


_IN_COLUMN = Speaks(
    flags=("sparsities",),
    instead={
        "pruner": "the method first, as in NAME: METHOD --FLAG=VALUE ...",
        "sparsity": "--sparsities=A,B, the column's own list",
    },
    otherwise="such flags outside of --columns",
    lists="another column for each value, or --sparsities",
)


class Column(NamedTuple):
    """One method with its own flags. sparsities: its own list, None for that of the comparison."""

    name: str
    pruner: str
    flags: Flags
    sparsities: tuple[str, ...] | None = None

    @property
    def removes(self) -> bool:
        """Whether it removes weights: all but the dense network."""
        return PRUNERS[self.pruner].removes

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return re.sub(r"[^\w.+-]+", "-", self.name).strip("-") or "column"


def of_pruners(names: Sequence[str]) -> list[Column]:
    """A column without flags for each method."""
    return [Column(name, name, {}) for name in names]


def read_columns(text: str) -> list[Column]:
    """Columns as typed: "EP: edge_popup; EP global: edge_popup --edge-popup.scope=global". A column without a name is
    called as it is typed.

    Raises:
      UsageError: for no columns, names given twice, and whatever `column` refuses.
    Example:
      >>> [(c.name, c.pruner, list(c.flags)) for c in read_columns("cold: imp --imp.rewind-step=0; random")]
      [('cold', 'imp', ['imp.rewind_step']), ('random', 'random', [])]
    """
    columns = []
    for entry in filter(None, (part.strip() for part in _divided(text))):
        name, colon, rest = entry.partition(":")
        named = colon and "--" not in name
        if named and not name.strip():
            raise UsageError(f"--columns: expected a name before the colon, got {entry!r}")
        columns.append(column(name.strip() if named else entry, rest if named else entry))
    if not columns:
        raise UsageError('--columns: expected "NAME: METHOD --FLAG=VALUE ...; ...", got none')
    return distinct(columns)


def distinct(columns: Sequence[Column]) -> list[Column]:
    """The columns.

    Raises:
      UsageError: for two of one name, or of names that make one folder.
    """
    seen: dict[str, str] = {}
    for each in columns:
        if each.folder in (".", "..", paths.PLOTS, paths.JOBS):
            raise UsageError(f"--columns: expected a name that can be a folder of a comparison, got {each.name!r}")
        if each.folder in seen:
            raise UsageError(f"--columns: expected a name for each column, got {each.name!r} and {seen[each.folder]!r}")
        seen[each.folder] = each.name
    return list(columns)


def column(name: str, text: str) -> Column:
    """A column from its method and flags, as in "imp --imp.rewind-step=0".

    Raises:
      UsageError: naming the column, for an unknown method, a flag that there is not, or one that a comparison sets.
    """
    where = f"--columns: {name!r}"
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{where}: {str(error).lower()} in {text!r}") from None
    if not words or words[0] not in PRUNERS:
        got = words[0] if words else ""
        raise UsageError(f"{where}: expected a method first, one of {', '.join(PRUNERS)}, got {got!r}")
    if name == "dense" and PRUNERS[words[0]].removes:
        raise UsageError(f"{where}: expected another name, that of the whole network stands for its row")
    if "--sparsities" in words:
        raise UsageError(f"{where}: expected --sparsities=A,B, got --sparsities without a list")
    own = [word for word in words[1:] if word.startswith("--sparsities=")]
    flags = paired([word for word in words[1:] if word not in own], where=f"{where}: ")
    values = listed("sparsities", own[-1].partition("=")[2], "fractions removed") if own else None
    return Column(name, words[0], flags, None if values is None else tuple(values))


def paired(args: Sequence[str], speaks: Speaks = _IN_COLUMN, where: str = "") -> Flags:
    """Flags with their values: field -> arguments; a later one of a field replaces an earlier.

    Args:
      speaks: what is said of those that may not be typed. where: before each error.
    Raises:
      UsageError: for what is no flag of a run.
    """
    flags: Flags = {}
    name, known = None, known_fields() - {"help", "help_all"}
    for arg in args:
        if arg.startswith("--"):
            name = field_of(arg)
            if arg.startswith("--sweep."):
                flag = f"{where}{arg.split('=')[0]}"
                raise UsageError(f"{flag}: a comparison takes no lists of values; expected {speaks.lists}")
            if name == "for_":
                raise UsageError(f"{where}{arg}: {_DRY}")
            if name in {*OWN, *speaks.instead}:
                expected = speaks.instead.get(name, speaks.otherwise)
                raise UsageError(f"{where}{arg}: a comparison sets it itself; expected {expected}")
            if name not in known:
                raise UsageError(where + no_such_flag(name, known - set(OWN) | set(speaks.flags)))
            flags[name] = [arg]
        elif name is None:
            raise UsageError(f"{where}expected flags, got {arg!r}")
        else:
            flags[name].append(arg)
    return flags


def listed(flag: str, text: str, wanted: str) -> list[str]:
    """The entries of a list typed with commas, each once: 0.9 and 0.90 are one.

    Raises:
      UsageError: if there are none.
    Example:
      >>> listed("sparsities", "0.9, 0.90, 0.5", "fractions removed")
      ['0.9', '0.5']
    """
    entries: dict[float | str, str] = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        entries.setdefault(_value(entry), entry)
    if not entries:
        raise UsageError(f"--{flag}: an empty comparison; expected {wanted}, got none")
    return list(entries.values())


def _value(entry: str) -> float | str:
    try:
        return float(entry)
    except ValueError:
        return entry


def spelled(flags: Mapping[str, Sequence[str]]) -> str:
    """Flags as they are typed: for titles."""
    return " ".join(shlex.join(args) for args in flags.values())


def _divided(text: str) -> list[str]:
    """The text at its semicolons, but for those in quotation marks."""
    parts, quote = [""], ""
    for letter in text:
        if letter in "'\"" and quote in ("", letter):
            quote = "" if quote else letter
        if letter == ";" and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
