"""--sweep: lists of values, each the run of its own command, several in one program, and a combined table."""

import csv
import json

import jax
import numpy as np
import pytest

from experiments.commands.program import run
from experiments.config import sweep
from experiments.config.config import Config
from experiments.terminal.errors import UsageError
from experiments.training import devices, grouping, memory, runner
from rare_gems.storage import ticket_file
from tests.experiments.conftest import SMALL

WHOLE = [flag for flag in SMALL if not flag.startswith(("--train-examples", "--epochs", "--finetune-epochs"))]
FLAGS = [*WHOLE, "--epochs=3", "--finetune-epochs=1", "--batch-size=200", "--gem-miner.period=1"]


def _ticket(folder):
    return ticket_file.load(folder / "ticket.safetensors").ticket


def _rows(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def test_a_combination_is_the_command_it_stands_for(tmp_path):
    asked = [
        "--pruner=gem_miner",
        "--sweep.sparsity=0.5,0.9",
        "--sweep.l2",
        "0,1e-3",
        "--seed=3",
        f"--run-dir={tmp_path}",
    ]
    members = sweep.expand("digits", asked)
    assert [(m.config.sparsity, m.config.options.l2) for m in members] == [
        (0.5, 0),
        (0.5, 1e-3),
        (0.9, 0),
        (0.9, 1e-3),
    ]
    assert members[1].config.run_dir == tmp_path / "sparsity-0.5_gem-miner.l2-1e-3"
    assert members[1].swept == {"sparsity": "0.5", "gem-miner.l2": "1e-3"}
    assert members[1].sources["gem_miner.l2"] == "command line"
    assert all(m.config.seed == 3 for m in members)
    (plain,) = sweep.expand("digits", ["--seed=3"])
    assert plain.swept == {}
    switched = sweep.expand("digits", ["--sweep.gem-miner.freeze=true,false", "--gem-miner.finetune-mask=rounded"])
    assert [m.config.options.freeze for m in switched] == [True, False]


def test_one_method_for_all_combinations():
    both = sweep.expand("cifar10", ["--sweep.model=resnet20,lenet_300_100", "--sweep.l2=0,1e-3"])
    assert {each.config.pruner for each in both} == {"gem_miner"}
    assert all(each.sources["pruner"].startswith("default: Rare Gems has its settings") for each in both)
    meant = sweep.expand("digits", ["--sweep.rigl.every=10,20"])
    assert [each.config.options.every for each in meant] == [10, 20]
    assert {each.sources["pruner"] for each in meant} == {"default: the method whose options are typed"}
    with pytest.raises(UsageError, match="options of imp and rigl: expected those of one method, or --pruner=NAME"):
        sweep.expand("digits", ["--rigl.every=10", "--sweep.imp.rounds=1,2"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sweep.lambda=1,2"], "--sweep.lambda: expected a field of a run of gem_miner, such as sparsity, .*l2.*got"),
        (["--sweep.seed=1,2"], r"--sweep.seed: expected a field .* \(seeds: --num-seeds\)"),
        (["--sweep.imp.rate=0.1"], "--sweep.imp.rate: expected a field"),
        (["--sweep.l2="], "--sweep.l2: expected values, separated by commas, got none"),
        (["--sweep.l2", "--seed=1"], "--sweep.l2: expected values, separated by commas, got none"),
        (["--sweep.l2=1e-4,0.0001"], "--sweep.l2: expected different values, got 1e-4,0.0001"),
        (["--sweep.l2=1,2", "--gem-miner.l2=3"], "--sweep.l2: the same field as --gem-miner.l2; expected one"),
        (["--sweep.l2=1,2", "--sweep.gem-miner.l2=3"], "--sweep.l2: expected one list for a field, got several"),
        (["--sweep.sparsity=0.5,1.5"], r"--sparsity: expected a fraction removed in \[0, 1\), got 1.5"),
        (["--sweep.learning-rate=0.1,fast"], "learning-rate"),
        (["--sweep.gem-miner.freeze=yes,no"], "expected true or false, got yes"),
    ],
)  # fmt: skip
def test_mistakes(flags, message):
    with pytest.raises(UsageError, match=message):
        sweep.expand("digits", ["--pruner=gem_miner", *flags])


def test_nothing_is_trained_before_all_combinations_can_be(tmp_path, capsys):
    own = [flag for flag in FLAGS if not flag.startswith("--model")]
    assert run("digits", [*own, "--sweep.model=lenet_300_100,foo", f"--run-dir={tmp_path / 'sweep'}"]) == 2
    assert "--model: expected one of" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_combinations_and_seeds_train_in_one_program_and_are_what_they_are_alone(tmp_path, monkeypatch, capsys):
    together = []
    train = runner.train_together
    monkeypatch.setattr(runner, "train_together", lambda todo, *rest: together.append(len(todo)) or train(todo, *rest))
    lists = ["--sweep.sparsity=0.5,0.8", "--sweep.l2=0,1e-3"]
    own = [flag for flag in FLAGS if not flag.startswith("--sparsity")]
    command = [*own, *lists, "--at-once=4", f"--run-dir={tmp_path / 'sweep'}"]
    assert run("digits", command) == 0
    assert together == [4]
    out = capsys.readouterr().out
    assert "4 combinations, 1 seed each" in out
    assert "sparsity 0.8, l2 1e-3" in out
    for sparsity, l2 in (("0.5", "1e-3"), ("0.8", "0")):
        folder = tmp_path / f"{sparsity}-{l2}"
        chosen = [f"--sparsity={sparsity}", f"--gem-miner.l2={l2}", f"--run-dir={folder}"]
        assert run("digits", [*own, *chosen]) == 0
        swept = tmp_path / "sweep" / f"sparsity-{sparsity}_gem-miner.l2-{l2}"
        one, other = _ticket(swept), _ticket(folder)
        jax.tree.map(np.testing.assert_array_equal, one.mask, other.mask)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), one.params, other.params)
        first, second = (json.loads((f / "summary.json").read_text()) for f in (swept, folder))
        assert (first["runs_at_once"], second["runs_at_once"]) == (4, 1)
        assert first["accuracy"] == second["accuracy"]
        bounds = [[row["bound"] for row in _rows(f / "metrics.csv")] for f in (swept, folder)]
        assert bounds[0] == bounds[1]
    rows = _rows(tmp_path / "sweep" / "sweep.csv")
    assert [(row["sparsity"], row["gem-miner.l2"]) for row in rows] == [
        ("0.5", "0"),
        ("0.5", "1e-3"),
        ("0.8", "0"),
        ("0.8", "1e-3"),
    ]
    assert run("digits", command) == 0  # all is there
    assert len(together) == 3


