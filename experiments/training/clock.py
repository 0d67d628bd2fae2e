"""The clock of an epoch: seconds since it began, and how many of them went into tracing and compiling programs."""

import time
from collections.abc import Callable
from typing import Any

from jax import monitoring

__all__ = ["Clock"]

_COMPILING = "/jax/core/compile/"  # JAX tells tracing, lowering and XLA's compiling apart, one after the other


class Clock:
    """Counts from `start` on; `close` it, since it listens to JAX.

    Args:
      now: seconds, from any origin.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self.now, self.listening = now, True
        monitoring.register_event_duration_secs_listener(self._listen)
        self.start()

    def start(self) -> None:
        """Counts anew."""
        self.began, self.compiling = self.now(), 0.0

    def read(self) -> dict[str, float]:
        """`seconds` since the start, and `compile_seconds`, those of them in which programs were compiled."""
        seconds = self.now() - self.began
        return {"seconds": seconds, "compile_seconds": min(self.compiling, seconds)}  # one in another is told twice

    def close(self) -> None:
        """Stops listening."""
        if self.listening:
            monitoring.unregister_event_duration_listener(self._listen)
        self.listening = False

    def _listen(self, event: str, duration_secs: float, **more: Any) -> None:
        del more
        if event.startswith(_COMPILING):
            self.compiling += duration_secs
