"""What is traced for which platform, and what makes element-wise passes fast on CPU.

XLA's CPU compiler (seen in jaxlib 0.10 to 0.12) fuses what made an activation into other loops that read it, and
computes it all again there in the wrong memory order (`apart`); and the memory of each step is given back to the system
and faulted in again (`keep_freed_memory`).
"""

import ctypes
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata

__all__ = ["apart", "keep_freed_memory", "plain_operations", "platform"]

_TARGET: ContextVar[str | None] = ContextVar("_TARGET", default=None)


def apart(fn: Callable, *args: Any) -> Any:
    """Compute `fn(*args)`; on CPU as a computation that XLA neither inlines nor fuses into its users.

    For a cheap element-wise `fn` with several users, of which one reads it in another order.

    Args:
      fn: a function of arrays, at best one of a module, so that it is traced once.
      *args: its arguments.

    Returns:
      `fn(*args)`.

    Example:
      >>> import jax.numpy as jnp
      >>> apart(jnp.negative, jnp.ones(2)).tolist()
      [-1.0, -1.0]
    """
    if platform() != "cpu":
        return fn(*args)
    with set_xla_metadata(inlineable="false"):  # XLA's own name, read by its call inliner
        return jax.jit(fn)(*args)


@contextmanager
def plain_operations(target: str = "other") -> Generator[None, None, None]:
    """What is traced inside is on CPU, too, what it is elsewhere: XLA's own operations, whose FLOP it can count.

    Args:
      target: the platform that it is traced for, "gpu", "tpu" or another.

    Example:
      >>> import jax.numpy as jnp
      >>> from rare_gems.models.fast_conv import conv2d
      >>> with plain_operations():
      ...     "custom" in str(jax.make_jaxpr(conv2d)(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))))
      False
    """
    token = _TARGET.set(target)
    try:
        yield
    finally:
        _TARGET.reset(token)


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, instead of giving it back to the system (glibc only).

    XLA on CPU allocates the temporary memory of each call anew; a ResNet-20 step then takes some 75,000 page
    faults. For programs to call once at the start, before the first computation; libraries should not.

    Returns:
      Whether the C library accepted it.
    """
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # from glibc's malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    options = ((mmap_threshold, 2**31 - 1), (trim_threshold, 2**31 - 1), (arena_max, 1))
    return all(mallopt(option, value) == 1 for option, value in options)


def platform() -> str:
    """What is traced now is for: "cpu", "gpu", "tpu", ..., the default backend unless in `plain_operations`.

    Example:
      >>> with plain_operations("gpu"):
      ...     platform()
      'gpu'
    """
    return _TARGET.get() or jax.default_backend()
