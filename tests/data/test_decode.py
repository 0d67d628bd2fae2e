"""Decoding on all cores: order, errors, and processes that never outlive the one that started them."""

import contextlib
import io
import operator
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rare_gems.data import decode


@pytest.fixture
def started(monkeypatch):
    """The processes that were started; all must have ended."""
    children, start = [], subprocess.Popen

    def record(*args, **options):
        children.append(start(*args, **options))
        return children[-1]

    monkeypatch.setattr(subprocess, "Popen", record)
    yield children
    assert [child.returncode for child in children if child.returncode is None] == []


@pytest.mark.parametrize(("processes", "chunk", "expected"), [(1, 1, 0), (2, 7, 2), (3, 20, 2), (2, 99, 0)])
def test_results_in_order(started, processes, chunk, expected):
    tasks = list(range(40))
    results = decode.decode_all(tasks, operator.neg, processes=processes, chunk=chunk)
    assert list(results) == [-task for task in tasks]
    assert len(started) == expected  # no more than there are chunks, and none for a single one


def test_arrays_come_back_whole(started):
    tasks = [np.full((50, 60, 3), value, np.uint8) for value in range(4)]  # more than a pipe holds
    for value, result in enumerate(decode.decode_all(tasks, np.transpose, processes=2)):
        assert result.shape == (3, 60, 50)
        assert set(np.unique(result)) == {value}
    assert len(started) == 2


def test_nothing_to_do(started):
    assert list(decode.decode_all([], len)) == []
    assert started == []


@pytest.mark.parametrize("processes", [1, 2])
def test_error_at_its_place_in_the_order(started, processes):
    results, got = decode.decode_all(["1", "2", "x", "4", "y"], int, processes=processes), []
    with pytest.raises(ValueError, match=r"invalid literal .* 'x'"):
        got.extend(results)
    assert list(results) == []
    assert got == [1, 2]


def test_closed_early(started):
    with contextlib.closing(decode.decode_all([0.01] * 1000, time.sleep, processes=2)) as results:
        next(results)
        assert [child.poll() for child in started] == [None, None]
    assert [child.returncode for child in started] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize(
    ("die", "task", "cause"),
    [(os._exit, 7, "exit status 7"), (signal.raise_signal, signal.SIGKILL, "signal 9: Killed")],
)
def test_a_process_that_dies_is_an_error(started, die, task, cause):
    with pytest.raises(RuntimeError, match=rf"a process that decoded images died \({cause}\)"):
        list(decode.decode_all([task, task], die, processes=2))


def test_a_result_that_cannot_be_sent_is_an_error(started, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TypeError, match="pickle"):
        list(decode.decode_all([tmp_path / "file"] * 2, open, processes=2))


class OddError(Exception):
    """Can be pickled, but not read again."""

    def __init__(self, one, two):
        super().__init__(f"{one}\n{two}")


def test_an_error_that_cannot_be_sent_keeps_its_words():
    import pickle

    good, error = pickle.loads(decode._failure(OddError("broken", "image")))
    assert not good
    assert isinstance(error, RuntimeError)
    assert str(error) == "OddError: broken image"


def test_what_another_process_cannot_import_runs_here(started):
    assert list(decode.decode_all([1, 2, 3], lambda task: (task, os.getpid()), processes=2)) == [
        (task, os.getpid()) for task in (1, 2, 3)
    ]
    assert started == []


def test_no_processes_allowed(monkeypatch):
    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert list(decode.decode_all([1, 2], operator.neg, processes=2)) == [-1, -2]


def test_refuses():
    with pytest.raises(ValueError, match="processes: expected 1 or more, got 0"):
        decode.decode_all([1], len, processes=0)
    with pytest.raises(ValueError, match="chunk: expected 1 or more, got 0"):
        decode.decode_all([1], len, chunk=0)


def test_usable_cores():
    assert decode.usable_cores() == len(os.sched_getaffinity(0))


