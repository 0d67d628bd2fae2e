"""What tyro says of a command line that it cannot read, as one line with what was expected and what was given."""

import re
from collections.abc import Iterable, Sequence

from experiments.config.flag_names import no_such_flag

__all__ = ["in_one_line"]

_NUMBERS = {"'int'": "a whole number", "to int": "a whole number", "for int()": "a whole number",
            "'float'": "a number", "to float": "a number"}  # fmt: skip


def in_one_line(text: str, args: Sequence[str], known: Iterable[str]) -> str:
    """What is said in place of a box of tyro's.

    Args:
      text: the box. args: the arguments that were read. known: names of the fields that there are, of which the
        nearest is named.
    Example:
      >>> in_one_line("title\\nError parsing --seed: invalid literal for int() with base 10: '1.5'", [], [])
      "--seed: expected a whole number, got '1.5'"
    """
    said = _unboxed(text)
    for told in (_number(said), _choice(said), _without_value(said), _left_over(said, args, known), _missing(said)):
        if told:
            return told
    return said


def _unboxed(text: str) -> str:
    text = re.split(r"For full helptext|Argument helptext|Perhaps you meant", text)[0]
    lines = [re.sub(r"[─│╭╮╰╯]|-{4,}|^\||\|$", "", line).strip() for line in text.splitlines()]
    return " ".join(line for line in lines[1:] if line).strip() or "the command line could not be read"


def _number(said: str) -> str | None:
    found = re.match(r"Error parsing (\S+): (?:no type matching .*? could be instantiated from \['(.*?)'\])?", said)
    kinds = list(dict.fromkeys(kind for sign, kind in _NUMBERS.items() if sign in said))
    got = found and (found[2] or said.rpartition(": ")[2].strip("'"))
    if not found or not kinds:
        return None
    expected = " or ".join([*kinds, *(["None"] if "NoneType" in said else [])])
    return f"{found[1]}: expected {expected}, got {got!r}"


def _choice(said: str) -> str | None:
    found = re.match(r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*)\)\.$", said)
    if not found:
        return None
    names = re.findall(r"'([^']*)'", found[3])
    if "None" in names:  # tyro has them in no order then
        names = [*sorted(name for name in names if name != "None"), "None"]
    return f"{found[2]}: expected one of {', '.join(names)}, got {found[1]!r}"


def _without_value(said: str) -> str | None:
    found = re.match(r"Missing value for argument '(\S+)'", said)
    if not found:
        return None
    name = found[1] if found[1].startswith("-") else found[1].upper().replace("-", "_")
    return f"{name}: expected a value, got none"


def _left_over(said: str, args: Sequence[str], known: Iterable[str]) -> str | None:
    found = re.match(r"Unrecognized options: (.*)", said)
    if not found:
        return None
    first = next((arg for arg in args if found[1] == arg or found[1].startswith((f"{arg} ", f"{arg}, "))), found[1])
    if first.startswith("--"):
        return no_such_flag(first.removeprefix("--").partition("=")[0].replace("-", "_"), known)
    switch = next((arg for arg in args if arg.startswith("--") and arg.partition("=")[2] == first), None)
    if switch:
        return f"{switch.partition('=')[0]}: a switch; expected no value, got {first!r}"
    return f"expected flags, got {first!r}"


def _missing(said: str) -> str | None:
    found = re.match(r"Missing from .*?: (.*)", said)
    if not found:
        return None
    wanted = re.findall(r"(\S+)(?: \{(\S*)\})? (.*?) \(required\)", found[1])
    spelled = [f"{name}={choices.replace(',', '|')}" if choices else name for name, choices, _ in wanted]
    told = " and ".join(f"{name} ({what})" for name, (*_, what) in zip(spelled, wanted, strict=True))
    return f"expected {told}, got none" if wanted else None
