"""SIGKILL at several moments of search and finetune, then the same command: the same ticket, byte for byte."""

import csv
import os
import signal
import subprocess
import sys
import time

from tests.experiments.conftest import SMALL

FLAGS = [flag for flag in SMALL if not flag.startswith(("--checkpoint-every", "--epochs", "--finetune"))]
RUN = [*FLAGS, "--epochs=9", "--finetune-epochs=6", "--checkpoint-every=1", "--seed=5"]


def _start(folder, cache):
    command = [sys.executable, "-m", "experiments.digits", *RUN, f"--run-dir={folder}"]
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }  # fmt: skip
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _rows(folder):
    try:
        with (folder / "metrics.csv").open() as file:
            return [(row["phase"], row["epoch"]) for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []


def _stop_at(folder, cache, num_rows, signum):
    """Starts the run and sends the signal as soon as so many rows are there."""
    process = _start(folder, cache)
    deadline = time.monotonic() + 120
    while len(_rows(folder)) < num_rows and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signum)
    process.communicate(timeout=60)
    return process.returncode


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path):
    cache = tmp_path / "cache"
    whole = _start(tmp_path / "whole", cache)
    assert whole.communicate(timeout=200)[0] is None
    assert whole.returncode == 0
    folder = tmp_path / "killed"
    kills = [_stop_at(folder, cache, rows, signal.SIGKILL) for rows in (1, 8, 12)]
    assert kills.count(-signal.SIGKILL) >= 2  # the other was too fast to be caught
    assert not (folder / "summary.json").exists() or kills[-1] == 0
    last = _start(folder, cache)
    _, err = last.communicate(timeout=200)
    assert last.returncode == 0, err
    assert (folder / "ticket.safetensors").read_bytes() == (tmp_path / "whole" / "ticket.safetensors").read_bytes()
    expected = [("search", str(e)) for e in range(1, 10)] + [("finetune", str(e)) for e in range(1, 7)]
    assert _rows(folder) == expected == _rows(tmp_path / "whole")


def test_sigterm_saves_and_asks_for_a_restart(tmp_path):
    cache = tmp_path / "cache"
    status = _stop_at(tmp_path / "run", cache, 2, signal.SIGTERM)
    assert status == 75
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    again = _start(tmp_path / "run", cache)
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert " 0 done" not in err.splitlines()[0]  # it went on, it did not start anew
