"""The README tells the truth: its Python blocks run, its commands parse, its set-up commands are what CI runs."""

import re
import shlex
from pathlib import Path

import pytest

from experiments.main import main

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in BLOCKS if language == "bash"
    for line in block.splitlines() if "-m experiments." in line
]  # fmt: skip


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "python"])
def test_python_blocks_run(block):
    exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_resolve(command, capsys):
    words = shlex.split(command.split("&&")[-1])
    module = words[words.index("-m") + 1]
    assert main(module.removeprefix("experiments."), [*words[words.index("-m") + 2 :], "--dry-run"]) == 0
    assert "prunable: 268,336 weights in 20 layers" in capsys.readouterr().out


def test_there_are_blocks_and_commands():
    assert len(COMMANDS) >= 5
    assert len(re.findall(r"^<!-- command: (digits|tests) -->$", README, re.MULTILINE)) == 2
