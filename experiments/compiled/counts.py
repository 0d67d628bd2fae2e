"""What a compiled step is made of: kernels by kind, collectives with their bytes, copies, waits for the host."""

from collections import Counter
from typing import Any, Literal, NamedTuple

from experiments.compiled.hlo import Module, Operation, bytes_of, elements_of

__all__ = ["COLLECTIVES", "Counts", "count", "is_free", "kind_of", "loop_body"]

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
               "collective-broadcast", "ragged-all-to-all")  # fmt: skip
# What no kernel is started for; the end of what began elsewhere, too.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
         "opt-barrier", "add-dependency", "domain", "async-update", "get-dimension-size"}  # fmt: skip
_FREE_CALLS = {"AllocateBuffer", "AllocateUninitialized", "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape",
               "AssumeGatherIndicesInBound", "ConcatBitcast"}  # fmt: skip
_PRODUCTS = {"convolution", "dot", "ragged-dot"}
_MOVES = {"copy", "transpose", "reshape", "slice", "dynamic-slice", "dynamic-update-slice", "concatenate", "pad"}
_TO_HOST = {"infeed", "outfeed", "send", "recv"}


class Counts(NamedTuple):
    """What one run through a computation does.

    kernels: kind -> number ("reduction", "product", "copy", "transpose", "collective", ...). scalars: operations of a
    TPU's scalar unit, on single numbers, which are none of the kernels.
    collectives, collective_bytes: kind -> number; bytes of what is gathered, or else of what each device gives.
    copies: those of more than a scalar, and their bytes; places: of collectives, kind, bytes and where they come from.
    host_syncs: times that the device waits for the host.
    """

    kernels: Counter[str]
    collectives: Counter[str]
    collective_bytes: Counter[str]
    scalars: int = 0
    copies: int = 0
    copy_bytes: int = 0
    conditionals: int = 0
    host_syncs: int = 0
    places: tuple[tuple[str, int, str], ...] = ()

    @property
    def num_kernels(self) -> int:
        """Of all kinds."""
        return sum(self.kernels.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        most = sorted(self.places, key=lambda place: -place[1])[:12]
        plain = {name: dict(value) if isinstance(value, Counter) else value for name, value in self._asdict().items()}
        return {"num_kernels": self.num_kernels} | plain | {"places": [list(place) for place in most]}


_NOTHING = Counts(Counter(), Counter(), Counter())


def count(module: Module, platform: str, name: str | None = None, branch: Literal["least", "most"] = "least") -> Counts:
    """Counts what a computation does, loops as often as they are known to turn, of conditionals one branch.

    Args:
      platform: "cuda" waits for the host at a conditional, and at each turn of a loop whose number is not known.
      name: of the computation; the whole program without one. branch: the one with the fewest kernels, or the most.
    """
    total = _NOTHING
    for operation in module.computations[name or module.entry].values():
        inside = [count(module, platform, called, branch) for called in operation.called
                  if called in module.computations]  # fmt: skip
        total = _sum(total, _of(module, platform, name or module.entry, operation, inside, branch))
    return total


def _of(module: Module, platform: str, where: str, operation: Operation, inside: list[Counts], branch: str) -> Counts:
    opcode, on_gpu = operation.opcode, platform == "cuda"
    if opcode == "while":
        turns = operation.num_trips
        return _times(_sum(*inside), turns or 1, int(on_gpu and turns is None))
    if opcode == "conditional":
        chosen = (min if branch == "least" else max)(inside, key=lambda counts: counts.num_kernels, default=_NOTHING)
        return _sum(chosen, _NOTHING._replace(conditionals=1, host_syncs=int(on_gpu)))
    if opcode in ("call", "async-start"):
        return _sum(*inside)
    if is_free(operation):
        return _NOTHING
    nested = _sum(*inside) if opcode == "fusion" else _NOTHING  # a collective may be fused with what it feeds
    base = opcode.removesuffix("-start")
    if base in COLLECTIVES:
        size = _payload(module, where, operation, base)
        return _NOTHING._replace(
            kernels=Counter({"collective": 1}), collectives=Counter({base: 1}), collective_bytes=Counter({base: size}),
            places=((base, size, operation.place),),
        )  # fmt: skip
    kind = kind_of(module, operation)
    if platform == "tpu" and elements_of(operation.shape) == 1 and opcode not in ("fusion", "custom-call", "copy"):
        return _NOTHING._replace(scalars=1)
    waits = int(base in _TO_HOST and "is_host_transfer=false" not in operation.attributes)
    waits += int("callback" in operation.target)
    large = int(kind == "copy" and elements_of(operation.shape) > 1)
    return Counts(
        kernels=Counter({"collective" if nested.collectives else kind: 1}),
        collectives=nested.collectives,
        collective_bytes=nested.collective_bytes,
        copies=large,
        copy_bytes=large * _result_bytes(operation),
        host_syncs=waits,
        places=nested.places,
    )


def is_free(operation: Operation) -> bool:
    """Whether nothing is started for an operation."""
    opcode = operation.opcode
    return opcode in _FREE or opcode.endswith("-done") or operation.target in _FREE_CALLS


def kind_of(module: Module, operation: Operation) -> str:
    """What a kernel mainly does: "product", "reduction", "copy", "transpose", "slice", "element-wise", ..."""
    if operation.opcode == "custom-call":
        libraries = ("cudnn", "cublas", "conv", "gemm", "dot", "matmul")
        return "product" if any(part in operation.target for part in libraries) else operation.target or "custom-call"
    if operation.opcode != "fusion":
        return _plain_kind(operation.opcode)
    fused = [inner for called in operation.called for inner in module.computations.get(called, {}).values()]
    kinds = {_plain_kind(inner.opcode) for inner in fused}
    for kind in ("product", "reduction", "sort", "scatter"):
        if kind in kinds:
            return kind
    roots = {inner.opcode for inner in fused if inner.is_root}
    moves = {inner.opcode for inner in fused} - _FREE
    if moves <= _MOVES:
        return "transpose" if "transpose" in moves else "copy" if moves & {"copy", "reshape"} else "slice"
    return "transpose" if "transpose" in roots else "element-wise"


def _plain_kind(opcode: str) -> str:
    base = opcode.removesuffix("-start")
    names = {"reduce": "reduction", "reduce-window": "reduction", "select-and-scatter": "reduction", "copy": "copy",
             "transpose": "transpose", "sort": "sort", "scatter": "scatter", "fusion": "element-wise"}  # fmt: skip
    return "product" if base in _PRODUCTS else names.get(base, "element-wise")


def _payload(module: Module, where: str, operation: Operation, base: str) -> int:
    """Bytes of what a collective gathers; of all others, what a device gives."""
    given = sum(bytes_of(module.computations[where][name].shape) for name in operation.operands
                if name in module.computations[where])  # fmt: skip
    if base != "all-gather":
        return given
    return bytes_of(operation.shape) - (given if operation.opcode.endswith("-start") else 0)


def _result_bytes(operation: Operation) -> int:
    size = bytes_of(operation.shape)
    return (size - 4) // 2 if operation.opcode == "copy-start" else size  # (where to, where from, a number)


def loop_body(module: Module, num_turns: int) -> str | None:
    """The body of the loop of the entry that turns so often: of an epoch in one program, a step.

    Returns:
      its name; None if there is none. Of several the longest.
    """
    loops = [operation for operation in module.computations[module.entry].values()
             if operation.opcode == "while" and operation.num_trips == num_turns]  # fmt: skip
    bodies = [name for loop in loops for name in loop.called if name in module.computations]
    return max(bodies, key=lambda name: len(module.computations[name]), default=None)


def _sum(*parts: Counts) -> Counts:
    total = _NOTHING
    for part in parts:
        total = Counts(*(a + b for a, b in zip(total, part, strict=True)))  # type: ignore
    return total


def _times(counts: Counts, turns: int, waits: int) -> Counts:
    """What a loop does; `waits`: 1 if it asks the host at each turn."""

    def scaled(part: Any) -> Any:
        return (
            Counter({name: turns * value for name, value in part.items()})
            if isinstance(part, Counter)
            else (part if isinstance(part, tuple) else turns * part)
        )

    made = Counts(*map(scaled, counts))
    return made._replace(host_syncs=made.host_syncs + waits * turns)
