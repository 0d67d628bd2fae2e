"""The devices that a program can be compiled for: their memory, and how `--for` spells them and their number."""

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from experiments.terminal.errors import UsageError

__all__ = ["KINDS", "Kind", "Target", "parse_target"]

_GIB = 2**30


class Kind(NamedTuple):
    """A kind of device. memory: bytes of one device, what programs can have on a TPU, as sold of a GPU (GB of 10^9
    bytes); of a GPU JAX takes `share` of it by default. num_axes: of a topology, `2x2` has two. gpu: what XLA is told
    of a GPU beside its memory, in the words of its GpuTargetConfigProto."""

    name: str
    platform: Literal["tpu", "cuda"]
    title: str
    memory: int
    source: str
    num_axes: int
    share: float = 1.0
    gpu: Mapping[str, float] = MappingProxyType({})

    @property
    def usable(self) -> int:
        """Bytes that a program may take."""
        return int(self.memory * self.share)


class Target(NamedTuple):
    """Devices that are not there: their kind, how many along each axis, and what was typed."""

    kind: Kind
    topology: tuple[int, ...]
    text: str

    @property
    def num_devices(self) -> int:
        """All of them."""
        return math.prod(self.topology)


def _tpu(name: str, title: str, memory: float, num_axes: int, sold: str) -> Kind:
    source = f"what libtpu lets a program have; Google Cloud's page of {title} says {sold}"
    return Kind(name, "tpu", title, int(memory * _GIB), source, num_axes)


def _gpu(name: str, title: str, memory: int, cores: int, major: int, minor: int, bandwidth: float, l2: int) -> Kind:
    """A GPU. bandwidth: GB/s; l2: MiB."""
    gpu = {"core_count": cores, "major": major, "minor": minor, "memory_bandwidth": bandwidth * 1e9, "l2": l2 * 2**20}
    source = f"NVIDIA's data sheet of {title}; 0.75 of it is JAX's XLA_PYTHON_CLIENT_MEM_FRACTION"
    return Kind(name, "cuda", title, memory * 10**9, source, 1, 0.75, gpu)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        _tpu("v5e", "TPU v5e", 15.75, 2, "16 GB"),
        _tpu("v5p", "TPU v5p", 95.74, 3, "95 GB"),
        _tpu("v6e", "TPU v6e", 31.25, 2, "32 GB"),
        _gpu("t4", "Tesla T4", 16, 40, 7, 5, 320, 4),
        _gpu("l4", "L4", 24, 58, 8, 9, 300, 48),
        _gpu("a100", "A100 40GB", 40, 108, 8, 0, 1555, 40),
        _gpu("a100-80gb", "A100 80GB SXM", 80, 108, 8, 0, 2039, 40),
        _gpu("h100", "H100 SXM", 80, 132, 9, 0, 3350, 50),
        _gpu("h200", "H200", 141, 132, 9, 0, 4800, 50),
    )
}


def parse_target(text: str) -> Target:
    """Reads `--for`: a kind, and after a colon how many: `2x2` (TPU) or `8` (GPUs of one host); one without.

    Raises:
      UsageError: for an unknown kind, or what is no number of devices.
    Example:
      >>> parse_target("v5e:2x2").num_devices, parse_target("h200").topology
      (4, (1,))
    """
    name, colon, rest = text.strip().lower().partition(":")
    kind = KINDS.get(name)
    if kind is None:
        raise UsageError(f"--for: expected a kind of device, one of {', '.join(KINDS)}, got {name!r}")
    if not colon:
        return Target(kind, (1,) * kind.num_axes, text.strip().lower())
    example = "x".join(["2"] * kind.num_axes)
    if not re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4})*", rest) or rest.count("x") + 1 != kind.num_axes:
        raise UsageError(f"--for: expected a number of devices such as {name}:{example}, got {text!r}")
    return Target(kind, tuple(map(int, rest.split("x"))), text.strip().lower())
