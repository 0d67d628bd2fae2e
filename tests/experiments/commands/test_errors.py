"""Mistakes of the user: one line that says what is wrong and what would work, exit status 2, no traceback."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from experiments.commands.program import run
from rare_gems.storage import checkpoint
from tests.experiments.conftest import SMALL

MISTAKES = {
    "--pruner=magic": "gem_miner",
    "--model=resnet21": "resnet20",
    "--sparsity=1": "[0, 1)",
    "--sparsity=-0.1": "[0, 1)",
    "--sparsity=98.56": "[0, 1)",
    "--sparsity=nan": "[0, 1)",
    "--sparsity=0.9999999": "keeps none",
    "--random.scope=layer": "an option of random",
    "--data-dir=/tmp": "digits",
    "--gem-miner.l2=inf": "--gem-miner.l2: expected a finite number of 0 or more, got inf",
    "--gem-miner.l2=-1": "0 or more",
    "--weight-decay=inf": "at most",
    "--seed=4294967296": "at most",
    "--sparsity=many": "sparsity",
    "--epochz=5": "--epochz: there is no such flag; the nearest is --epochs",
    "--epochs=0": "1 or more",
    "--epochs=1": "--epochs: expected 2 or more, since the first round is after the second epoch, got 1",
    "--finetune-epochs=-1": "0 or more",
    "--batch-size=0": "1 or more",
    "--batch-size=5000": "1437",
    "--gem-miner.period=0": "1 or more",
    "--gem-miner.period=60": "at most",
    "--gem-miner.perod=5": "--gem-miner.period",
    "--gem-miner=5": "--gem-miner: there is no such flag; the nearest is --gem-miner.l2",
    "--gem-miner.norm=l3": "l1",
    "--learning-rate=0": "positive",
    "--learning-rate=inf": "positive",
    "--momentum=1": "[0, 1)",
    "--checkpoint-every=0": "1 or more",
    "--num-seeds=0": "1 or more",
    "--train-examples=0": "1 or more",
    "--train-examples=99999": "1437",
    "--validation-examples=99999": "1436",
    "--on-collapse=ignore": "warn",
    "--gem-miner.no-freeze": "rounded",
    "--no-gem-miner.freeze": "the nearest is --gem-miner.no-freeze",
    "--no-seed=3": "--no-seed: there is no such flag; the nearest is --seed",
    "--no-such": "--no-such: there is no such flag; --help-all lists all",
    "--no-help": "--no-help: there is no such flag; the nearest is --help",
}


@pytest.mark.parametrize("folder", ["exp.no-decay", "no-decay"])
def test_a_value_may_look_like_a_switch(folder, tmp_path, capsys):
    assert run("digits", [f"--run-dir={tmp_path}/{folder}", "--gem_miner.no_freeze", "--pruner=random"]) == 2
    assert "--gem-miner.freeze: an option of gem_miner" in capsys.readouterr().err
    assert run("digits", [f"--run-dir={tmp_path}/{folder}", "--pruner=random", "--dry-run"]) == 0


@pytest.mark.parametrize("idle", ["--gem-miner.period=7", "--gem-miner.scope=layer"])
def test_options_that_freezing_alone_uses_are_refused_without_it(idle, tmp_path, capsys):
    flags = ["--gem-miner.no-freeze", "--gem-miner.finetune-mask=rounded", idle, f"--run-dir={tmp_path}/run"]
    assert run("digits", flags) == 2
    assert f"{idle.split('=')[0]}: nothing is frozen with --gem-miner.no-freeze" in capsys.readouterr().err


@pytest.mark.parametrize("flag", MISTAKES)
def test_mistake_on_the_command_line(flag, tmp_path, capsys):
    typed = [] if "pruner=" in flag else ["--pruner=gem_miner"]
    typed += [] if "epochs=" in flag else ["--epochs=60"]
    assert run("digits", [*typed, flag, f"--run-dir={tmp_path}/run"]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    assert MISTAKES[flag] in err
    assert "Traceback" not in err + out
    assert not (tmp_path / "run" / "summary.json").exists()


def _no_network(*_, **__):
    raise OSError("no network")


def test_no_data_and_no_network(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("rare_gems.data.cifar.prepare_cifar10", _no_network)
    assert run("cifar10", [f"--data-dir={tmp_path}/nothing", f"--run-dir={tmp_path}/run"]) == 2
    err = capsys.readouterr().err
    assert err.strip().count("\n") == 0, err
    assert str(tmp_path / "nothing") in err
    assert "python -m rare_gems.data.prepare" in err


def test_a_foreign_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert run("digits", [*SMALL, f"--run-dir={tmp_path}"]) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == ["thesis.txt"]


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("digits", [*SMALL, f"--run-dir={tmp_path}/file/run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk_fails_in_one_line(tmp_path):
    """A file size limit stands in for a full disk: the checkpoint cannot be written."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n"
        "from experiments.commands.program import program; program('digits', sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *SMALL, f"--run-dir={tmp_path}/run"],
        capture_output=True, text=True, timeout=200,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")},  # the limit may damage it
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "error: File too large" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run" / "ticket.safetensors").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--learning-rate=0.1"],
            "--learning-rate: steps of gem_miner_auto follow from its length; expected no such flag, or another",
        ),
        (
            ["--momentum=0.5", "--finetune-epochs=0"],
            "--momentum: gem_miner_auto trains no weights with --finetune-epochs=0",
        ),
        (["--gem-miner.l2=0"], "--gem-miner.l2: an option of gem_miner; expected none with gem_miner_auto"),
    ],
)
def test_a_search_without_knobs_refuses_them(flags, said, capsys):
    assert run("digits", ["--pruner=gem_miner_auto", *flags]) == 2
    assert said in capsys.readouterr().err


