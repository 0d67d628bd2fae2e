"""Compiled programs as XLA prints them: computations, their operations, and the bytes of shapes."""

import math
import re
from typing import NamedTuple

__all__ = ["Module", "Operation", "bytes_of", "elements_of", "parse"]

_ITEM = re.compile(r"([a-z]\w*)\[([\d,<=]*)\]")
_HEAD = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\) -> .*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([^\s=]+) = ")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch_computations|called_computations|calls)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BITS = re.compile(r"^(?:pred|[a-z]+?(\d+))")


class Operation(NamedTuple):
    """A line of a computation. shape: as printed; operands, called: names; num_trips: of a loop, where it is known."""

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    called: tuple[str, ...]
    is_root: bool
    num_trips: int | None
    attributes: str

    @property
    def place(self) -> str:
        """Where in the traced function it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def target(self) -> str:
        """What a custom call calls."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""


class Module(NamedTuple):
    """A program: name of a computation -> its operations by name, in order; and which of them is the whole."""

    computations: dict[str, dict[str, Operation]]
    entry: str


def parse(text: str) -> Module:
    """Reads the text of a compiled program.

    Raises:
      ValueError: if there is no entry in it.
    Example:
      >>> text = "ENTRY %main (x: f32[2]) -> f32[2] {\\n  ROOT %y = f32[2]{0} negate(%x)\\n}"
      >>> parse(text).computations["main"]["y"].opcode
      'negate'
    """
    computations: dict[str, dict[str, Operation]] = {}
    entry, inside = "", None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            inside = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            inside = None
        elif inside is not None and (operation := _operation(line)):
            inside[operation.name] = operation
    if not entry:
        raise ValueError("text: expected a compiled program with an ENTRY, got none")
    return Module(computations, entry)


def _operation(line: str) -> Operation | None:
    head = _LINE.match(line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, parenthesis, _ = rest.partition("(")
    if end < 1 or not parenthesis or not re.fullmatch(r"[\w\-]+", opcode):
        return None
    end = _closing(rest, len(opcode))
    operands, attributes = rest[len(opcode) + 1 : end], rest[end + 1 :]
    braces = [name.strip().lstrip("%") for found in _BRANCHES.findall(attributes) for name in found.split(",")]
    trips = _TRIPS.search(attributes)
    return Operation(
        name=head[2],
        opcode=opcode,
        shape=shape,
        operands=tuple(re.findall(r"%([^\s,()]+)", operands)),
        called=tuple(dict.fromkeys([*_CALLED.findall(attributes), *filter(None, braces)])),
        is_root=bool(head[1]),
        num_trips=int(trips[1]) if trips else None,
        attributes=attributes,
    )


def _closing(text: str, start: int) -> int:
    """Where the parenthesis closes that opens at `start`; the end of the text where it does not."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    return len(text)


def _sizes(shape: str) -> list[tuple[str, int]]:
    found = [(dtype, [int(d.lstrip("<=")) for d in dims.split(",") if d]) for dtype, dims in _ITEM.findall(shape)]
    return [(dtype, math.prod(dims)) for dtype, dims in found if dtype not in ("token", "opaque")]


def elements_of(shape: str) -> int:
    """The elements of a printed shape, of tuples all.

    Example:
      >>> elements_of("(f32[2,3]{1,0:T(8,128)}, pred[])")
      7
    """
    return sum(number for _, number in _sizes(shape))


def bytes_of(shape: str) -> int:
    """The bytes of a printed shape, without padding; of tuples all.

    Example:
      >>> bytes_of("(f32[2,3]{1,0:T(8,128)}, pred[], bf16[4])")
      33
    """
    return sum(math.ceil(number * _bits(dtype) / 8) for dtype, number in _sizes(shape))


def _bits(dtype: str) -> int:
    found = _BITS.match(dtype)
    return int(found[1]) if found and found[1] else 8
