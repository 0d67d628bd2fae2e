"""Readers that leave: nothing is raised, and the command goes on."""

import contextlib
import io
import os
import subprocess
import sys

import pytest

from experiments.terminal.streams import outlast_readers


@contextlib.contextmanager
def piped():
    """Standard output is a pipe, within: its reading end. No fixture: pytest's own stream takes its place there."""
    reading, writing = os.pipe()
    with (
        pytest.MonkeyPatch.context() as patch,
        io.TextIOWrapper(io.FileIO(writing, "w"), "utf-8", line_buffering=True) as own,
    ):
        patch.setattr(sys, "stdout", own)
        outlast_readers()
        assert sys.stdout is not own
        yield reading


def test_what_is_read_is_as_before():
    with piped() as reading:
        said = (sys.stdout.line_buffering, sys.stdout.isatty(), sys.stdout.encoding)
        print("κ 1")
    assert (said, os.read(reading, 100)) == ((True, False, "utf-8"), "κ 1\n".encode())
    os.close(reading)


def test_what_nobody_reads_goes_nowhere():
    with piped() as reading:
        print("one")
        os.close(reading)
        print("two")
        print("three" * 10_000, flush=True)


def test_a_stream_that_is_none_or_closed_stays(monkeypatch):
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    for stream in (None, closed, io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stream)
        outlast_readers()
        assert sys.stdout is stream


@pytest.mark.parametrize("command", [["experiments"], ["experiments.digits", "--dry-run"]], ids=" ".join)
def test_a_command_ends_as_if_it_were_read(command):
    """Its table is printed by rich, which would end the process itself, with a status of its own."""
    reading, writing = os.pipe()
    os.close(reading)
    assert subprocess.run([sys.executable, "-m", *command], stdout=writing, stderr=writing).returncode == 0
    os.close(writing)
