"""Asks a process of its own to compile a program for devices that are not there."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.compiled.compilers import environment
from experiments.compiled.kinds import Target
from experiments.config.config import Config
from experiments.config.saved import fields_of
from experiments.terminal.errors import UsageError, one_line

__all__ = ["Request", "answered", "compile_apart"]

_ROOT = Path(__file__).resolve().parents[2]


class Request(NamedTuple):
    """What to compile: `phase` is "search" or "finetune", `unit` a step or an epoch, `runs` how many at once."""

    config: Config
    target: Target
    phase: str
    runs: int = 1
    unit: Literal["step", "epoch"] = "step"
    text: str | None = None

    def as_json(self) -> str:
        """In one line, as `child` reads it."""
        made = self._asdict() | {"config": fields_of(self.config), "for": self.target.text}
        del made["target"]
        return json.dumps(made)


def compile_apart(request: Request, timeout: float) -> dict[str, Any]:
    """The answer of `child.compile_here`, or {"error": one line} where the compiler gave none within `timeout` seconds.

    Raises:
      UsageError: for what the devices cannot share.
    """
    with tempfile.TemporaryDirectory(prefix="rare_gems-compile-") as folder:
        out, log = Path(folder) / "answer.json", Path(folder) / "log"
        environ = environment(request.target, os.environ)
        environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, [environ.get("PYTHONPATH")])])
        with log.open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "experiments.compiled.child", str(out)],
                stdin=subprocess.PIPE, stdout=said, stderr=said, env=environ,
            )  # fmt: skip
            assert process.stdin is not None
            try:
                with contextlib.suppress(BrokenPipeError):  # it crashed already: its status tells
                    process.stdin.write((request.as_json() + "\n").encode())
                    process.stdin.flush()
                process.wait(timeout)  # its standard input stays open: where this process ends, so does that
            except subprocess.TimeoutExpired:
                return {"error": f"the compiler was not ready after {timeout:g} s"}
            finally:
                process.kill()
                process.wait()
                with contextlib.suppress(OSError):
                    process.stdin.close()
        return answered(out, process.returncode, log.read_text(errors="replace"))


def answered(out: Path, status: int, log: str) -> dict[str, Any]:
    """What the process left, or in one line how it ended.

    Raises:
      UsageError: for what it refused.
    """
    if out.exists():
        answer = json.loads(out.read_text())
        if "refused" in answer:
            raise UsageError(answer["refused"])
        return answer
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "it said nothing")
    return {"error": f"the compiler ended with {how}: {one_line(last)[:200]}"}
