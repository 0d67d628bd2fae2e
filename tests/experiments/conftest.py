"""A small run that several tests look at, made once; one device and no drawing but where they are the subject."""

from pathlib import Path

import jax
import pytest

from experiments import devices
from experiments.main import main
from rare_gems import figures, plots

SMALL = [
    "--model=lenet_300_100", "--sparsity=0.5", "--epochs=5", "--finetune-epochs=3", "--gem-miner.period=2",
    "--batch-size=25", "--train-examples=400", "--checkpoint-every=2", "--finetune-learning-rate=0.1",
]  # fmt: skip


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save", figures.save)
        assert main("digits", [*SMALL, f"--run-dir={folder}", "--compare"]) == 0
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_device():
    """The suite has eight CPU devices, which share two cores: a run on all of them is slower, and no better a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "available", lambda: jax.devices()[:1])
        yield


@pytest.fixture(scope="package", autouse=True)
def _no_drawing():
    """A third of the time of a short run; `small_run` and the tests of the plots draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save", lambda figure, path: figure)
        yield
