"""Flags as they are typed: the field that one sets, and what tyro reads of them, with errors of one line."""

import contextlib
import dataclasses
import io
import keyword
import re
import typing
from typing import Any

import tyro

from experiments.config.refusals import in_one_line
from experiments.terminal.errors import UsageError

__all__ = ["field_of", "read_flags", "typed_by_name"]


def field_of(flag: str) -> str:
    """The field that a flag sets: --gem-miner.no-freeze -> gem_miner.freeze."""
    name = flag.removeprefix("--").split("=")[0].replace("-", "_")
    name = f"{name}_" if keyword.iskeyword(name) else name
    return re.sub(r"(^|\.)no_", r"\1", name)


def read_flags(kind: Any, args: list[str], program: str, **options: Any) -> Any:
    """What tyro reads, its boxed errors folded into one line.

    Raises:
      UsageError: for what it cannot read. SystemExit: with status 0, after --help.
    """
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(kind, args=args, prog=program, **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(in_one_line(errors.getvalue(), args, [*typed_by_name(kind), "help"])) from None


def typed_by_name(kind: Any) -> tuple[str, ...]:
    """The fields of a dataclass that flags set; the others are told by their place."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return tuple(field.name for field in dataclasses.fields(kind)
                 if tyro.conf.Positional not in typing.get_args(hints[field.name]))  # fmt: skip
