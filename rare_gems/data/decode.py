"""Decodes many images on all cores, in processes that import nothing but what decodes.

Processes, since small images spend most of their time in Python. Fresh interpreters, since a fork would copy the locks
of JAX's threads, and the children of `multiprocessing` run the caller's script once more to find its ``__main__``.
"""

import contextlib
import io
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from rare_gems.data.image_modes import eight_bits

__all__ = ["decode_all", "decode_image", "one_line", "usable_cores"]

T = TypeVar("T")
R = TypeVar("R")

_MOST = 16  # processes: with more, the one that collects is the slowest
# What a child runs: the caller's import path comes first, since it decides which rare_gems is imported.
_CHILD = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); import rare_gems.data.decode as d; d._serve()"
)


def decode_all(
    tasks: Sequence[T], decode_one: Callable[[T], R], *, processes: int | None = None, chunk: int = 1
) -> Generator[R, None, None]:
    """``map(decode_one, tasks)``, on all cores.

    The results come in the order of tasks, at most a few chunks ahead of the reader. An exception of decode_one is
    raised at its place in that order. The processes end with the last result, with an exception (Ctrl-C is one), when
    the generator is closed, and when this process dies in whatever way. Close it where reading may stop early
    (`contextlib.closing`).

    Args:
      tasks: such as paths, or ranges of records; they and the results are sent through pipes, so they must pickle.
      decode_one: a function of a module, or a `functools.partial` of one; its module should import little. One that
        another process cannot import (a lambda, a function of ``__main__``) is called in this process.
      processes: None: one for each usable core, at most 16. 1: all in this process, best below about a second of work.
      chunk: tasks sent at once; some 10 ms of work is enough.
    Yields:
      decode_one(task) for each task.
    Raises:
      ValueError: processes or chunk is below 1.
      RuntimeError: a process died (killed for want of memory, say).
    Example:
      >>> list(decode_all([b"ab", b"c"], len, processes=1))
      [2, 1]
    """
    if processes is not None and processes < 1:
        raise ValueError(f"processes: expected 1 or more, got {processes}")
    if chunk < 1:
        raise ValueError(f"chunk: expected 1 or more, got {chunk}")
    wanted = min(usable_cores(), _MOST) if processes is None else processes
    return _decode_all(list(tasks), decode_one, wanted, chunk)


def usable_cores() -> int:
    """The cores that this process may use, 1 or more: those of its affinity, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decode_image(content: bytes, shape: tuple[int, int, int], resize: bool = False) -> tuple[np.ndarray, str]:
    """The pixels of a PNG or JPEG file of a prepared data set, as stored: EXIF data do not turn it.

    Args:
      content: of the file. shape: height, width and channels, 1 (grey) or 3 (RGB).
      resize: convert to grey or RGB and resize (bilinear, with Pillow's antialiasing; the aspect ratio may change);
        otherwise the image must have the given shape.
    Returns:
      (uint8 of the given shape, "PNG" or "JPEG").
    Raises:
      OSError, SyntaxError, ValueError: no whole PNG or JPEG image (as Pillow raises them), another shape, or
        a mode that is refused (see `image_modes`).
    """
    from PIL import Image

    height, width, channels = shape
    with Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]) as image:
        kind, made = str(image.format), eight_bits(image)
        if resize:
            made = made.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(made)
    if channels == 1 and pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape != shape:
        raise ValueError(f"expected an image of shape {shape} and 8 bits, got {pixels.shape} of {pixels.dtype}")
    return pixels, kind


def one_line(error: BaseException) -> str:
    """The message of an exception on one line of at most 200 characters, or its type where it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _decode_all(tasks: list[T], decode_one: Callable[[T], R], processes: int, chunk: int) -> Generator[R, None, None]:
    parts = [tasks[first : first + chunk] for first in range(0, len(tasks), chunk)]
    children = _start(decode_one, min(processes, len(parts)))
    if not children:
        yield from map(decode_one, tasks)
        return
    free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
    for child in children:
        free.put(child)

    def run(part: list[T]) -> list[R]:
        child = free.get()
        try:
            return _ask(child, part)
        finally:
            free.put(child)

    threads = ThreadPoolExecutor(len(children))  # each waits for one child
    pending = deque()
    try:
        for part in parts:
            pending.append(threads.submit(run, part))
            if len(pending) > 2 * len(children):
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        for child in children:
            child.kill()  # and so the threads that wait for an answer read an end of file
        threads.shutdown(cancel_futures=True)
        for child in children:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):  # what was not flushed has no reader any more
                    assert pipe is not None
                    pipe.close()


def _start(decode_one: Callable[..., Any], count: int) -> list[subprocess.Popen[bytes]]:
    """Starts children that know decode_one; none where one would not help, or processes cannot be started."""
    if count < 2 or not sys.executable:
        return []
    try:
        named = pickle.dumps(decode_one)
    except Exception:  # a lambda, say: PicklingError, AttributeError, TypeError
        return []
    if b"__main__" in named:
        return []
    children: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            # A session of its own: Ctrl-C in a terminal reaches this process only, which then ends the children.
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            child = subprocess.Popen([sys.executable, "-c", _CHILD], start_new_session=True, **pipes)
            children.append(child)
            assert child.stdin is not None
            child.stdin.write(pickle.dumps(sys.path) + named)
            child.stdin.flush()
    except OSError:  # too many processes, or none allowed
        for child in children:
            child.kill()
            child.communicate()
        return []
    return children


def _ask(child: subprocess.Popen[bytes], part: list[Any]) -> list[Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    question = pickle.dumps(part)
    try:
        child.stdin.write(question)
        child.stdin.flush()
        good, answer = pickle.load(child.stdout)
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        status = child.wait()
        cause = f"signal {-status}: {signal.strsignal(-status)}" if status < 0 else f"exit status {status}"
        raise RuntimeError(f"a process that decoded images died ({cause})") from error
    if not good:
        raise answer
    return answer


def _serve() -> None:
    """The child: reads decode_one, then lists of tasks, and answers with (True, results) or (False, exception)."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get among the answers
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent has ended
        decode_one = pickle.load(sys.stdin.buffer)
        while True:
            part = pickle.load(sys.stdin.buffer)
            try:
                answer = pickle.dumps((True, [decode_one(task) for task in part]), pickle.HIGHEST_PROTOCOL)
            except Exception as error:
                answer = _failure(error)
            answers.write(answer)
            answers.flush()
    os._exit(0)  # nothing is left to flush, and nobody to flush it to


def _failure(error: Exception) -> bytes:
    try:
        answer = pickle.dumps((False, error))
        pickle.loads(answer)  # exceptions with arguments of their own can be written but not read
    except Exception:
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {one_line(error)}")))
    return answer
