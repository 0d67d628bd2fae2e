"""The benchmarks run at a small size and print what they promise."""

import functools
import importlib.util
import json
import re

import pytest

from experiments.bench import step, train
from experiments.bench.__main__ import main
from rare_gems.models.conv_net import conv2

# Of Conv-2 for images of 8x8x3 and 10 classes: two convolutions, of whose windows 22 of 24 places a side lie in the
# image, and dense layers.
CONV2_FLOP = 2 * (22**2 * (3 * 64 + 64 * 64) + 4 * 4 * 64 * 256 + 256 * 256 + 256 * 10)


def test_select(tmp_path, capsys):
    file = tmp_path / "select.json"
    assert main(["select", "--sizes", "resnet20", "--repeats=2", "--sort-repeats=1", f"--json={file}"]) == 0
    line = capsys.readouterr().out.splitlines()[-1].split()
    top, sort, ratio = map(float, line[2:5])
    assert ratio == pytest.approx(sort / top, rel=0.05)
    assert int(line[5].replace(",", "")) <= int(line[7].replace(",", ""))  # no temporary larger than the scores
    figures = json.loads(file.read_text())
    (row,) = figures["rows"]
    assert (row["network"], row["scores"]) == ("resnet20", 270_896)
    assert row["top_seconds"] == pytest.approx(top, abs=1e-5)
    assert row["top_temporary_bytes"] <= row["score_bytes"] == 4 * 270_896
    assert {"benchmark", "date", "device", "versions", "sparsity"} <= set(figures)


def test_step(capsys, monkeypatch):
    monkeypatch.setattr(step, "resnet20", functools.partial(conv2, image_size=8))  # compiles in a fifth of the time
    assert main(["step", "--batch-size=2", "--image-size=8", "--repeats=1", "--give-back-memory"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"gem_miner: median +[\d.]+ ms", shown)
    assert re.search(r"ratio: median [\d.]+, min [\d.]+ \(target at most 1.10", shown)


def test_against_torch_says_when_there_is_none(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    with pytest.raises(SystemExit) as stop:
        main(["step", "--batch-size=2", "--image-size=8", "--repeats=1", "--against=torch"])
    assert stop.value.code == 2
    assert "expected torch to be installed" in capsys.readouterr().err


def test_train(tmp_path, capsys):
    small = ["--models", "conv2", "--image-size=8", "--batch-size=4", "--train-images=10", "--test-images=5"]
    file = tmp_path / "train.json"
    flags = [*small, "--epochs=2", "--precisions", "float32", "--runs", "1", "2", f"--json={file}"]
    assert main(["train", *flags]) == 0
    shown = capsys.readouterr().out
    assert "conv2" in shown
    figures = json.loads(file.read_text())
    for row, runs in zip(figures["rows"], (1, 2), strict=True):
        assert row["runs"] == runs
        assert row["images_per_second"] == pytest.approx(10 * runs / row["seconds_per_epoch"])
        assert row["seconds_150_epochs"] == pytest.approx(150 * row["seconds_per_epoch"])
        assert row["compile_seconds"] >= 0
        assert row["peak_memory_bytes"] > 2**20
        assert row["peak_memory_is_of_an_earlier_row"] in (True, False)
        # Three times the forward pass for each image trained on, twelve with the last batch filled up; five evaluated.
        flop = runs * (3 * 12 + 5) * CONV2_FLOP
        expected = flop / row["seconds_per_epoch"] / figures["peaks"]["float32"]["flop_per_second"]
        assert row["model_flop_utilisation"] == pytest.approx(expected, rel=0.02)
    assert figures["peaks"]["float32"]["source"].startswith("measured")
    assert "TFLOP/s (measured: 2048 x 2048 matrices" in shown
    assert set(figures["versions"]) == {"python", "jax", "jaxlib", "flax", "optax", "numpy"}


def test_epoch(tmp_path, capsys):
    """On LeNet; the epochs of a run are those of the steps and the evaluation, and more."""
    file, small = tmp_path / "epoch.json", ["--image-size=8", "--batch-size=4", "--train-images=10", "--test-images=5"]
    assert main(["epoch", "--models", "lenet_300_100", *small, "--epochs=2", f"--json={file}"]) == 0
    figures = json.loads(file.read_text())
    (row,) = figures["rows"]
    assert (row["model"], row["steps"], figures["target"]) == ("lenet_300_100", 3, 0.03)
    assert row["seconds_per_step"] == pytest.approx(row["seconds_of_steps"] / 3)
    assert row["above_steps"] == pytest.approx(row["seconds_per_epoch"] / row["seconds_of_steps"] - 1)
    assert row["above_steps_by_evaluation"] == pytest.approx(row["seconds_of_evaluation"] / row["seconds_of_steps"])
    shown = capsys.readouterr().out
    assert "more than steps x step time (target at most 3 %: m" in shown
    with pytest.raises(SystemExit):
        main(["epoch", "--epochs=1"])
    assert "--epochs of 2 or more" in capsys.readouterr().err


def test_unknown_benchmark(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["speed"])
    assert stop.value.code == 2
    assert "select" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --models inception_v3 --image-size 32 --precisions float32", "expected 75 x 75 pixels or more"),
        ("epoch --models vgg16 --image-size 8", "expected 32 x 32 pixels or more"),
        ("optimizer --sizes resnet20 --sparsity 0.9999999 --optimizers sgd", "keeps none"),
        ("input --num-threads 0", "expected positive numbers"),
    ],
)
def test_what_cannot_be_measured(line, message, capsys, monkeypatch):
    monkeypatch.setattr(train, "measured_peak", lambda precision: (1.0, "as if"))
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in err
    assert "Traceback" not in err


def test_optimizer(tmp_path, capsys):
    file = tmp_path / "optimizer.json"
    assert main(["optimizer", "--sizes", "resnet20", "--optimizers", "sgd", "--repeats=2", f"--json={file}"]) == 0
    bare, pruned, ratio = map(float, capsys.readouterr().out.splitlines()[-1].split()[3:])
    (row,) = json.loads(file.read_text())["rows"]
    assert (row["network"], row["weights"], row["optimizer"]) == ("resnet20", 270_896, "sgd")
    assert ratio == pytest.approx(row["pruned_seconds"] / row["bare_seconds"], abs=1e-3)
    assert (bare, pruned) == pytest.approx((row["bare_seconds"], row["pruned_seconds"]), abs=1e-5)
