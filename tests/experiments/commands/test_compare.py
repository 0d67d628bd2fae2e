"""A comparison: the product of its lists, what is finished left alone, flags to those that take them."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from experiments.commands import compare, compare_report
from experiments.commands.program import run
from experiments.comparison.columns import read_columns
from experiments.comparison.expand import Asked, expand
from experiments.config.parse import parse
from experiments.problem.initial_ticket import initial_ticket
from experiments.terminal.errors import UsageError
from rare_gems.models.lenet import lenet_300_100
from rare_gems.storage import ticket_file
from tests.experiments.conftest import made_once

FLAGS = ["--model=lenet_300_100", "--train-examples=200", "--batch-size=50", "--finetune-epochs=1"]
LISTS = [
    "--pruners=gem_miner,random",
    "--sparsities=0.5,0.9,0.50",
    "--num-seeds=2",
    "--gem-miner.period=1",
    "--epochs=2",
]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    def make(folder):
        assert run("compare", ["digits", *LISTS, *FLAGS, f"--run-dir={folder}"]) == 0

    return made_once(tmp_path_factory, "compare", make)


def _rows(folder):
    with (folder / "compare.csv").open() as file:
        return list(csv.DictReader(file))


def test_one_row_for_each_run(compared):
    rows = _rows(compared)
    wanted = {("dense", "0.0", seed) for seed in ("42", "43")} | {
        (pruner, sparsity, seed)
        for pruner in ("gem_miner", "random") for sparsity in ("0.5", "0.9") for seed in ("42", "43")
    }  # fmt: skip
    assert {(row["pruner"], row["sparsity"], row["seed"]) for row in rows} == wanted
    assert len(rows) == len(wanted)
    kept = {"0.0": "50200", "0.5": "25100", "0.9": "5020"}
    for row in rows:
        assert row["num_kept"] == kept[row["sparsity"]]
        assert float(row["search_epochs"]) == (2 if row["pruner"] == "gem_miner" else 0)
        assert (compared / row["folder"] / "summary.json").exists()
        assert 0 <= float(row["before"]) <= 1
        assert 0 <= float(row["after"]) <= 1


def test_figures_and_table(compared, tmp_path, capsys):
    folder = shutil.copytree(compared, tmp_path / "copy")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("ticket.safetensors")}
    assert run("compare", ["digits", *LISTS, *FLAGS, f"--run-dir={folder}"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing is run again
    out = capsys.readouterr().out
    for word in ("gem_miner", "random", "dense", "90.00", "5,020", "before finetuning", "after finetuning"):
        assert word in out
    for name in ("after", "before"):
        assert (compared / "plots" / f"{name}_finetuning.png").read_bytes().startswith(b"\x89PNG")


def test_two_processes_share_the_work(tmp_path):
    command = [
        sys.executable, "-m", "experiments.compare", "digits", "--pruners=random", "--sparsities=0.5,0.8,0.9",
        "--no-dense", *FLAGS[:-1], "--finetune-epochs=0", f"--run-dir={tmp_path}/runs",
    ]  # fmt: skip

    def start(file):
        with file.open("w") as err:  # a file: a full pipe would hold the worker
            return subprocess.Popen(command, stderr=err, stdout=subprocess.DEVNULL)

    said = [tmp_path / name for name in "ab"]
    workers = [start(file) for file in said]
    ended = [worker.wait(timeout=300) for worker in workers]
    errors = [file.read_text() for file in said]
    assert ended == [0, 0], errors
    assert len(_rows(tmp_path / "runs")) == 3
    begun = [line for text in errors for line in text.splitlines() if line.endswith(" 0 done")]
    assert len(begun) == 3  # each run was begun once, by one of them


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["digits", "--pruners="], "an empty comparison"),
        (["digits", "--sparsities=,"], "an empty comparison"),
        (["digits", "--pruners=magic"], "edge_popup"),
        (["digits", "--sparsties=0.9"], "--sparsties: there is no such flag; the nearest is --sparsities"),
        (["digits", "--pruners=dense"], "expected some of"),
        (["digits", "--pruners=random", "--sparsities=0.9,1.0"], "[0, 1)"),
        (["digits", "--pruners=random", "--gem-miner.period=2"], "none of random takes it"),
        (["digits", "--pruners=random", "--sparsity=0.5"], "--sparsities"),
        (["digits", "--num-seeds=0"], "1 or more"),
        (["digits", "--sparsities=many"], "fractions removed"),
        (["tomatoes"], "cifar10"),
        (["digits", "--pruners=random,smart_ratio", "--sparsities=0.9,0.9999"], "smart ratio"),
        (
            ["digits", "--pruners=random,random"],
            "variants of one go to --columns, got random 2 times",
        ),
        (["digits", "--sweep.l2=1,2"], "--sweep.l2: a comparison takes no lists of values; expected --columns"),
        (["digits", "--columns=;"], 'expected "NAME: METHOD --FLAG=VALUE ...; ...", got none'),
        (["digits", "--columns=: snip"], "--columns: expected a name before the colon, got ': snip'"),
        (["digits", "--columns=A: magic"], "'A': expected a method first, one of gem_miner"),
        (["digits", "--columns=A: random; A: snip"], "expected a name for each column, got 'A' and 'A'"),
        (["digits", "--columns=A: imp --imp.rewnd-step=1"], "'A': --imp.rewnd-step: there is no such flag"),
        (["digits", "--columns=A: random --sparsity=0.5"], "'A': --sparsity=0.5: a comparison sets it itself"),
        (["digits", "--columns=A: random --gem-miner.period=2"], "--gem-miner.period: an option of gem_miner"),
        (["digits", "--columns=A: random --init='x"], "'A': no closing quotation"),
        (["digits", "--columns=A: random; B: random --seed=1"], "a comparison sets it itself"),
        (
            ["digits", "--columns=A: random; B: random --init=kaiming_normal"],
            "columns 'A' and 'B' are one run at sparsity",
        ),
        (
            ["digits", "--columns=A: jackpot --pretrained=@denes"],
            "--pretrained=@denes: expected another column",
        ),
        (["digits", "--columns=A: random", "--sanity=invert"], "inversion is not defined for random"),
        (
            ["digits", "--columns=A: random", "--sanity=random_labels"],
            "--sanity=random_labels: it changes the data of the search, and that of random reads none",
        ),
        (["digits", "--columns=A: random", "--sanity=shufle"], "--sanity: expected some of all, shuffle"),
        (["digits", "--columns=A: random", "--num-seeds=2", "--at-once=3"], "--at-once: expected at most the 2 seeds"),
    ],
)
def test_mistakes(flags, message, tmp_path, capsys):
    assert run("compare", [*flags, f"--run-dir={tmp_path}/runs"]) == 2
    err = capsys.readouterr().err
    assert err.strip().count("\n") == 0, err
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_a_check_that_a_column_cannot_undergo_is_told(tmp_path, capsys):
    flags = ["--columns=A: random; B: snip", "--no-dense", "--sanity=shuffle,random_labels", *FLAGS, "--dry-run"]
    assert run("compare", ["digits", *flags, f"--run-dir={tmp_path}/runs"]) == 0
    out = capsys.readouterr().out
    assert "without random_labels: A (--sanity=random_labels: it changes the data of the search" in out
    assert "without shuffle" not in out


def test_weights_of_another_network_are_refused_before_anything_is_run(tmp_path, capsys):
    config = parse("digits", ["--model=lenet_300_100"])[0]
    other = initial_ticket(lenet_300_100(10, input_size=49), config)[0]
    ticket_file.save(tmp_path / "ticket.safetensors", other, metadata={}, model_state={})
    columns = f"--columns=A: random; B: jackpot --pretrained={tmp_path}"
    for more in ([], ["--dry-run"]):
        assert run("compare", ["digits", columns, *FLAGS, f"--run-dir={tmp_path}/runs", *more]) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert f"--pretrained: {tmp_path}/ticket.safetensors: expected a network like lenet_300_100 here" in error
        assert "params/linear1/kernel (expected float32[64, 300], got float32[49, 300])" in error
        assert not (tmp_path / "runs").exists()
    nowhere = ["--columns=A: jackpot --pretrained=/nowhere", *FLAGS, "--dry-run", f"--run-dir={tmp_path}/runs"]
    assert run("compare", ["digits", *nowhere]) == 0
    assert "--pretrained: /nowhere is not there, and was not checked" in capsys.readouterr().out


def test_methods_on_variants_of_a_network_get_one(capsys):
    """Rare Gems and Sanity-Checking Pruning report two ResNet-32 of double width."""
    command = ["cifar100", "--model=resnet32", "--pruners=gem_miner,smart_ratio", "--sparsities=0.95", "--dry-run"]
    assert run("compare", command) == 0
    told = "one resnet32 for all, that of dense, smart_ratio: --network.affine --network.bias --network.shortcut=B "
    assert told + "(others have gem_miner: --network.no-affine" in capsys.readouterr().out
    same = ["--network.no-affine", "--network.no-bias", "--network.shortcut=A", "--network.width=2"]
    assert run("compare", [*command, *same]) == 0
    assert "for all" not in capsys.readouterr().out


def test_the_folder_is_the_same_whoever_runs_it(capsys):
    command = ["digits", *LISTS, *FLAGS, "--dry-run"]
    assert run("compare", command) == 0
    assert run("compare", [*command, "--launcher=local", "--num-jobs", "2"]) == 0
    alone, spread = capsys.readouterr().out.splitlines()
    assert alone == spread
    assert "runs/compare-digits-" in alone


def test_older_folders_keep_their_names(capsys):
    assert run("compare", ["digits", "--pruners=random", "--sparsities=0.9", FLAGS[0], "--dry-run"]) == 0
    assert "runs/compare-digits-036e976c5aab" in capsys.readouterr().out


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    def make(folder):
        columns = (
            "signs: random --init=signed_constant --finetune-epochs=0; searched: jackpot --pretrained=@dense --epochs=1"
        )
        flags = [f"--columns={columns}", "--sparsities=0.5", "--sanity=shuffle", *FLAGS]
        assert run("compare", ["digits", *flags, f"--run-dir={folder}"]) == 0

    return made_once(tmp_path_factory, "compare_columns", make)


def test_columns_are_variants_with_flags_of_their_own(variants):
    rows = _rows(variants)
    assert [(row["column"], row["pruner"]) for row in rows] == [
        ("dense", "dense"), ("signs", "random"), ("searched", "jackpot")
    ]  # fmt: skip
    fields = {row["column"]: json.loads((variants / row["folder"] / "config.json").read_text()) for row in rows}
    assert (fields["dense"]["init"], fields["signs"]["init"]) == ("kaiming_normal", "signed_constant")
    assert fields["dense"]["finetune_epochs"] == 1  # the common flag, which the others replace
    assert fields["searched"]["pretrained"] == str(variants / "dense" / "seed-42")


def test_a_column_is_found_at_its_sparsity_however_that_is_typed():
    """0.90 for one and 0.9 for the other were two sparsities."""
    columns = "A: random --sparsities=0.9; B: copied_ratios --copied-ratios.ticket=@A --sparsities=0.90"
    asked = Asked("digits", read_columns(columns), ["0.5"], range(1), {})
    runs = expand(asked, lambda config, column, sparsity: Path(column.name, sparsity)).combinations
    assert [(run.column, run.config.options.ticket) for run in runs if run.needs] == [("B", Path("A", "0.9"))]
    with pytest.raises(UsageError, match=r"expected A at sparsity 0\.8 in the comparison, where B needs it"):
        expand(asked._replace(columns=read_columns(columns.replace("0.90", "0.8"))), lambda *_: Path())


def test_columns_undergo_sanity_checks(variants):
    dense, *others = _rows(variants)
    assert dense["shuffle_before"] == ""
    for row in others:
        check = json.loads((variants / row["folder"] / "sanity" / "shuffle" / "summary.json").read_text())
        assert float(row["shuffle_before"]) == pytest.approx(check["accuracy"]["before_finetune"], abs=1e-6)
    assert (variants / "signs" / "0.5" / "sanity.csv").exists()


def test_flags_in_two_words_are_other_comparisons_than_their_values_the_other_way_round():
    """Once the words were sorted before they were hashed: both had one folder."""
    asked = compare.Comparison("digits")
    names = [compare._digest(asked, words.split()) for words in (
        "--epochs 1 --finetune-epochs 2", "--epochs 2 --finetune-epochs 1", "--finetune-epochs 2 --epochs 1"
    )]  # fmt: skip
    assert names[0] == names[2] != names[1]


def test_flags_that_change_nothing_in_a_run_leave_the_folder_as_it_is():
    """`--at-once` and `--checkpoint-every` had the comparison begin again in another folder."""
    asked = compare.Comparison("digits")
    names = [compare._digest(asked, ["--epochs=2", *more]) for more in (
        [], ["--at-once=2", "--checkpoint-every", "2"], ["--on-collapse=error"], ["--weight-decay=0"]
    )]  # fmt: skip
    assert names[0] == names[1] == names[2] != names[3]


def test_the_title_names_every_network(tmp_path, capsys):
    row = {"dataset": "digits", "sparsity": 0.9, "seed": 1, "num_kept": 5, "num_prunable": 50}
    row |= {"before": 0.1, "after": 0.2}
    rows = [row | {"pruner": "random", "column": name, "model": name} for name in ("conv2", "lenet_300_100")]
    compare_report.report(Console(), tmp_path, rows, 0.1)
    assert "conv2, lenet_300_100 on digits, 1 seed" in " ".join(capsys.readouterr().out.split())