DENSE = ["--model=lenet_300_100", "--pruner=dense", "--batch-size=100", "--train-examples=200", "--checkpoint-every=1"]


def test_a_nan_loss_in_the_last_part_of_an_epoch_stops_the_run(tmp_path, capsys):
    """A finetuning rewound by a step ends in a part of an epoch, which has no row."""
    imp = "--pruner=imp --imp.rounds=1 --imp.round-epochs=1 --imp.rewind-step=1 --sparsity=0.5 --batch-size=50"
    flags = "--model=lenet_300_100 --train-examples=200 --finetune-epochs=1 --finetune-learning-rate=1e30"
    assert run("digits", [*imp.split(), *flags.split(), f"--run-dir={tmp_path}/run"]) == 3
    assert "the loss is not finite at step 1 of the finetune" in capsys.readouterr().err
    assert not (tmp_path / "run" / "ticket.safetensors").exists()


def test_nan_loss_stops_the_run_and_keeps_the_last_checkpoint(tmp_path, capsys):
    flags = [*DENSE, "--finetune-epochs=30", "--finetune-learning-rate=300", f"--run-dir={tmp_path}/run"]
    assert run("digits", flags) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert "not finite at step" in last
    kept = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert all(name.isdigit() for name in kept)
    assert ("is kept" in last) == bool(kept)
    assert kept, "the rate is meant to diverge after an epoch or more"
    assert not (tmp_path / "run" / "summary.json").exists()
    metrics = (tmp_path / "run" / "metrics.csv").read_text()
    assert "nan" not in metrics
    assert "inf" not in metrics


def test_a_refused_command_leaves_the_folder_as_it_was(tmp_path, capsys):
    assert run("digits", [*SMALL, "--sparsity=0.999999", f"--run-dir={tmp_path}/run"]) == 2
    assert not (tmp_path / "run").exists()


def test_an_unknown_data_set_names_the_choices():
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "imagenette"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == (
        "experiments: error: expected a data set or a command, one of digits, mnist, cifar10, cifar100, tiny_imagenet, "
        "caltech101, imagenet, folder, compare, sanity, analyse, evaluate, export, reproduce, bench, got 'imagenette'\n"
    )


