"""One run in several processes: how they find each other, what they refuse, and what happens when one is killed."""

import csv
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.commands import train
from experiments.commands.program import run
from experiments.distributed import processes, rendezvous
from experiments.terminal.errors import RESTART, HostLost, Interrupted, UsageError

NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_LOCAL_DEVICE_IDS",
         "JAX_COORDINATOR_PORT", "JAX_COORDINATOR_BIND_ADDRESS", "RARE_GEMS_START_TIMEOUT")  # fmt: skip
STEP = {"SLURM_JOB_ID": "4097", "SLURM_STEP_NODELIST": "node[07,09]", "SLURM_NTASKS": "4", "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}  # fmt: skip
REPO = Path(__file__).parents[3]


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
    processes.start()
    assert not jax.distributed.is_initialized()
    assert processes.is_main()
    assert [processes.any_of(True), processes.any_of(False)] == [True, False]
    processes.check_agreement({"seed": 1})
    processes.barrier("here")
    assert processes.on_main(lambda: [1]) == [1]


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
        processes.start()


def _meet(those, timeout_s):
    """What each of the processes (number, of how many) is told: None is "go"."""
    address, told = f"localhost:{_free_port()}", [None] * len(those)

    def one(i):
        index, count = those[i]
        try:
            rendezvous.meet(address, count, index, timeout_s)
        except UsageError as error:
            told[i] = str(error).replace(address, "HERE")

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(those))]
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
        with processes.guard():
            raise error from cause

    lost = jax.errors.JaxRuntimeError("INTERNAL: Gloo all-reduce failed: Connection closed by peer [10.0.0.7]:1")
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    with pytest.raises(jax.errors.JaxRuntimeError):
        raise_in_guard(lost)  # in a process that is alone
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    for error, cause in ((lost, None), (OSError("could not write a checkpoint"), lost)):
        with pytest.raises(HostLost, match=r"start all of them again.*closed by peer \[10.0.0.7\]"):
            raise_in_guard(error, cause)
    for error in (full, KeyError("gloo"), HostLost("once")):
        with pytest.raises(type(error)) as caught:
            raise_in_guard(error)
        assert caught.value is error


