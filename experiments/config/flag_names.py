"""How fields are typed as flags."""

import difflib
from collections.abc import Iterable

__all__ = ["flag_of", "no_such_flag"]


def flag_of(name: str) -> str:
    """A field as it is typed: gem_miner.finetune_mask -> --gem-miner.finetune-mask, for_ -> --for."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def no_such_flag(name: str, known: Iterable[str], typed: str | None = None) -> str:
    """What is said of a flag that there is not, with the nearest that there is.

    Args:
      name: of a field. known: all of them. typed: the flag as it was typed, if not as the field's.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, 1, 0.5)
    lists = "help_all" if "help_all" in known else "help"
    told = f"the nearest is {flag_of(near[0])}" if near else f"{flag_of(lists)} lists all"
    return f"{typed or flag_of(name)}: there is no such flag; {told}"
