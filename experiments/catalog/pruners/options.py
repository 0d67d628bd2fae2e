"""Turns the keyword arguments of a function into the options of a method: frozen, typed, with their help."""

import dataclasses
import inspect
import pathlib
import re
import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import tyro

__all__ = ["as_dict", "descriptions", "options_of"]

_FLAGS = (bool, int, float, str, pathlib.Path, type(None))


def options_of(name: str, *functions: Callable[..., Any], without: Iterable[str] = ()) -> type:
    """A frozen dataclass with a field for each keyword argument that can be a flag.

    Type and default are those of the signature; the help is the argument's line in the docstring.

    Args:
      name: of the method. functions: their keyword-only arguments become fields; of several with one name, the first.
      without: arguments that have no flag, since the experiment gives them.
    Raises:
      ValueError: for an argument without a default or without a line in the docstring.
    Example:
      >>> def shrink(*, rate: float = 0.2):
      ...     '''Shrinks.
      ...
      ...     Args:
      ...       rate: fraction that is removed
      ...     '''
      >>> options_of("shrink", shrink)()
      Shrink(rate=0.2)
    """
    fields: dict[str, Any] = {}
    for function in functions:
        hints, told = typing.get_type_hints(function, include_extras=True), descriptions(function)
        for argument in inspect.signature(function).parameters.values():
            hint = hints.get(argument.name)
            if argument.kind is not argument.KEYWORD_ONLY or argument.name in (*fields, *without) or not _is_flag(hint):
                continue
            if argument.default is argument.empty:
                raise ValueError(f"{name}: expected a default for {argument.name}, which is an option, got none")
            if argument.name not in told:
                raise ValueError(f"{name}: expected a line about {argument.name} in the docstring, got none")
            helped = Annotated[hint, tyro.conf.arg(help=told[argument.name])]
            fields[argument.name] = (argument.name, helped, dataclasses.field(default=argument.default))
    title = "".join(part.capitalize() for part in name.split("_"))
    return dataclasses.make_dataclass(title, list(fields.values()), frozen=True)


def descriptions(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring's `Args:` say of each argument, each as one line."""
    found = re.search(r"^Args:\n((?:[ ]+.*\n|\n)*)", (inspect.getdoc(function) or "") + "\n", re.MULTILINE)
    if found is None:
        return {}
    names = "|".join(inspect.signature(function).parameters)
    starts = list(re.finditer(rf"(?:^ *|(?<=\. ))((?:{names})(?:, (?:{names}))*): ", found[1], re.MULTILINE))
    ends = [start.start() for start in starts[1:]] + [len(found[1])]
    told = {}
    for start, end in zip(starts, ends, strict=True):
        text = " ".join(found[1][start.end() : end].split())
        told |= dict.fromkeys(start[1].split(", "), text)
    return told


def as_dict(options: Any) -> dict[str, Any]:
    """The fields of options, as keyword arguments."""
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}


def _is_flag(hint: Any) -> bool:
    """Whether values of this type can be typed on a command line."""
    if typing.get_origin(hint) is typing.Literal:
        return True
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return all(map(_is_flag, typing.get_args(hint)))
    return hint in _FLAGS and hint is not None