@pytest.mark.parametrize("flags", [["--epochs=3"], ["--learning-rate=0.1"], ["--gem-miner.l2=0.1"]])
def test_flags_that_would_be_ignored_are_refused(flags, capsys):
    assert run("digits", ["--pruner=random", *flags]) == 2
    assert flags[0].split("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize("delay", [1.5, 3.0])
def test_ctrl_c_at_the_start_is_one_line(tmp_path, delay):
    command = [sys.executable, "-m", "experiments.digits", *DENSE, "--finetune-epochs=5", f"--run-dir={tmp_path}/run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)  # the interpreter itself may still be starting
    assert "Traceback" not in err or process.returncode == -signal.SIGINT


def test_collapse_is_reported_by_name_and_can_be_an_error(tmp_path, capsys):
    flags = [*SMALL, "--gem-miner.l2=5", f"--run-dir={tmp_path}/run"]
    assert run("digits", [*flags, "--on-collapse=error"]) == 3
    assert "linear" in capsys.readouterr().err.splitlines()[-1]
    assert run("digits", flags) == 0
    err = capsys.readouterr().err
    assert "lost its last weight in epoch" in err


@pytest.fixture
def unfinished(small_run, tmp_path):
    """A copy of the small run from before its end."""
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    for name in ("summary.json", "ticket.safetensors"):
        (folder / name).unlink()
    shutil.rmtree(folder / "sanity")
    return folder


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # coroutines that Orbax forgets
def test_a_damaged_checkpoint_is_skipped(unfinished, small_run, capsys):
    newest = max((unfinished / "checkpoints").iterdir(), key=lambda path: int(path.name))
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    assert run("digits", [*SMALL, f"--run-dir={unfinished}"]) == 0
    assert "skipped the damaged checkpoint" in capsys.readouterr().err
    same = (unfinished / "ticket.safetensors").read_bytes() == (small_run / "ticket.safetensors").read_bytes()
    assert same
    gc.collect()


def test_a_foreign_checkpoint_is_refused(unfinished, capsys):
    shutil.rmtree(unfinished / "checkpoints")
    manager = checkpoint.open_folder(unfinished / "checkpoints")
    checkpoint.save(manager, 3, {"weights": jax.numpy.ones(3)}, {"title": "something else", "index": 0, "data": 0})
    checkpoint.close(manager)
    assert run("digits", [*SMALL, f"--run-dir={unfinished}"]) == 2
    err = capsys.readouterr().err
    assert "another run" in err.splitlines()[-1]


def test_a_finished_run_whose_ticket_is_gone_is_finished_again(small_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    (folder / "ticket.safetensors").unlink()
    assert run("digits", [*SMALL, f"--run-dir={folder}"]) == 0
    assert (folder / "ticket.safetensors").read_bytes() == (small_run / "ticket.safetensors").read_bytes()


@pytest.mark.parametrize("text", ["[]", "{}", "{"])
def test_a_damaged_summary_is_named(small_run, tmp_path, capsys, text):
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    (folder / "summary.json").write_text(text)
    assert run("digits", [*SMALL, f"--run-dir={folder}"]) == 2
    assert "summary.json: expected the summary of a run" in capsys.readouterr().err


def test_several_seeds_do_not_nest_in_a_single_run(small_copy, capsys):
    assert run("digits", [*SMALL, f"--run-dir={small_copy}", "--num-seeds=2"]) == 2
    assert "folder of a single run" in capsys.readouterr().err


def test_a_truncated_ticket_is_named(small_run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    shutil.rmtree(folder / "sanity")
    os.truncate(folder / "ticket.safetensors", 1000)
    assert run("digits", [*SMALL, f"--run-dir={folder}", "--compare"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "ticket.safetensors" in err


def test_help_and_dry_run_need_no_data(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("cifar10", ["--help"]) == 0
    assert "--gem-miner.period" in capsys.readouterr().out
    assert run("cifar10", ["--dry-run", "--sparsity=0.9941"]) == 0
    shown = capsys.readouterr().out
    for piece in ("268,336", "1,583", "Table 8", "29 freezing rounds", "391 steps"):
        assert piece in shown, piece
    assert not list(Path(tmp_path).iterdir())