@pytest.mark.parametrize(
    ("swept", "groups", "told"),
    [
        ("rounding=deterministic,stochastic", [[0, 1], [2, 3]], "4 runs of 2 programs, in 2 groups"),
        ("period=1,2", [[0, 1, 2, 3]], ""),  # rounds are between steps
    ],
)
def test_what_changes_the_program_trains_in_groups_of_its_own(tmp_path, monkeypatch, capsys, swept, groups, told):
    together = []
    monkeypatch.setattr(runner, "train_together", lambda todo, *rest: together.append(len(todo)) or 1 / 0)
    own = [f"--sweep.gem-miner.{swept}", "--num-seeds=2", "--at-once=4", f"--run-dir={tmp_path}"]
    made = []
    monkeypatch.setattr(grouping, "groups_of", lambda *args, of=grouping.groups_of: made.extend(of(*args)) or made)
    flags = [flag for flag in FLAGS if not flag.startswith("--gem-miner.period")]
    assert run("digits", [*flags, *own]) == 3  # it ends where it would train
    assert made == groups
    assert told in capsys.readouterr().err


def test_a_sweep_s_plan(capsys):
    assert run("digits", [*FLAGS, "--sweep.learning-rate=0.1,0.2", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "2 combinations in all" in out
    assert "learning-rate 0.2" in out


def test_groups_are_as_large_as_devices_and_memory_allow(monkeypatch):
    assert devices.group_sizes(Config("digits", devices=1), 10, 4) == [4, 3, 3]
    monkeypatch.setattr(devices, "available", lambda: jax.devices())
    assert devices.group_sizes(Config("digits"), 10, 10) == [8, 2]  # multiples of eight devices, then divisors of eight
    assert devices.group_sizes(Config("digits"), 19, 16) == [16, 2, 1]
    assert devices.group_sizes(Config("digits", devices=4), 7, 3) == [2, 2, 2, 1]
    assert memory.most_runs(per_run=100, shared=0, free=1000, headroom=0.5) == 5
