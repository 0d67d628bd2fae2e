"""One run in several processes: how they find each other, what they refuse, and what happens when one is killed."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from experiments import hosts, rendezvous
from experiments.config import UsageError

NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_LOCAL_DEVICE_IDS",
         "JAX_COORDINATOR_PORT", "JAX_COORDINATOR_BIND_ADDRESS", "RARE_GEMS_START_TIMEOUT")  # fmt: skip
STEP = {"SLURM_JOB_ID": "4097", "SLURM_STEP_NODELIST": "node[07,09]", "SLURM_NTASKS": "4", "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}  # fmt: skip
REPO = Path(__file__).parents[2]


@pytest.fixture
def environment(monkeypatch):
    """Sets variables, in an environment that has none of those that matter."""
    for name in (*NAMES, *STEP):
        monkeypatch.delenv(name, raising=False)

    def put(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_process_that_is_alone_joins_nobody(environment):
    assert rendezvous.find(1) is None
    environment(SLURM_NTASKS="4", SLURM_JOB_ID="1")  # in a job's script, outside of a step
    assert rendezvous.find(1) is None
    environment(**STEP, JAX_NUM_PROCESSES="1")
    assert rendezvous.find(1) is None
    hosts.start()
    assert not jax.distributed.is_initialized()
    assert hosts.is_main()
    assert [hosts.any_of(True), hosts.any_of(False)] == [True, False]
    hosts.check_agreement({"seed": 1})
    hosts.barrier("here")
    assert hosts.on_main(lambda: [1]) == [1]


def test_the_environment_says_where_the_processes_are(environment):
    environment(**STEP)
    assert rendezvous.find(1) == (f"node07:{65535 - 2**12 + 1 + 4097 % 2**12}", 4, 3, [1])
    environment(SLURM_STEP_TASKS_PER_NODE="1(x4)")  # all GPUs of its node
    assert rendezvous.find(1)[3] is None
    environment(JAX_COORDINATOR_ADDRESS="[::1]:80", JAX_NUM_PROCESSES="8", JAX_PROCESS_ID="7")
    assert rendezvous.find(1) == ("[::1]:80", 8, 7, None)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"ADDRESS": "a:80"},
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID not set, but JAX_COORDINATOR_ADDRESS; expected all",
        ),
        ({"ADDRESS": "a:80", "NUM": "2"}, "JAX_PROCESS_ID not set, but JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES"),
        ({"NUM": "2", "ID": "0"}, "JAX_COORDINATOR_ADDRESS not set"),
        ({"ADDRESS": "a:80", "NUM": "2", "ID": "2"}, "JAX_PROCESS_ID: expected 0 to 1 of 2 processes, got 2"),
        ({"ADDRESS": "a:80", "NUM": "two", "ID": "0"}, "JAX_NUM_PROCESSES: expected a whole number, got 'two'"),
        ({"ADDRESS": "a:b", "NUM": "2", "ID": "0"}, "JAX_COORDINATOR_ADDRESS: expected host:port, got 'a:b'"),
    ],
)
def test_half_an_environment_is_refused(environment, variables, message):
    names = {"ADDRESS": "JAX_COORDINATOR_ADDRESS", "NUM": "JAX_NUM_PROCESSES", "ID": "JAX_PROCESS_ID"}
    environment(**{names[name]: value for name, value in variables.items()})
    with pytest.raises(UsageError, match=message):
        hosts.start()


def _meet(processes, timeout_s):
    """What each of the processes (number, of how many) is told: None is "go"."""
    address, told = f"localhost:{_free_port()}", [None] * len(processes)

    def one(i):
        index, count = processes[i]
        try:
            rendezvous.meet(address, count, index, timeout_s)
        except UsageError as error:
            told[i] = str(error).replace(address, "HERE")

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(processes))]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return told


def test_processes_wait_for_each_other():
    assert _meet([(2, 3), (1, 3), (0, 3)], 10) == [None] * 3


def test_who_is_missing_is_said():
    missing = "waited 1 s at HERE for 4 processes, 2 came; missing: 1, 3"
    assert _meet([(0, 4), (2, 4)], 1) == [missing] * 2
    (absent,) = _meet([(1, 2)], 0.3)
    assert absent.startswith("the coordinator at HERE did not answer within 0 s (")
    assert _meet([(0, 3), (1, 3), (1, 3)], 5) == ["two processes are started as process 1 of 3"] * 3
    assert _meet([(0, 2), (1, 3)], 5) == ["process 1 is told of 3 processes, process 0 of 2"] * 2


def test_an_error_that_comes_of_a_lost_process_is_told_from_others(monkeypatch):
    def raise_in_guard(error, cause=None):
        with hosts.guard():
            raise error from cause

    lost = jax.errors.JaxRuntimeError("INTERNAL: Gloo all-reduce failed: Connection closed by peer [10.0.0.7]:1")
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    with pytest.raises(jax.errors.JaxRuntimeError):
        raise_in_guard(lost)  # in a process that is alone
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    for error, cause in ((lost, None), (OSError("could not write a checkpoint"), lost)):
        with pytest.raises(hosts.HostLost, match=r"start all of them again.*closed by peer \[10.0.0.7\]"):
            raise_in_guard(error, cause)
    for error in (full, KeyError("gloo"), hosts.HostLost("once")):
        with pytest.raises(type(error)) as caught:
            raise_in_guard(error)
        assert caught.value is error


def test_an_abort_is_a_loss_only_if_jax_service_made_it():
    program = """
