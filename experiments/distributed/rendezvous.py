"""Where the processes of one run are, and waiting until all of them have come, before JAX joins them.

JAX itself would abort the process if one does not come. So process 0 first listens at the coordinator's address; each
of the others sends a line, {"process": 1, "of": 4}, and waits for "go". Whoever is missing can be named.
"""

import contextlib
import json
import os
import re
import select
import socket
import time
from collections.abc import Iterable

from jax._src import cloud_tpu_init  # whether this is a TPU's host; JAX has no public name for it
from jax._src.clusters import ClusterEnv

from experiments.terminal.errors import UsageError

__all__ = ["find", "meet", "number"]

_OWN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def find(timeout_s: float) -> tuple[str, int, int, list[int] | None] | None:
    """The address of process 0, the number of processes, which one this is, and which devices of the host are its own
    (None: all), from the environment; None for a process that is alone.

    Raises:
      UsageError: if the variables contradict each other.
    """
    address, count, index, devices = os.environ.get(_OWN[0]) or None, number(_OWN[1]), number(_OWN[2]), None
    if count == 1:
        return None
    slurm = int(os.environ.get("SLURM_NTASKS") or 1) > 1 and "SLURM_STEP_NODELIST" in os.environ
    if None in (address, count, index) and (slurm or cloud_tpu_init.running_in_cloud_tpu_vm):
        method = "slurm" if slurm else None
        try:
            address, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
                address, count, index, None, method, int(timeout_s)
            )
        except RuntimeError as error:
            raise UsageError(f"the other hosts of this TPU: {error}") from None
        # JAX gives a task one GPU, even if it is the only one on its node.
        alone = re.fullmatch(r"1(\(x\d+\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
        if not slurm or alone or os.environ.get("JAX_LOCAL_DEVICE_IDS"):
            devices = None
    if (address is None and count is None and index is None) or count == 1:
        return None
    given = {name: value for name, value in zip(_OWN, (address, count, index), strict=True) if value is not None}
    if address is None or count is None or index is None:
        missing = [name for name in _OWN if name not in given]
        raise UsageError(f"{' and '.join(missing)} not set, but {' and '.join(given)}; expected all three or none")
    if not 0 <= index < count:
        raise UsageError(f"JAX_PROCESS_ID: expected 0 to {count - 1} of {count} processes, got {index}")
    _split(address, _OWN[0])
    return address, count, index, None if devices is None else list(devices)


def number(name: str) -> int | None:
    """The variable's value, None if it is not set. Raises UsageError if that is not a whole number."""
    text = os.environ.get(name) or None
    if text is not None and not text.isdecimal():
        raise UsageError(f"{name}: expected a whole number, got {text!r}")
    return None if text is None else int(text)


def meet(address: str, count: int, index: int, timeout_s: float) -> None:
    """Returns when all processes are there.

    Raises:
      UsageError: if process 0 does not answer, not all come in time, or two say that they are the same.
    """
    deadline = time.monotonic() + timeout_s
    if index == 0:
        _gather(address, count, deadline, timeout_s)
    else:
        _knock(address, count, index, deadline, timeout_s)


def _gather(address: str, count: int, deadline: float, timeout_s: float) -> None:
    """Process 0: waits for the others, and tells them all to go on, or why not."""
    came: dict[int, socket.socket] = {}
    with _listen(os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or address) as server:
        while len(came) < count - 1:
            server.settimeout(max(deadline - time.monotonic(), 1e-3))
            try:
                peer, _ = server.accept()
            except TimeoutError:
                missing = ", ".join(str(i) for i in range(1, count) if i not in came)
                fault = f"waited {timeout_s:.0f} s at {address} for {count} processes, {1 + len(came)} came; missing:"
                raise _refused(list(came.values()), f"{fault} {missing}") from None
            said = _read(peer, 5)
            came = {i: waiting for i, waiting in came.items() if not _has_gone(waiting)}
            try:
                hello = json.loads(said)
                of, other = int(hello["of"]), int(hello["process"])
            except (ValueError, KeyError, TypeError):
                peer.close()  # somebody else
                continue
            if of != count:
                raise _refused(
                    [peer, *came.values()], f"process {other} is told of {of} processes, process 0 of {count}"
                )
            if other in came or not 0 < other < count:
                raise _refused([peer, *came.values()], f"two processes are started as process {other} of {count}")
            came[other] = peer
    _tell(came.values(), "go")


def _knock(address: str, count: int, index: int, deadline: float, timeout_s: float) -> None:
    """The others: ask process 0 until it says "go"; it may start later, or start again."""
    while True:
        try:
            with socket.create_connection(_split(address, "address"), timeout=5) as peer:
                peer.sendall(json.dumps({"process": index, "of": count}).encode() + b"\n")
                answer = _read(peer, max(deadline - time.monotonic(), 0) + 5)
            if answer == "go":
                return
            if answer.startswith("no: "):
                raise UsageError(answer.removeprefix("no: "))
            why = "something else answers there" if answer else "it closed the connection"
        except OSError as error:
            why = error.strerror or str(error)
        if time.monotonic() > deadline:
            raise UsageError(f"the coordinator at {address} did not answer within {timeout_s:.0f} s ({why})")
        time.sleep(0.1)


def _refused(peers: list[socket.socket], why: str) -> UsageError:
    _tell(peers, f"no: {why}")
    return UsageError(why)


def _tell(peers: Iterable[socket.socket], line: str) -> None:
    for peer in peers:
        with contextlib.suppress(OSError), peer:
            peer.sendall(f"{line}\n".encode())


def _listen(address: str) -> socket.socket:
    port = _split(address, "JAX_COORDINATOR_BIND_ADDRESS")[1]
    both = socket.has_dualstack_ipv6()
    try:
        if both:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise UsageError(f"cannot listen at {address}: {error.strerror or error}") from None


def _read(peer: socket.socket, timeout_s: float) -> str:
    """A line, without its end; "" if none comes."""
    peer.settimeout(timeout_s)
    try:
        with peer.makefile("rb") as file:
            return file.readline(10_000).decode(errors="replace").strip()
    except OSError:
        return ""


def _has_gone(peer: socket.socket) -> bool:
    """Whether it has closed the connection; it sends nothing more."""
    return bool(select.select([peer], [], [], 0)[0])


def _split(address: str, name: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UsageError(f"{name}: expected host:port, got {address!r}")
    return host.strip("[]"), int(port)
