"""How a command starts and ends as a process. Imports nothing heavy before it can be stopped politely."""

import os
import signal
import sys
from typing import Any

__all__ = ["DATASETS", "program"]

DATASETS = ("digits", "cifar10")
_STATUS = {signal.SIGTERM: 75, signal.SIGINT: 130}


def program(dataset: str, args: list[str] | None = None) -> None:
    """Runs `experiments.main` and ends the process with its status."""
    for signum in _STATUS:
        signal.signal(signum, _stop)
    from experiments.main import main
    from rare_gems.models.fast_conv import keep_freed_memory

    keep_freed_memory()  # a step on CPU takes a fifth less without its page faults
    status = main(dataset, args)
    sys.stdout.flush()
    sys.stderr.flush()
    if status:  # after a failed write, threads of Orbax would keep the process alive
        os._exit(status)


def _stop(signum: int, frame: Any) -> None:
    """Before and after training nothing is half done: what is written is renamed into place when whole."""
    print(f"stopped by {signal.Signals(signum).name}; the same command goes on", file=sys.stderr, flush=True)
    os._exit(_STATUS[signal.Signals(signum)])