import os, signal, time
from jax._src import distributed
from experiments import hosts
class Stuck:
    key_value_try_get = lambda self, key: time.sleep(60)
hosts._catch_aborts()
for client in (None, Stuck()):
    distributed.global_state.client = client
    child = os.fork()
    if not child:
        os.abort()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
distributed.global_state.client = None
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=REPO, capture_output=True, text=True,
                          env=os.environ | {"JAX_PLATFORMS": "cpu"}, timeout=60)  # fmt: skip
    assert done.stdout.split() == [str(-signal.SIGABRT), "75"]
    assert done.stderr.strip().endswith(f"error: {hosts.LOST}")


class Pair:
    """Two processes of one command that find each other on this machine; what they print goes into files."""

    def __init__(self, command, folder, env):
        folder.mkdir()
        address = f"localhost:{_free_port()}"
        self.out, self.err = ([folder / f"{kind}-{i}" for i in range(2)] for kind in ("out", "err"))
        self.processes = []
        for i in range(2):
            env |= {
                "JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(i),
            }  # fmt: skip
            with self.out[i].open("w") as out, self.err[i].open("w") as err:
                self.processes.append(subprocess.Popen(command, cwd=REPO, stdout=out, stderr=err, env=os.environ | env))

    def wait_for(self, line, timeout_s=100):
        """Until process 0 prints the line."""
        deadline = time.monotonic() + timeout_s
        while line not in self.out[0].read_text().splitlines():
            assert time.monotonic() < deadline, self.said()
            assert all(process.poll() is None for process in self.processes), self.said()
            time.sleep(0.01)

    def kill(self, i):
        """Kills one; returns how the other ends, what it says last, and after how many seconds."""
        self.processes[i].kill()
        since = time.monotonic()
        status = self.processes[1 - i].wait(100)
        self.processes[i].wait()
        return status, self.err[1 - i].read_text().strip().splitlines()[-1], time.monotonic() - since

    def end(self, timeout_s=100):
        return [process.wait(timeout_s) for process in self.processes]

    def said(self):
        return "\n".join(path.read_text()[-2000:] for path in (*self.out, *self.err))


@pytest.fixture
def start_pair(tmp_path):
    pairs = []

    def start(*command, **env):
        env |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}  # fmt: skip
        pairs.append(Pair(command, tmp_path / f"pair-{len(pairs)}", env))
        return pairs[-1]

    yield start
    for process in (process for pair in pairs for process in pair.processes):
        process.kill()
        process.wait()


def test_killed_processes_go_on_as_if_nothing_had_happened(start_pair, tmp_path):
    command = [sys.executable, "-m", "tests.experiments.two_hosts"]
    first = start_pair(*command, str(tmp_path / "whole"), str(tmp_path / "killed"))
    first.wait_for("killed epoch 3")
    for lines in (path.read_text().splitlines() for path in first.out):
        assert "to stop: True" in lines  # the signal came to process 1 only
        assert "main is 0" in lines
        assert "invalid literal for int() with base 10: 'no number'" in lines
        assert "the processes of this run differ: seed is 41 in process 0 and 42 in process 1" in lines
    ends = [first.kill(1)]
    second = start_pair(*command, str(tmp_path / "killed"))
    second.wait_for("killed epoch 8")
    ends.append(second.kill(0))
    for status, last, seconds in ends:
        assert status == hosts.RESTART, (first.said(), second.said())
        assert last.startswith(f"error: {hosts.LOST}")
        assert seconds < 30
    third = start_pair(*command, str(tmp_path / "killed"))
    assert third.end() == [0, 0], third.said()
    assert [any(line.startswith("goes on from step") for line in path.read_text().splitlines()) for path in third.out]
    tickets = [(tmp_path / name / "ticket.safetensors").read_bytes() for name in ("whole", "killed")]
    assert tickets[0] == tickets[1]
