"""Runs on several devices: the same counts, statistics per device, runs spread over devices, and what is refused."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.commands.program import run
from experiments.config.config import Config
from experiments.terminal.errors import UsageError
from experiments.training import devices, runner, setups
from rare_gems.models.layers import BatchNorm, Conv, Linear
from rare_gems.models.model import from_module
from rare_gems.storage import ticket_file
from rare_gems.training import sharding
from tests.experiments.conftest import SMALL

FLAGS = [flag for flag in SMALL if not flag.startswith(("--batch-size", "--epochs", "--finetune-epochs"))]
FLAGS += ["--batch-size=80", "--epochs=2", "--finetune-epochs=1", "--gem-miner.period=1"]


@pytest.fixture(autouse=True)
def _all_devices(monkeypatch):
    monkeypatch.setattr(devices, "available", jax.devices)


def _run(folder, *flags):
    assert run("digits", [*FLAGS, *flags, f"--run-dir={folder}"]) == 0
    return json.loads((folder / "summary.json").read_text()), ticket_file.load(folder / "ticket.safetensors").ticket


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return _run(tmp_path_factory.mktemp("alone") / "run", "--devices=1")


@pytest.mark.parametrize("flags", [[], ["--devices=4", "--shard-params"]], ids=["8", "sharded"])
def test_a_run_on_several_devices_is_that_of_one(alone, tmp_path, monkeypatch, flags):
    monkeypatch.setattr(sharding, "LARGE", 1000)
    summary, ticket = _run(tmp_path / "run", *flags)
    assert summary["device"].startswith("cpu")
    for name in ("num_kept", "layers", "steps", "epochs"):
        assert summary[name] == alone[0][name], name
    same = [np.mean(a == b) for a, b in zip(*map(jax.tree.leaves, (ticket.mask, alone[1].mask)), strict=True)]
    assert min(same) > 0.99  # rounding in another order may move a few


def test_a_run_goes_on_on_another_number_of_devices(alone, tmp_path, monkeypatch):
    stopped = [*FLAGS, f"--run-dir={tmp_path}", "--checkpoint-every=1"]
    finish = runner.train_together

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.training.logbook_moments.end_phase", stop)
    with pytest.raises(KeyboardInterrupt):
        run("digits", [*stopped, "--devices=4"])
    monkeypatch.undo()
    assert runner.train_together is finish
    assert run("digits", [*stopped, "--devices=1"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["num_kept"] == alone[0]["num_kept"]
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 4  # a header, two epochs and one


class _Net(nnx.Module):
    def __init__(self, channels, num_classes):
        self.a_conv, self.b_norm, self.c_linear = Conv(channels, 8, 3), BatchNorm(8), Linear(8, num_classes)

    def __call__(self, x, train):
        return self.c_linear(self.b_norm(self.a_conv(x), train, relu=True).mean((1, 2)))


def normed(image_shape, num_classes):
    """A network with BatchNorm, for --model."""
    return from_module(lambda: _Net(image_shape[-1], num_classes))


def test_statistics_per_device_are_another_run(tmp_path):
    own = [flag for flag in FLAGS if not flag.startswith(("--model", "--finetune"))]
    own += [f"--model={__name__}:normed", "--finetune-epochs=0", "--devices=2"]
    losses = []
    for norm in ("global", "per-device"):
        folder = tmp_path / norm
        assert run("digits", [*own, f"--batch-norm={norm}", f"--run-dir={folder}"]) == 0
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["num_kept"] == round(summary["num_prunable"] * 0.5)
        losses.append((folder / "metrics.csv").read_text().splitlines()[1].split(",")[3])
    assert losses[0] != losses[1]
    assert abs(float(losses[0]) - float(losses[1])) < 0.2


def test_runs_are_spread_over_devices_first(tmp_path, monkeypatch):
    meshes = []
    monkeypatch.setattr(
        setups, "make_problem", lambda *args, of=setups.make_problem: meshes.append(args[2]) or of(*args)
    )
    own = [flag for flag in FLAGS if not flag.startswith(("--train-examples", "--batch-size", "--finetune"))]
    flags = ["--num-seeds=2", "--devices=4", "--at-once=2", "--batch-size=400", "--finetune-epochs=0"]
    assert run("digits", [*own, *flags, f"--run-dir={tmp_path}"]) == 0
    assert dict(meshes[-1].shape) == {"runs": 2, "data": 2, "model": 1}
    summaries = [json.loads((tmp_path / f"seed-{seed}" / "summary.json").read_text()) for seed in (42, 43)]
    assert [s["runs_at_once"] for s in summaries] == [2, 2]
    assert summaries[0]["num_kept"] == summaries[1]["num_kept"] == summaries[0]["num_prunable"] // 2
    masks = [ticket_file.load(tmp_path / f"seed-{seed}" / "ticket.safetensors").ticket.mask for seed in (42, 43)]
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, masks), strict=True))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--devices=9"], "--devices: expected at most 8, which is all there are, got 9"),
        (["--devices=0"], "--devices: expected 1 or more, got 0"),
        (["--devices=8", "--batch-size=100"], "expected a multiple of the 8 devices, such as 96, got 100"),
        (["--devices=1", "--shard-params"], "--shard-params: expected several devices"),
        (["--shard-params", "--batch-size=100"], "--batch-size: expected a multiple of the 8 devices, such as 96"),
        (["--batch-norm=per-device"], "--batch-norm: per-device statistics depend on how many there are"),
        (["--shard-params", "--num-seeds=2", "--at-once=2"], "--at-once: --shard-params spreads one run over all"),
    ],
)  # fmt: skip
def test_mistakes(flags, message, capsys, tmp_path):
    assert run("digits", [*FLAGS, *flags, f"--run-dir={tmp_path / 'run'}"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_bfloat16_where_there_is_none(monkeypatch, capsys):
    def fail(*args, **options):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: bf16 convolution")

    devices.check(Config("digits", precision="bfloat16"))  # here it works
    monkeypatch.setattr(jax, "jit", fail)
    with pytest.raises(UsageError, match="--precision: cpu cannot compute in bfloat16; expected float32"):
        devices.check(Config("digits", precision="bfloat16"))


def test_a_batch_that_does_not_divide_trains_on_one_device(capsys):
    assert devices.mesh_for(Config("digits", batch_size=100)) is None
    assert "one device trains, of 8: they cannot share batches of 100 images equally" in capsys.readouterr().err
    assert dict(devices.mesh_for(Config("digits", batch_size=128)).shape) == {"runs": 1, "data": 8, "model": 1}
    assert dict(devices.mesh_for(Config("digits", batch_size=100), 8).shape) == {"runs": 8, "data": 1, "model": 1}
    assert dict(devices.mesh_for(Config("digits", batch_size=100), 4).shape) == {"runs": 4, "data": 2, "model": 1}
    assert dict(devices.mesh_for(Config("digits", batch_size=96, devices=6, shard_params=True)).shape)["model"] == 6
    assert devices.mesh_for(Config("digits", devices=1)) is None
