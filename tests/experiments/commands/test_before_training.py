"""What is known before training is said before it: the folders of all runs, checks and combinations."""

import json
import os
import shutil

import pytest

from experiments.commands.program import run
from experiments.run_folder import folder as run_folder
from experiments.run_folder import paths, summary
from experiments.terminal.errors import UsageError
from experiments.training import runner
from rare_gems.reports import run_figures
from tests.experiments.conftest import SMALL

SEEDS = [*SMALL, "--num-seeds=2"]


@pytest.fixture(autouse=True)
def _nothing_is_trained(monkeypatch):
    def trained(*_):
        raise AssertionError("it was trained")

    monkeypatch.setattr(runner, "train_together", trained)


def _refused(capsys, command, args, *told):
    assert run(command, args) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for part in told:
        assert part in error
    return error


def test_the_folder_of_a_later_seed_is_looked_at_first(tmp_path, capsys):
    other = tmp_path / "seed-43"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    _refused(capsys, "digits", [*SEEDS, f"--run-dir={tmp_path}"], "seed-43", "thesis.txt")
    assert [place.name for place in tmp_path.iterdir()] == ["seed-43"]
    shutil.rmtree(other)
    other.write_text("a file in its place")
    _refused(capsys, "digits", [*SEEDS, f"--run-dir={tmp_path}"], "seed-43: expected a folder")


def test_the_folders_of_a_sweep_and_of_a_comparison_are_looked_at_first(tmp_path, capsys):
    (tmp_path / "sparsity-0.9").write_text("")
    flags = [flag for flag in SMALL if "sparsity" not in flag]
    _refused(capsys, "digits", [*flags, "--sweep.sparsity=0.5,0.9", f"--run-dir={tmp_path}"], "sparsity-0.9: expected")
    place = tmp_path / "compared" / "random" / "0.9" / "seed-42"
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps({"pruner": "magic"}))
    compared = ["--pruners=magnitude,random", "--sparsities=0.9", "--no-dense", "--finetune-epochs=1"]
    args = ["digits", "--model=lenet_300_100", *compared, f"--run-dir={tmp_path}/compared"]
    _refused(capsys, "compare", args, str(place), "belongs to another configuration")


def test_a_place_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root, who can write anywhere
    _refused(capsys, "digits", [*SMALL, f"--run-dir={tmp_path}/deep/run"], f"got {tmp_path}, which cannot")
    with pytest.raises(UsageError, match="expected a place that can be written"):
        run_folder.check_place(tmp_path / "run")


def test_a_finished_run_may_lie_where_nothing_can_be_written(small_copy, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert run("digits", [*SMALL, f"--run-dir={small_copy}", "--compare"]) == 0


def test_the_folders_of_checks_are_looked_at_first(small_copy, capsys):
    place = paths.check_folder(small_copy, "half_data")
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("")
    for command, args in (
        ("digits", [*SMALL, f"--run-dir={small_copy}", "--sanity=reinit,half_data"]),
        ("sanity", [str(small_copy), "--checks=reinit,half_data"]),
    ):
        _refused(capsys, command, args, "half_data", "notes.txt")


def test_a_check_without_what_the_search_left(small_copy, capsys):
    (small_copy / paths.SEARCH).unlink()
    args = [str(small_copy), "--checks=random_ticket,reinit"]  # the first needs the ticket alone
    _refused(capsys, "sanity", args, "--sanity=reinit", "search.safetensors is not there")


def test_checks_of_seeds_that_do_not_belong_together(small_run, tmp_path, capsys):
    for seed in (42, 43):
        shutil.copytree(small_run, tmp_path / f"seed-{seed}")
    config = json.loads((small_run / paths.CONFIG).read_text())
    unfinished = tmp_path / "seed-43" / paths.SUMMARY
    unfinished.unlink()
    _refused(capsys, "sanity", [str(tmp_path), "--checks=reinit"], "seed-43: expected a finished run")
    shutil.copy(small_run / paths.SUMMARY, unfinished)
    own = {name: value for name, value in config.items() if name != "gem_miner"} | {"pruner": "random"}
    own["random"] = {"scope": "global"}
    (tmp_path / "seed-43" / paths.CONFIG).write_text(json.dumps(own))
    _refused(capsys, "sanity", [str(tmp_path), "--checks=reinit"], "expected the pruner of", "gem_miner, got random")


def test_a_package_that_is_not_installed_has_no_version():
    assert summary._version("rare_gems_of_nowhere") is None
    assert summary._version("numpy")


@pytest.mark.parametrize("name", ["$\\foo$/kernel", "a$x^$/b", "$"])
def test_layers_with_dollar_signs_are_drawn(name, tmp_path):
    layers = [{"name": f"{name}/{i}", "num_kept": 1, "num_prunable": 4} for i in range(2)]
    run_figures.plot_layers(layers, None, f"of {name}").savefig(tmp_path / "layers.png")
    rows = [{"phase": "search", "epoch": 1, "train_accuracy": 0.5, "test_accuracy": 0.5, "sparsity": 0.5}]
    run_figures.plot_search(rows, None, f"of {name}").savefig(tmp_path / "search.png")
