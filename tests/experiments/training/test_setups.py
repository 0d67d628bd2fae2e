"""Runs that differ in seeds alone have one recipe, and so one set of compiled programs."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.catalog.sanity_checks import CHECKS
from experiments.commands.program import run
from experiments.config.parse import parse
from experiments.config.saved import fields_of, without_free
from experiments.problem import found_ticket
from experiments.problem.recipe import training_phase
from experiments.terminal.errors import UsageError
from experiments.training import setups
from rare_gems.storage import ticket_file
from tests.experiments.conftest import SMALL

LENET = ["--model=lenet_300_100", "--finetune-epochs=1"]


def test_seeds_share_recipe_and_programs_and_nothing_else_does():
    config = without_free(parse("digits", [f for f in SMALL if not f.startswith("--train-examples")])[0])
    other = [dataclasses.replace(config, **changed) for changed in ({"seed": 7}, {"learning_rate": 0.07})]
    (a, b, c) = (setups.search_run(setups.setup_of(each), None) for each in (config, *other))
    assert a.recipe is b.recipe
    assert a.programs is b.programs
    assert a.recipe is not c.recipe
    assert a.programs is not c.programs
    inverted = setups.search_run(setups.setup_of(config), CHECKS["invert"])
    assert inverted.recipe is not a.recipe


def test_a_check_of_a_ticket_of_another_run_draws_as_that_run_did(tmp_path):
    """Once by the init of its own preset: Kaiming's normal law, where the ticket had signed constants."""
    flags = ["--model=lenet_300_100", "--sparsity=0.8", "--finetune-epochs=0"]
    assert run("digits", [*flags, "--pruner=gem_miner_auto", "--epochs=1", f"--run-dir={tmp_path}/found"]) == 0
    again = ["--pruner=ticket", f"--ticket.run={tmp_path}/found", f"--run-dir={tmp_path}/again", "--sanity=reinit"]
    assert run("digits", [*flags, *again]) == 0
    for name in ("found", "again", "again/sanity/reinit"):
        file = ticket_file.load(tmp_path / name / "ticket.safetensors")
        kernels = [np.abs(leaf) for leaf in jax.tree.leaves(file.initial) if np.ndim(leaf) == 2]
        assert [len(np.unique(kernel)) for kernel in kernels] == [1, 1, 1], name


def test_the_run_that_found_a_ticket_is_read_or_said_to_be_gone(tmp_path):
    flags = [*LENET, "--sparsity=0.5", "--pruner=ticket"]
    gone = parse("digits", [*flags, f"--ticket.run={tmp_path}"])[0]
    assert found_ticket.rewound_to(gone) == 0  # of a plan, whose ticket is to be found yet
    with pytest.raises(UsageError, match=r"again: trains the ticket of .*, and no run is there"):
        found_ticket.check_source(gone, Path("again"))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UsageError, match=r"config.json: expected the configuration of a run"):
        found_ticket.rewound_to(gone)
    config = parse("digits", [*LENET, "--sparsity=0.5", "--pruner=imp", "--imp.rewind-step=20", "--imp.rounds=1"])[0]
    fields = fields_of(config) | {"check": "shuffle"}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert found_ticket.rewound_to(gone) == 20  # of a check too
    with pytest.raises(UsageError, match="--finetune-epochs: expected more than 20 steps, from where the ticket of"):
        training_phase(dataclasses.replace(gone, finetune_epochs=1), 12, lambda **options: None)
