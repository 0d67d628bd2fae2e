"""One run in several processes, on one host or many: finding each other, agreeing, and noticing that one is gone."""

import collections
import contextlib
import ctypes
import functools
import hashlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # for its client; JAX has no public name for it
from jax.experimental import multihost_utils

from experiments.config.saved import flat
from experiments.distributed import rendezvous
from experiments.terminal.errors import RESTART, HostLost, UsageError
from rare_gems import __version__

__all__ = ["LOST", "any_of", "barrier", "check_agreement", "guard", "is_main", "leave", "on_main", "start"]

LOST = ("lost the connection to another process of this run; start all of them again with the same command, "
        "it goes on from the last checkpoint")  # fmt: skip
# What JAX, gloo, NCCL, gRPC and Orbax say when a process is gone.
_GONE = re.compile(
    r"gloo|connection (closed|reset|refused)|socket closed|broken pipe|^unavailable|heartbeat|unhealthy|coordination|"
    r"barrier|remote (process|error|peer)|network error", re.IGNORECASE
)  # fmt: skip


T = TypeVar("T")


def start(timeout_s: float | None = None, heartbeat_s: int = 30) -> None:
    """Joins the other processes of this run, if the environment says that there are any; before any JAX computation.

    Where they are is taken from JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID; from the tasks of a SLURM step (`srun`), each with its GPU, or all GPUs of its node if it is the
    only one there; or from a TPU pod. JAX_NUM_PROCESSES=1 says that this process is alone in spite of those.

    Args:
      timeout_s: how long to wait for the others (default: RARE_GEMS_START_TIMEOUT in the environment, or 300 s).
      heartbeat_s: a process that has been silent for so long is lost, and all others end with status 75 (before
        JAX 0.9.2 JAX may end them itself: status 1).
    Raises:
      UsageError: if the variables contradict each other, process 0 does not answer, or not all processes come.
    """
    if timeout_s is None:
        timeout_s = rendezvous.number("RARE_GEMS_START_TIMEOUT") or 300
    where = None if jax.distributed.is_initialized() else rendezvous.find(timeout_s)
    if where is None:
        return
    address, count, index, devices = where
    rendezvous.meet(address, count, index, timeout_s)
    jax.config.update("jax_enable_preemption_service", False)  # its SIGTERM handler would replace ours
    jax.distributed.initialize(
        address, count, index, devices, cluster_detection_method="deactivate", heartbeat_timeout_seconds=heartbeat_s
    )
    _catch_aborts()


def is_main() -> bool:
    """Whether this process writes reports: process 0."""
    return jax.process_index() == 0


def any_of(flag: bool) -> bool:
    """Whether the flag is true in any process; all must call it. Waits for the computations under way."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array([flag])).any())


def barrier(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def check_agreement(fields: Mapping[str, Any]) -> None:
    """Raises UsageError in every process unless all have the same fields (JSON-able), versions and number of devices.

    They compare hashes; where these differ, also what was hashed, to say which fields differ.
    """
    if jax.process_count() == 1:
        return
    devices = collections.Counter(device.process_index for device in jax.devices())
    if len(set(devices.values())) > 1:
        raise UsageError(f"expected as many devices in each process, got {[devices[i] for i in sorted(devices)]}")
    versions = {f"version of {name}": metadata.version(name) for name in ("jax", "jaxlib")}
    versions["version of rare_gems"] = __version__
    text = json.dumps({**fields, **versions}, sort_keys=True, default=str).encode()
    hashes = multihost_utils.process_allgather(np.frombuffer(hashlib.sha256(text).digest(), np.uint8))
    if (hashes == hashes[0]).all():
        return
    raise UsageError(f"the processes of this run differ: {_differences(_gather(text))}")


def on_main(work: Callable[[], T]) -> T:
    """What `work` gives in process 0, where alone it is done, in every process: a decision that reads or writes files.

    Args:
      work: returns something JSON-able.
    Raises:
      what `work` raises; in the other processes UsageError for a ValueError, OSError for any other Exception.
    """
    if jax.process_count() == 1:
        return work()
    result, error = None, None
    if is_main():
        try:
            result = work()
        except Exception as caught:
            error = caught
    said = [isinstance(error, ValueError), None if error is None else str(error), result]
    is_usage, fault, result = _gather(json.dumps(said).encode())[0]
    if error is not None:
        raise error
    if fault is not None:
        raise UsageError(fault) if is_usage else OSError(fault)
    return result


def _gather(text: bytes) -> list[Any]:
    """What each process passes as JSON."""
    sizes = multihost_utils.process_allgather(np.array([len(text)], np.int32))
    padded = np.frombuffer(text.ljust(int(sizes.max())), np.uint8)
    return [json.loads(bytes(row)) for row in np.asarray(multihost_utils.process_allgather(padded), np.uint8)]


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """Raises errors that come of losing another process as HostLost.

    Where no error comes, because a collective waits for ever, the heartbeats that `start` asked for end the process
    with the same message and status 75.
    """
    try:
        yield
    except Exception as error:
        said = _of_a_loss(error) if jax.distributed.is_initialized() else None
        if said is None or isinstance(error, HostLost):
            raise
        time.sleep(0.3)  # what JAX's own threads say of it comes first
        raise HostLost(f"{LOST} ({said[-160:]})") from error


def leave(timeout_s: float = 5) -> None:
    """Leaves the other processes before this one ends with an error, so that they end with their own errors, not with
    the loss of this process."""
    ending = threading.Thread(target=_shut_down, daemon=True)
    ending.start()
    ending.join(timeout_s)


def _shut_down() -> None:
    with contextlib.suppress(Exception):
        jax.distributed.shutdown()


@functools.cache
def _catch_aborts() -> Any:
    """JAX aborts the process when its coordination service finds another one lost; that it ends with status 75 and our
    message can only be had from a handler of SIGABRT, run by the thread that aborts. Python's own would run later, in
    the main thread: never, in a collective. Returns what must not be freed."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p

    def aborted(signum: int) -> None:
        if _service_is_stuck():
            os.write(2, f"error: {LOST}\n".encode())
            os._exit(RESTART)
        # Any other abort goes on to its end when this returns.

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    return handler


def _service_is_stuck(wait_s: float = 2) -> bool:
    """Whether the abort comes from JAX's coordination service: then its client is locked. Meanwhile the main thread may
    end the process by itself, as it should, with an error of its own."""
    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(Exception):
            client: Any = distributed.global_state.client
            client.key_value_try_get("rare_gems")
        answered.set()

    threading.Thread(target=ask, daemon=True).start()
    return not answered.wait(wait_s)


def _of_a_loss(error: BaseException | None) -> str | None:
    """What JAX said, if this error comes from another process that is gone."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError) and _GONE.search(str(error)):
            return str(error).strip()
        error = error.__cause__ or error.__context__
    return None


def _differences(all_fields: list[dict[str, Any]], most: int = 3) -> str:
    each = [flat(fields) for fields in all_fields]
    found, shared = [], set.intersection(*map(set, each))
    for name in sorted(set().union(*each), key=lambda name: (name not in shared, name)):
        values: dict[str, list[int]] = {}
        for i, fields in enumerate(each):
            values.setdefault(json.dumps(fields[name]) if name in fields else "absent", []).append(i)
        if len(values) > 1:
            told = (f"{v} in process{'es' * (len(who) > 1)} {', '.join(map(str, who))}" for v, who in values.items())
            found.append(f"{name} is {' and '.join(told)}")
        if name not in shared and found:
            break
    return "; ".join(found[:most]) + (f"; and {len(found) - most} more" if len(found) > most else "")
