"""SIGKILL and SIGTERM at moments of search and finetune, then the same command: the same ticket, byte for byte."""

import csv
import signal
import struct
import subprocess
import sys
import time

from tensorboardX.proto import event_pb2

from experiments.commands.program import run
from tests.experiments.conftest import SMALL

FLAGS = [flag for flag in SMALL if not flag.startswith(("--checkpoint-every", "--epochs", "--finetune"))]
RUN = [*FLAGS, "--epochs=8", "--finetune-epochs=6", "--checkpoint-every=1", "--seed=5"]


def _start(folder, said):
    command = [sys.executable, "-m", "experiments.digits", *RUN, f"--run-dir={folder}"]
    with said.open("w") as err:  # a file: a full pipe would hold the run
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=err)


def _rows(folder):
    try:
        with (folder / "metrics.csv").open() as file:
            return [(row["phase"], row["epoch"]) for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []


def _stop_at(folder, num_rows, signum):
    """Starts the run, sends the signal as soon as so many rows are there; the status and what the run said."""
    said = folder.with_suffix(".err")
    process = _start(folder, said)
    deadline = time.monotonic() + 120
    while len(_rows(folder)) < num_rows and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signum)
    return process.wait(timeout=60), said.read_text()


def _charted(folder):
    """The epochs that TensorBoard shows: a session that starts at a step takes what others wrote from there on away."""
    steps = []
    for file in sorted((folder / "tensorboard").glob("events.*"), key=lambda path: path.stat().st_mtime_ns):
        data, at = file.read_bytes(), 0
        while at + 12 <= len(data):  # the length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16
            if event.HasField("session_log") and event.session_log.status == event_pb2.SessionLog.START:
                steps = [step for step in steps if step < event.step]
            if event.HasField("summary"):
                steps.append(event.step)
    return sorted(set(steps))


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path):
    assert run("digits", [*RUN, f"--run-dir={tmp_path}/whole"]) == 0
    folder = tmp_path / "killed"
    assert _stop_at(folder, 1, signal.SIGKILL)[0] == -signal.SIGKILL
    status, _ = _stop_at(folder, 4, signal.SIGTERM)
    assert status == 75  # saved, and asks for a restart
    assert list((folder / "checkpoints").iterdir())
    status, err = _stop_at(folder, 10, signal.SIGKILL)  # in the finetuning
    assert status == -signal.SIGKILL
    begun = [line for line in err.splitlines() if line.endswith(" done")]
    assert begun
    assert not begun[0].endswith(" 0 done")  # it went on, it did not start anew
    assert not (folder / "summary.json").exists()
    assert run("digits", [*RUN, f"--run-dir={folder}"]) == 0
    assert (folder / "ticket.safetensors").read_bytes() == (tmp_path / "whole" / "ticket.safetensors").read_bytes()
    expected = [("search", str(e)) for e in range(1, 9)] + [("finetune", str(e)) for e in range(1, 7)]
    assert _rows(folder) == expected == _rows(tmp_path / "whole")
    assert _charted(folder) == list(range(1, 15))
