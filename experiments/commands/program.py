"""How a command starts and ends as a process: signals, cached programs, one line on standard error, the status."""

import contextlib
import logging
import os
import platform
import signal
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["program", "run"]

_STATUS = {signal.SIGTERM: 75, signal.SIGINT: 130}


def program(command: str, args: list[str] | None = None) -> None:
    """Runs a command, the name of a data set or of a command, and ends the process with its status."""
    for signum in _STATUS:
        signal.signal(signum, _stop)
    # Imported only now: a signal meanwhile ends in one line, not in a traceback.
    from experiments.distributed import processes
    from experiments.terminal.errors import RESTART
    from experiments.terminal.streams import outlast_readers
    from rare_gems.models import onednn
    from rare_gems.models.platforms import keep_freed_memory

    outlast_readers()
    _keep_compiled()
    try:
        onednn.ask_for()
    except ValueError as error:
        sys.exit(_complain(command, error, 2))
    keep_freed_memory()  # a step on CPU takes a fifth less without its page faults
    status = run(command, sys.argv[1:] if args is None else args)
    sys.stdout.flush()
    sys.stderr.flush()
    if status:  # after a failed write, threads of Orbax would keep the process alive
        if status != RESTART:
            processes.leave()
        os._exit(status)


def run(command: str, args: list[str]) -> int:
    """Does what a command does, and says how it went.

    Returns:
      the exit status: 0; 2 for a mistake of the user (one line on standard error); 3 for a run that failed; 75
      after SIGTERM, or where another process of the run is lost, and 130 after Ctrl-C: there the same command goes on.
    """
    from experiments.catalog.datasets import DATASETS, forget_folder
    from experiments.commands import analyse, compare, evaluate, export, reproduce, sanity, train
    from experiments.comparison import expand
    from experiments.distributed import processes
    from experiments.terminal import errors
    from experiments.training import setups

    commands: dict[str, Callable[[list[str]], None]] = {
        "compare": compare.compare, "sanity": sanity.sanity, "analyse": analyse.analyse, "evaluate": evaluate.evaluate,
        "export": export.export, "reproduce": reproduce.reproduce,
    }  # fmt: skip
    if command not in {*commands, *DATASETS}:
        known = ", ".join([*DATASETS, *commands, "bench"])
        return _complain("", f"expected a data set or a command, one of {known}, got {command!r}", 2)
    if forget_folder():  # another command of this process may find other images there
        setups.forget()
        expand.forget()
    work = commands.get(command) or (lambda args: train.train(command, args))
    with _plain_warnings():
        try:
            processes.start()
            with processes.guard():
                work(args)
        except errors.HostLost as error:
            return _complain(command, error, errors.RESTART)
        except errors.RunFailed as error:
            return _complain(command, error, 3)
        except errors.Interrupted as error:
            processes.leave()  # all stop together; the first to end would make the others complain of it
            return _complain(command, error.args[0], _STATUS[error.args[1]])
        except OSError as error:
            return _complain(command, errors.spell(error), 2)
        except Exception as error:
            if os.environ.get("RARE_GEMS_TRACEBACK"):
                raise
            if isinstance(error, ValueError):
                return _complain(command, error, 2)
            if "RESOURCE_EXHAUSTED" in str(error):
                wanted = "out of memory on the device; a smaller --batch-size or --at-once, or --shard-params, may help"
                return _complain(command, wanted, 3)
            hint = "RARE_GEMS_TRACEBACK=1 in the environment shows where"
            return _complain(command, f"{type(error).__name__}: {errors.one_line(error)[:300]} ({hint})", 3)
    return 0


def _complain(command: str, error: Any, status: int) -> int:
    _show(f"experiments.{command}: error: {error}" if command else f"experiments: error: {error}")
    return status


def _show(message: str) -> None:
    """One line on standard error, whatever names are in it."""
    from experiments.terminal.errors import one_line
    from rare_gems.printable import printable

    print(printable(one_line(message)), file=sys.stderr)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings in one line each; what Orbax prints from its threads is silenced, since it is raised here too."""
    from rare_gems.storage.checkpoint import DamagedCheckpoint

    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    logger = logging.getLogger("absl")
    level = logger.level
    sys.excepthook = threading.excepthook = sys.unraisablehook = lambda *_: None
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", DamagedCheckpoint)
            warnings.showwarning = lambda message, *_, **__: _show(f"warning: {message}")
            yield
    finally:
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
        logger.setLevel(level)


def _keep_compiled() -> None:
    """Programs once compiled are read from the user's cache, apart for each kind of processor; JAX's own setting
    (JAX_COMPILATION_CACHE_DIR) goes before. Those that call oneDNN cannot be kept (`rare_gems.models.onednn`)."""
    import jax

    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        kind = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rare_gems" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache / f"{zlib.crc32(kind.encode()):08x}"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _stop(signum: int, frame: Any) -> None:
    """Ends the process. Before and after training nothing is half done: files are renamed into place when whole."""
    print(f"stopped by {signal.Signals(signum).name}; the same command goes on", file=sys.stderr, flush=True)
    os._exit(_STATUS[signal.Signals(signum)])
