"""How a command ends: one line on standard error and an exit status, never a traceback."""

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from experiments import hosts
from experiments.metrics import RunFailed
from experiments.run import Interrupted
from rare_gems import checkpoint

__all__ = ["status_of"]


def status_of(command: str, work: Callable[[], None]) -> int:
    """Does `work` and says how it went.

    Returns:
      the exit status: 0; 2 for a mistake of the user (one line on standard error); 3 for a run that failed; 75
      after SIGTERM, or where another process of the run is lost, and 130 after Ctrl-C: there the same command goes on.
    """
    with _plain_warnings():
        try:
            hosts.start()
            with hosts.guard():
                work()
        except hosts.HostLost as error:
            return _complain(command, error, hosts.RESTART)
        except RunFailed as error:
            return _complain(command, error, 3)
        except Interrupted as error:
            return _complain(command, error.args[0], 75 if error.args[1] == signal.SIGTERM else 130)
        except OSError as error:
            return _complain(command, spell(error), 2)
        except Exception as error:
            if os.environ.get("RARE_GEMS_TRACEBACK"):
                raise
            if isinstance(error, ValueError):
                return _complain(command, error, 2)
            if "RESOURCE_EXHAUSTED" in str(error):
                wanted = "out of memory on the device; a smaller --batch-size or --at-once, or --shard-params, may help"
                return _complain(command, wanted, 3)
            hint = "RARE_GEMS_TRACEBACK=1 in the environment shows where"
            return _complain(command, f"{type(error).__name__}: {_one_line(error)[:300]} ({hint})", 3)
    return 0


def spell(error: OSError) -> str:
    """What the system says, and of which file."""
    return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")


def _complain(command: str, error: Any, status: int) -> int:
    print(f"experiments.{command}: error: {_one_line(error)}", file=sys.stderr)
    return status


def _one_line(message: Any) -> str:
    return " ".join(str(message).split())


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings in one line each; what Orbax prints from its threads is silenced, since it is raised here too."""
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    logger = logging.getLogger("absl")
    level = logger.level
    sys.excepthook = threading.excepthook = sys.unraisablehook = lambda *_: None
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", checkpoint.DamagedCheckpoint)
            warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
            yield
    finally:
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
        logger.setLevel(level)
