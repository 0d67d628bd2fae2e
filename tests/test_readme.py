"""The README tells the truth: its Python blocks run, its commands parse, its set-up commands are what CI runs."""

import re
import shlex
from pathlib import Path

import chex
import jax
import pytest

from experiments import compare_runs
from experiments.main import main
from rare_gems import masks, trainer
from tests.toy import make_toy

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in BLOCKS if language == "bash"
    for line in block.splitlines() if re.search(r"-m experiments\.(?!sanity|bench)\w+", line)
]  # fmt: skip


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "python"])
def test_python_blocks_run(block):
    exec(compile(block, "README.md", "exec"), {})


def test_the_method_that_the_readme_writes_trains():
    (block,) = (b for language, b in BLOCKS if language == "python" and "def iterative_magnitude_pruning" in b)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    toy = make_toy()
    recipe = names["iterative_magnitude_pruning"](masks.num_prunable(toy.ticket.mask), 0.75, num_rounds=2, steps=2)
    assert [phase.num_steps for phase in recipe] == [2, 2]
    ticket, state = trainer.run(
        recipe, toy.ticket, toy.model_state, loss_fn=toy.loss_fn, feed=toy.feed, key=jax.random.key(0)
    )
    assert masks.num_kept(ticket.mask) == 44  # 176 / 4
    assert state["seen"] == 4
    chex.assert_trees_all_equal(ticket.params, masks.apply(toy.ticket.params, ticket.mask))  # rewound


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_resolve(command, capsys):
    words = shlex.split(command.split("&&")[-1])
    module = words[words.index("-m") + 1]
    flags = [*words[words.index("-m") + 2 :], "--dry-run"]
    name = module.removeprefix("experiments.")
    assert (compare_runs.main(flags) if name == "compare" else main(name, flags)) == 0
    usual = "prunable: " if any("--model" in word for word in words) else "prunable: 268,336 weights in 20 layers"
    assert {"compare": "27 runs"}.get(name, usual) in capsys.readouterr().out


def test_there_are_blocks_and_commands():
    assert len(COMMANDS) >= 5
    assert len(re.findall(r"^<!-- command: (digits|tests) -->$", README, re.MULTILINE)) == 2