def script(tmp_path, text):
    """Starts a script that guards nothing by `if __name__ == "__main__"`."""
    # A process started in the background of a shell ignores Ctrl-C, and so would its children.
    heed = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    (tmp_path / "script.py").write_text(heed + textwrap.dedent(text))
    root = str(Path(decode.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, str(tmp_path / "script.py")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_the_callers_script_is_not_run_again(tmp_path):
    with script(
        tmp_path,
        """
        print("begin")
        from rare_gems.data.decode import decode_all
        def mine(task):
            return len(task)
        print(sum(decode_all(["ab", "c"] * 4, len, processes=2)), sum(decode_all(["ab", "c"], mine, processes=2)))
        import sys
        print([name for name in ("jax", "tensorflow_datasets") if name in sys.modules])
        """,
    ) as process:
        assert process.communicate(timeout=60) == ("begin\n12 3\n[]\n", "")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds children in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_an_interrupted_one(tmp_path, number):
    with script(
        tmp_path,
        """
        import time
        from rare_gems.data.decode import decode_all
        for i, _ in enumerate(decode_all([0.02] * 9999, time.sleep, processes=2)):
            if i == 1:
                print("working", flush=True)
        """,
    ) as process:
        assert process.stdout.readline() == "working\n"
        tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = [int(child) for file in tasks for child in file.read_text().split()]
        assert len(children) == 2
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == -number
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)
    assert errors.count("Traceback") == (number == signal.SIGINT)  # of the script only
    until = time.monotonic() + 30
    while any(alive(child) for child in children):
        assert time.monotonic() < until
        time.sleep(0.01)


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # ended, though nobody has asked how


def encoded(pixels, kind="PNG", mode=None):
    file = io.BytesIO()
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    (image.convert(mode) if mode else image).save(file, kind)
    return file.getvalue()


def test_decode_image_keeps_pixels():
    colour = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    pixels, kind = decode.decode_image(encoded(colour), (5, 7, 3))
    np.testing.assert_array_equal(pixels, colour)
    assert kind == "PNG"
    pixels, kind = decode.decode_image(encoded(colour[:, :, 0]), (5, 7, 1))
    np.testing.assert_array_equal(pixels, colour[:, :, :1])
    assert decode.decode_image(encoded(colour, "JPEG"), (5, 7, 3))[1] == "JPEG"


def test_decode_image_resizes():
    # Centres of the four new pixels lie at 1/4, 3/4, 5/4, 7/4 of the old: weights (1, 0), (3, 1)/4, (1, 3)/4, (0, 1).
    step = np.array([[[0, 255, 100], [255, 0, 100]]], np.uint8)
    pixels, _ = decode.decode_image(encoded(step), (2, 4, 3), resize=True)
    np.testing.assert_array_equal(pixels[0], [[0, 255, 100], [64, 191, 100], [191, 64, 100], [255, 0, 100]])
    np.testing.assert_array_equal(pixels[1], pixels[0])


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_decode_image_converts_other_modes(mode):
    pixels, _ = decode.decode_image(encoded(np.full((3, 4, 3), 255), mode=mode), (2, 2, 3), resize=True)
    np.testing.assert_array_equal(pixels, np.full((2, 2, 3), 255))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(np.zeros((4, 4, 3))), r"expected an image of shape \(5, 5, 3\) and 8 bits, got \(4, 4, 3\) of uint8"),
        (encoded(np.zeros((5, 5))), r"got \(5, 5\) of uint8"),
        (encoded(np.zeros((1, 1, 3))), r"got \(1, 1, 3\)"),  # would broadcast
        (encoded(np.zeros((5, 5, 3)), "BMP"), "cannot identify image file"),
        (encoded(np.random.default_rng(0).integers(0, 256, (5, 5, 3)))[:-30], "truncated|broken"),
        (b"", "cannot identify image file"),
    ],
)
def test_decode_image_refuses(content, message):
    with pytest.raises((ValueError, OSError, SyntaxError), match=message):
        decode.decode_image(content, (5, 5, 3))