def test_an_abort_is_a_loss_only_if_jax_service_made_it():
    program = """
import functools, os, signal, time
from jax._src import distributed
from experiments.distributed import processes
class Stuck:
    key_value_try_get = lambda self, key: time.sleep(60)
processes._service_is_stuck = functools.partial(processes._service_is_stuck, wait_s=0.3)
processes._catch_aborts()
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
    assert done.stderr.strip().endswith(f"error: {processes.LOST}")


class Pair:
    """Two processes of two devices, given one command (or each its own), that find each other on this machine."""

    def __init__(self, folder, env, commands):
        folder.mkdir()
        env |= {
            "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "JAX_NUM_PROCESSES": "2",
            "JAX_COORDINATOR_ADDRESS": f"localhost:{_free_port()}", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }  # fmt: skip
        self.out, self.err = ([folder / f"{kind}-{i}" for i in range(2)] for kind in ("out", "err"))
        self.processes = []
        for i, command in enumerate(commands):
            own = os.environ | env | {"JAX_PROCESS_ID": str(i)}
            with self.out[i].open("w") as out, self.err[i].open("w") as err:
                command = [sys.executable, "-m", *command]
                self.processes.append(subprocess.Popen(command, cwd=REPO, stdout=out, stderr=err, env=own))

    def wait_for_rows(self, file, num, timeout_s=100):
        deadline = time.monotonic() + timeout_s
        while not file.exists() or len(file.read_text().splitlines()) <= num:
            assert time.monotonic() < deadline, self.said()
            assert all(process.poll() is None for process in self.processes), self.said()
            time.sleep(0.005)

    def end(self, timeout_s=100):
        return [process.wait(timeout_s) for process in self.processes]

    def last_line(self, i):
        return self.err[i].read_text().strip().splitlines()[-1]

    def said(self):
        return "\n".join(path.read_text()[-2000:] for path in (*self.out, *self.err))


@pytest.fixture
def start_pair(tmp_path):
    pairs = []

    def start(*commands):
        env = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
               "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}  # fmt: skip
        pairs.append(Pair(tmp_path / f"pair-{len(pairs)}", env, commands if len(commands) == 2 else commands * 2))
        return pairs[-1]

    yield start
    for process in (process for pair in pairs for process in pair.processes):
        process.kill()
        process.wait()


def test_processes_of_different_commands_refuse_to_train_together(start_pair, tmp_path):
    command = ["experiments.digits", "--model=lenet_300_100", "--sparsity=0.5", f"--run-dir={tmp_path}/run"]
    pair = start_pair([*command, "--seed=1", "--batch-size=64"], [*command, "--seed=2", "--batch-size=128"])
    assert pair.end() == [2, 2], pair.said()
    differ = "batch_size is 64 in process 0 and 128 in process 1; seed is 1 in process 0 and 2 in process 1"
    for i in range(2):
        assert pair.last_line(i) == f"experiments.digits: error: the processes of this run differ: {differ}"
    assert not (tmp_path / "run").exists()


def test_stopped_processes_leave_each_other_before_they_say_so(monkeypatch, capsys):
    """What gRPC says of the first to end would come after the line, or in its place."""
    told = "stopped and saved in HERE; the same command goes on from there"
    monkeypatch.setattr(train, "train", _raise(Interrupted(told, signal.SIGTERM)))
    monkeypatch.setattr(processes, "leave", lambda: print("left", file=sys.stderr))
    assert run("digits", []) == RESTART
    assert capsys.readouterr().err == f"left\nexperiments.digits: error: {told}\n"
    monkeypatch.setattr(train, "train", _raise(HostLost("of one")))  # there is nobody to leave
    assert run("digits", []) == RESTART
    assert capsys.readouterr().err == "experiments.digits: error: of one\n"


def _raise(error):
    def work(*_):
        raise error

    return work


def test_killed_processes_go_on_as_if_nothing_had_happened(start_pair, tmp_path):
    rng = np.random.default_rng(0)
    for split, label in ((split, label) for split in ("train", "test") for label in range(2)):
        (tmp_path / "images" / split / f"{label}").mkdir(parents=True)
        for i, pixels in enumerate(rng.integers(99 * label, 99 * label + 156, (12, 8, 8, 3), np.uint8)):
            Image.fromarray(pixels).save(tmp_path / "images" / split / f"{label}" / f"{i}.png")
    rates = ("0.1", "0.10000000001")  # one run and the same again: alike in float32
    command = [
        "experiments.folder", "--model=lenet_300_100", "--sparsity=0.5", "--epochs=9", "--finetune-epochs=0",
        "--gem-miner.period=2", "--batch-size=8", "--checkpoint-every=1", f"--data-dir={tmp_path}/images",
        f"--run-dir={tmp_path}/runs", f"--sweep.learning-rate={','.join(rates)}",
    ]  # fmt: skip
    whole, stopped = (tmp_path / "runs" / f"learning-rate-{rate}" for rate in rates)
    first = start_pair(command)
    first.wait_for_rows(stopped / "metrics.csv", 2)
    first.processes[0].kill()
    since = time.monotonic()
    status = first.processes[1].wait(60)
    assert time.monotonic() - since < 60
    if jax.version.__version_info__ >= (0, 9, 2) or status != 1:  # before, JAX itself may end the process first
        assert status == RESTART, first.said()
        assert f"error: {processes.LOST}" in first.last_line(1)
    else:
        assert "another task died" in first.err[1].read_text()
    second = start_pair(command)
    second.wait_for_rows(stopped / "metrics.csv", 4)
    second.processes[1].terminate()  # both have to know
    assert second.end() == [RESTART] * 2, second.said()
    for i in range(2):
        told = f"experiments.folder: error: stopped and saved in {stopped}; the same command goes on from there"
        assert second.last_line(i) == told
    third = start_pair(command)
    assert third.end() == [0, 0], third.said()
    assert [" 0 done" in pair.err[0].read_text() for pair in (first, second, third)] == [True, False, False]
    assert (stopped / "ticket.safetensors").read_bytes() == (whole / "ticket.safetensors").read_bytes()
    for folder in (whole, stopped):
        rows = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
        assert [int(row["step"]) for row in rows] == [3 * epoch for epoch in range(1, 10)]
    assert "ticket" in third.out[0].read_text()
    assert "ticket" not in third.out[1].read_text() + third.err[1].read_text()  # process 0 alone reports
