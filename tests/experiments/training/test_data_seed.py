"""--data-seed: batches move and nothing else does."""

import json

import jax
import numpy as np
import pytest

from experiments.commands.program import run
from experiments.config import sweep
from experiments.config.saved import digest, fields_of
from experiments.terminal.errors import UsageError
from rare_gems.storage import ticket_file

FLAGS = ["--model=lenet_300_100", "--pruner=random", "--sparsity=0.5", "--finetune-epochs=1", "--batch-size=100"]


def _load(folder):
    return ticket_file.load(folder / "ticket.safetensors")


def test_runs_of_several_data_seeds_at_once(tmp_path):
    assert run("digits", [*FLAGS, "--sweep.data-seed=1,2", "--at-once=2", f"--run-dir={tmp_path}/at-once"]) == 0
    one, two = (_load(tmp_path / "at-once" / f"data-seed-{seed}") for seed in (1, 2))
    jax.tree.map(np.testing.assert_array_equal, (one.initial, one.ticket.mask), (two.initial, two.ticket.mask))
    assert not np.array_equal(*(file.ticket.params["linear1"]["kernel"] for file in (one, two)))
    assert [file.metadata["data_seed"] for file in (one, two)] == [1, 2]
    told = [json.loads((tmp_path / "at-once" / "data-seed-1" / f"{name}.json").read_text())["data_seed"]
            for name in ("config", "summary")]  # fmt: skip
    assert told == [1, 1]


def test_the_name_of_a_folder_has_it_only_when_given():
    (before,) = sweep.expand("digits", FLAGS)
    (given,) = sweep.expand("digits", [*FLAGS, "--data-seed=42"])
    fields = fields_of(before.config)
    assert digest({name: value for name, value in fields.items() if name != "data_seed"}) == digest(fields)
    assert digest(fields_of(given.config)) != digest(fields)


@pytest.mark.parametrize("value", ["-1", str(2**32)])
def test_out_of_range(value):
    with pytest.raises(UsageError, match=r"--data-seed: expected (0 or more|at most 4294967295)"):
        sweep.expand("digits", [*FLAGS, f"--data-seed={value}"])
