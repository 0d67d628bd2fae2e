"""Command lines that cannot be read: one line, what was expected and what was given, whatever the command."""

import json

import pytest

from experiments.commands.program import run
from experiments.config.parse import parse
from experiments.config.saved import fields_of

MISTAKES = [
    ("digits --data-seed=1.5", "--data-seed: expected a whole number or None, got '1.5'"),
    ("digits --seed=1e3", "--seed: expected a whole number, got '1e3'"),
    ("digits --train-examples=many", "--train-examples: expected a whole number or None, got 'many'"),
    ("digits --gem-miner.l2=x", "--gem-miner.l2: expected a number, got 'x'"),
    ("digits --training.optimizer=lion", "expected one of adam, adamw, nesterov, rmsprop, sgd, None, got 'lion'"),
    ("digits --init=zeros", "--init: expected one of signed_constant, kaiming_normal, uniform, model, got 'zeros'"),
    ("digits --dry-run=3", "--dry-run: a switch; expected no value, got '3'"),
    ("digits --image-size", "--image-size: expected a value, got none"),
    ("digits 5", "expected flags, got '5'"),
    ("compare digits --num-seeds=1.5", "--num-seeds: expected a whole number, got '1.5'"),
    ("compare", "expected DATASET (digits, cifar10, ...), got none"),
    ("reproduce rare-gems-table-3 --num-seeds=1.5", "--num-seeds: expected a whole number or None, got '1.5'"),
    ("reproduce rare-gems-table-3 --launcher=pbs", "--launcher: expected one of here, local, slurm, None, got 'pbs'"),
    ("reproduce rare-gems-table-3 --slurm.memory-gb=a", "--slurm.memory-gb: expected a number or None, got 'a'"),
    ("sanity x --cheks=all", "--cheks: there is no such flag; the nearest is --checks"),
    ("analyse x --pints=3", "--pints: there is no such flag; the nearest is --points"),
    ("export x", "expected --to=torch|numpy|flax|keras-names|compact|seed (whose file it is to be), got none"),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_one_line_with_what_was_expected_and_given(line, message, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")  # where lines of tyro break
    command, *args = line.split()
    assert run(command, args) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"experiments.{command}: error: ")
    assert error.endswith(message)


FLAGS = [
    (
        "reproduce rare-gems-table-3 --pruner=imp",
        "expected --columns, --sparsities, --dataset, --num-seeds, or flags of a run",
    ),
    (
        "reproduce rare-gems-table-3 --sanity=shuffle",
        "expected --columns, --sparsities, --dataset, --num-seeds, or flags of a run",
    ),
    ("reproduce rare-gems-table-3 --sparsities=0.5", "rare-gems-table-3 has no '0.5'; expected any of"),
    ("reproduce rare-gems-table-3 --columns=Imp", "rare-gems-table-3 has no 'Imp'; expected any of"),
    ("reproduce rare-gems-table-3 --sweep.l2=1,2", "expected one value"),
    ("reproduce rare-gems-table-3 --qqzz=1", "--qqzz: there is no such flag; --help lists all"),
    ("reproduce rare-gems-table-3 --count", "--count: counts all items for the list"),
    ("reproduce --num-seeds=7", "expected a table, figure or claim first"),
    ("compare digits --columns=dense:random", "'dense': expected another name"),
    ("compare digits --columns=..:random", "expected a name that can be a folder of a comparison, got '..'"),
    ("compare digits --columns=A:random\t--sparsities\t0.5", "expected --sparsities=A,B, got --sparsities without"),
    ("compare digits --pruner=imp", "expected --pruners or --columns"),
    ("compare digits --compare", "expected --sanity=shuffle,shuffle_global"),
    ("compare digits --help-all", "--help-all: there is no such flag; --help lists all"),
    ("compare digits --columns=A:random\t--seed=1", "expected such flags outside of --columns"),
    ("compare digits --columns=A:random\t--sparsity=0.5", "expected --sparsities=A,B, the column's own list"),
    (
        "digits --pruner=gem_miner --gem-miner.optimizer=adam --finetune-epochs=0 --momentum=0.5",
        "--momentum: gem_miner",
    ),
    ("digits --pruner=smart_ratio --smart-ratio.version=v5 --finetune-epochs=0 --momentum=0.5", "--momentum: smart_"),
    (
        "digits --pruner=prospr --prospr.split-batch --prospr.inner-steps=2 --dry-run",
        "--prospr.split-batch: expected a batch size divisible",
    ),
    ("sanity {run} --checks=shufle", "--checks: expected some of all, shuffle"),
]


@pytest.mark.parametrize(("line", "message"), FLAGS, ids=[line for line, _ in FLAGS])
def test_each_command_names_flags_that_it_has(line, message, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(fields_of(parse("digits", ["--pruner=random"])[0])))
    command, *args = (word.format(run=tmp_path) for word in line.split(" "))
    assert run(command, args) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error
    if command == "reproduce":
        assert "--pruners" not in error
