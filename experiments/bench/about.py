"""What a benchmark's JSON says of itself: date, device and versions."""

import os
import platform
import time
from importlib import metadata
from typing import Any

import jax

__all__ = ["about"]

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def about(benchmark: str) -> dict[str, Any]:
    """The fields that all benchmarks share."""
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("bytes_limit")
    return {
        "benchmark": benchmark,
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "device_memory_bytes": memory,
        "host": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES},
    }
