"""`python -m experiments.compiled.child OUT`: compiles a program, asked for as JSON on standard input; JSON in OUT.

A process of its own, since the compilers are others' code: where one crashes, only this process does.
"""

import json
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

from experiments.compiled.compilers import devices_of
from experiments.compiled.counts import Counts, count, loop_body
from experiments.compiled.hlo import parse
from experiments.compiled.kinds import parse_target
from experiments.compiled.program import check_divides, lower, phases_of, program_of
from experiments.config.saved import from_fields
from experiments.terminal.errors import UsageError, one_line

__all__ = ["compile_here", "figures", "main", "out_of_memory"]

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def main(out: Path) -> None:
    """Reads a request, compiles, writes what came out; ends where the process that asked does."""
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer = compile_here(request)
    except UsageError as error:
        answer = {"refused": one_line(error)}
    except Exception as error:
        text = str(error)
        needed = out_of_memory(text)
        answer = {"error": one_line(text)[:300] or type(error).__name__} | ({"needed_bytes": needed} if needed else {})
    partial = out.with_suffix(".part")
    partial.write_text(json.dumps(answer))
    partial.replace(out)
    os._exit(0)  # the compilers' own threads may not end


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def compile_here(request: dict[str, Any]) -> dict[str, Any]:
    """Compiles in this process.

    Args:
      request: "config" (as `saved.fields_of` gives it), "for", "phase", "runs", "unit", and "text", a file to which the
        compiled text goes.
    Raises:
      UsageError: for what the devices cannot share.
    """
    config, target = from_fields(request["config"]), parse_target(request["for"])
    check_divides(config, target.text, target.num_devices, request["runs"])
    program = program_of(
        config, phases_of(config)[request["phase"]], devices_of(target), runs=request["runs"], unit=request["unit"]
    )
    start, busy = time.perf_counter(), time.process_time()
    lowered = lower(program, target.kind.platform)
    traced = time.perf_counter()
    compiled = lowered.compile()
    seconds = {"trace_seconds": traced - start, "compile_seconds": time.perf_counter() - traced,
               "cpu_seconds": time.process_time() - busy}  # fmt: skip
    text = compiled.as_text() or ""
    if request.get("text"):
        Path(request["text"]).write_text(text)  # before it is read, which may fail
    sizes = {name: getattr(program, name) for name in ("gradient_bytes", "score_bytes", "held_bytes")}
    memory = figures(compiled.memory_analysis())
    return seconds | sizes | memory | {"steps": program.num_steps} | _counted(
        text, target.kind.platform, program.num_steps)  # fmt: skip


def _counted(text: str, platform: str, num_steps: int) -> dict[str, Any]:
    module = parse(text)
    body = loop_body(module, num_steps) if num_steps > 1 else None
    least: Counts = count(module, platform, body)
    most = count(module, platform, body, "most")
    return {"counts": least.as_dict(), "num_kernels_at_most": most.num_kernels, "of_loop_body": body is not None}


def figures(memory: Any) -> dict[str, int]:
    """Bytes of a device that a compiled program takes, of JAX's memory analysis: all, and their parts.

    all = arguments + results - results in the place of arguments + temporaries + code.
    """
    parts = {name: int(getattr(memory, f"{name}_size_in_bytes")) for name in ("argument", "output", "alias", "temp")}
    parts["generated_code"] = int(memory.generated_code_size_in_bytes)
    whole = parts["argument"] + parts["output"] - parts["alias"] + parts["temp"] + parts["generated_code"]
    return {"program_bytes": whole} | {f"{name}_bytes": size for name, size in parts.items()}


def out_of_memory(message: str) -> int | None:
    """The bytes that a compiler says a program would need, where that is why it refused.

    Example:
      >>> out_of_memory("Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.") / 2**30
      20.5
    """
    number = r"([\d.]+)([KMGT]?)"
    found = re.search(rf"Used {number} of [\d.]+[KMGT]? \w+", message)
    found = found or re.search(rf"\({number}\) exceeds available HBM", message)
    return int(float(found[1]) * _UNITS[found[2]]) if found else None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
