"""Seconds of calls in turn, and the most operations a second that a device does."""

import time
from collections.abc import Callable
from typing import Any

import jax

__all__ = ["measured_peak", "time_in_turn"]

# Dense floating-point operations per second, from the makers' data sheets: what JAX's default float32 products run in
# (TF32 on these GPUs), and bfloat16.
PEAKS = {"H100": (495e12, 989e12), "H200": (495e12, 989e12), "A100": (156e12, 312e12)}
SIDE = {"cpu": 2048}  # of the matrices whose product tells the peak of another device; 8192 if not given here


def time_in_turn(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, in turn, so that a busy machine slows all alike; the first round is not measured.

    Example:
      >>> [len(seconds) for seconds in time_in_turn({"a": lambda: None, "b": lambda: None}, 3).values()]
      [3, 3]
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def measured_peak(precision: str) -> tuple[float, str]:
    """Operations per second of one device at best, and where that is from: a data sheet, or measured here."""
    device = jax.devices()[0]
    for kind, figures in PEAKS.items():
        if kind in device.device_kind:
            return figures[precision == "bfloat16"], "data sheet"
    side = SIDE.get(device.platform, 8192)
    matrix = jax.random.normal(jax.random.key(0), (side, side), precision)
    times = time_in_turn({"product": lambda: matrix @ matrix}, 5)["product"]
    return 2 * side**3 / min(times), f"measured: {side} x {side} matrices, the best of 5 products"
