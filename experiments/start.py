"""How a command starts and ends as a process. Imports nothing heavy before it can be stopped politely."""

import contextlib
import os
import platform
import signal
import sys
import zlib
from pathlib import Path
from typing import Any

__all__ = ["DATASETS", "program"]

# As in `experiments.datasets`, which is not imported before the signals are handled.
DATASETS = ("digits", "mnist", "cifar10", "cifar100", "tiny_imagenet", "caltech101", "imagenet", "folder")
_STATUS = {signal.SIGTERM: 75, signal.SIGINT: 130}


def program(command: str, args: list[str] | None = None) -> None:
    """Runs a data set's experiment, "sanity" or "compare", and ends the process with its status."""
    for signum in _STATUS:
        signal.signal(signum, _stop)
    from experiments import compare_runs, hosts, main, sanity_runs
    from rare_gems.models.fast_conv import keep_freed_memory

    _keep_compiled()
    keep_freed_memory()  # a step on CPU takes a fifth less without its page faults
    commands = {"sanity": sanity_runs.main, "compare": compare_runs.main}
    status = main.main(command, args) if command in DATASETS else commands[command](args)
    sys.stdout.flush()
    sys.stderr.flush()
    if status:  # after a failed write, threads of Orbax would keep the process alive
        if status != hosts.RESTART:
            hosts.leave()
        os._exit(status)


def _keep_compiled() -> None:
    """Programs once compiled are read from the user's cache, apart for each kind of processor; JAX's own setting
    (JAX_COMPILATION_CACHE_DIR) goes before. Programs that call oneDNN cannot be kept (`rare_gems.models.onednn`)."""
    import jax

    if os.environ.get("RARE_GEMS_ONEDNN") == "1":
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        kind = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rare_gems" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache / f"{zlib.crc32(kind.encode()):08x}"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _stop(signum: int, frame: Any) -> None:
    """Before and after training nothing is half done: what is written is renamed into place when whole."""
    print(f"stopped by {signal.Signals(signum).name}; the same command goes on", file=sys.stderr, flush=True)
    os._exit(_STATUS[signal.Signals(signum)])
