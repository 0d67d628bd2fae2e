"""A small run that several tests look at, made once; one device and no drawing but where they are the subject."""

import fcntl
import os
import shutil
from pathlib import Path

import jax
import pytest

from experiments.commands.program import run
from experiments.training import devices
from rare_gems.reports import run_figures, style

SMALL = [
    "--model=lenet_300_100", "--sparsity=0.5", "--epochs=5", "--finetune-epochs=3", "--gem-miner.period=2",
    "--batch-size=25", "--train-examples=400", "--checkpoint-every=2", "--finetune-learning-rate=0.1",
]  # fmt: skip


def made_once(tmp_path_factory, name, make) -> Path:
    """The folder that `make(folder)` fills, once in a session: the other workers of xdist wait for it. Only to read."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made_once" / name
    folder.parent.mkdir(exist_ok=True)
    done = folder.with_name(f"{name}.done")
    with folder.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            assert not folder.exists(), "it failed in another worker"
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    def make(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run_figures, "save", style.save)
            patch.setattr(devices, "available", _first_device)  # it may be made before the fixtures of the package
            assert run("digits", [*SMALL, f"--run-dir={folder}", "--compare"]) == 0

    return made_once(tmp_path_factory, "small", make)


@pytest.fixture
def small_copy(small_run, tmp_path) -> Path:
    """For commands: a folder lets in one at a time."""
    return Path(shutil.copytree(small_run, tmp_path / "copy"))


def _first_device():
    return jax.devices()[:1]


@pytest.fixture(scope="package", autouse=True)
def _one_device():
    """The suite has eight CPU devices, which share two cores: a run on all of them is slower, and no better a test.

    It ends with this folder: tests of others see the command's own function.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "available", _first_device)
        yield


@pytest.fixture(scope="package", autouse=True)
def _no_drawing():
    """A third of the time of a short run; `small_run` and the tests of the plots draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_figures, "save", lambda figure, path: figure)
        yield
