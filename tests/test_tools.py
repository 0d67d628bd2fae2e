"""The tree is clean under the tools that pyproject.toml configures."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("command", [["ruff", "check"], ["ruff", "format", "--check"], ["pyrefly", "check"]])
def test_clean(command):
    beside = Path(sys.executable).parent / command[0]
    program = str(beside) if beside.exists() else shutil.which(command[0])
    assert program, f"{command[0]} is not installed; the test extra has it"
    here = [f"--python-interpreter-path={sys.executable}"] if command[0] == "pyrefly" else []
    done = subprocess.run([program, *command[1:], *here], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
