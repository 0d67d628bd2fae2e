"""Every pruner from the command line to a ticket of the exact count, with what it cost in the summary."""

import json
import math

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.catalog.pruners.table import PRUNERS
from experiments.commands.program import run
from experiments.config.parse import parse
from experiments.problem.recipe import plan_of
from rare_gems import masks
from rare_gems.models.layers import Linear
from rare_gems.models.model import from_module
from rare_gems.pruners.parts.smart_ratio_counts import smart_ratio_counts
from rare_gems.storage import ticket_file
from tests.experiments.conftest import made_once

NUM_PRUNABLE = 64 * 20 + 20 * 10
NUM_KEPT = 148
COMMON = ["--sparsity=0.9", "--train-examples=200", "--batch-size=50", "--finetune-epochs=1"]  # 4 steps an epoch
SMALL = [f"--model={__name__}:two_layers", *COMMON]
LENET = ["--model=lenet_300_100", *COMMON]


class _TwoLayers(nnx.Module):
    def __init__(self, num_inputs, num_classes):
        self.a_linear, self.b_linear = (Linear(*size) for size in ((num_inputs, 20), (20, num_classes)))

    def __call__(self, x, train):
        return self.b_linear(nnx.relu(self.a_linear(x.reshape(x.shape[0], -1))))


def two_layers(image_shape, num_classes):
    """The smallest network in which layers differ: its programs compile in half the time."""
    return from_module(lambda: _TwoLayers(math.prod(image_shape), num_classes))


# flags, then search steps and forward and backward passes
RUNS = {
    "gem_miner": (["--epochs=3", "--gem-miner.period=1"], 12, 12),
    "gem_miner_auto": (["--epochs=2"], 8, 8),
    "edge_popup": (["--epochs=2"], 8, 8),
    "edge_popup gradual": (["--epochs=3", "--edge-popup.gradual", "--edge-popup.period=1"], 12, 12),
    "imp": (["--imp.round-epochs=2", "--imp.rounds=2", "--imp.rewind-step=3", "--imp.rewind-batch-norm"], 13, 13),
    "lottery_ticket": (["--epochs=2", "--lottery-ticket.rewind-step=2"], 8, 8),
    "lrr": (["--lrr.round-epochs=1", "--lrr.rounds=3"], 12, 12),
    "snip": (["--snip.batches=2"], 2, 2),
    "grasp": ([], 1, 3),
    "synflow": (["--synflow.rounds=5"], 5, 5),
    "force": (["--force.rounds=4"], 4, 4),
    "prospr": (["--prospr.inner-steps=2", "--prospr.split-batch", "--batch-size=60"], 1, 3),
    "magnitude": ([], 0, 0),
    "random": ([], 0, 0),
    "uniform": ([], 0, 0),
    "erk": ([], 0, 0),
    "gmp": (["--epochs=2", "--gmp.every=2"], 8, 8),
    "rigl": (["--epochs=2", "--rigl.every=2"], 8, 8),
    "set": (["--epochs=2", "--set.every=2", "--set.ratios=uniform"], 8, 8),
    "snfs": (["--epochs=2"], 8, 8),
    "dsr": (["--epochs=2", "--dsr.every=2"], 8, 8),
    "deep_r": (["--epochs=2"], 8, 8),
    "obd": (["--epochs=2", "--obd.batches=3", "--obd.rounds=2", "--obd.round-epochs=1",
             "--obd.curvature=gauss_newton"], 18, 18),
    "continuous_sparsification": (["--epochs=2"], 8, 8),
    "supermask": (["--epochs=2"], 8, 8),
}  # fmt: skip
# tested below, in test_run_folder, test_kept_rounds
ELSEWHERE = {"dense", "jackpot", "copied_ratios", "smart_ratio", "hybrid", "ticket"}
# A ticket that was rewound to step k trains from there.
FINETUNED = {"imp": 1 - 3 / 4, "lottery_ticket": 1 - 2 / 4}
# A method that is new is run as it is, for as long as its own recipe says.
RUNS |= {
    name: (["--epochs=2"] if row.length == "epochs" else [], None, None)
    for name, row in PRUNERS.items()
    if name not in {other.split()[0] for other in RUNS} | ELSEWHERE
}


def _summary(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("name", RUNS)
def test_pruner(name, tmp_path):
    flags, steps, passes = RUNS[name]
    if steps is None:
        config = parse("digits", [f"--pruner={name}", *SMALL, *flags])[0]
        search = [phase for phase in plan_of(config).recipe if phase.name != "finetune"]
        steps = sum(phase.num_steps for phase in search)
        passes = sum(phase.num_steps * phase.passes for phase in search)
    assert run("digits", [f"--pruner={name.split()[0]}", *SMALL, *flags, f"--run-dir={tmp_path}/run"]) == 0
    summary, file = _summary(tmp_path / "run"), ticket_file.load(tmp_path / "run" / "ticket.safetensors")
    masks.check(file.ticket.mask, NUM_KEPT)
    assert (summary["num_kept"], summary["num_prunable"]) == (NUM_KEPT, NUM_PRUNABLE)
    assert summary["steps"]["search"] == steps
    assert summary["forward_backward_passes"]["search"] == passes
    assert summary["epochs"]["finetune"] == FINETUNED.get(name, 1)
    assert summary["seconds"]["search"] > 0
    assert 0 <= summary["accuracy"]["after_finetune"] <= 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A dense network, trained until it knows something."""

    def make(folder):
        flags = ["--pruner=dense", "--model=lenet_300_100", "--batch-size=50", "--finetune-epochs=3"]
        assert run("digits", [*flags, f"--run-dir={folder}"]) == 0

    return made_once(tmp_path_factory, "trained", make)


@pytest.mark.parametrize("criterion", ["magnitude", "snip", "grasp", "random"])
def test_jackpot_never_touches_a_weight(trained, criterion, tmp_path):
    flags = ["--pruner=jackpot", *LENET[:-1], "--epochs=2", f"--jackpot.criterion={criterion}", "--seed=3"]
    assert run("digits", [*flags, f"--pretrained={trained}", f"--run-dir={tmp_path}/run"]) == 0
    summary = _summary(tmp_path / "run")
    dense = ticket_file.load(trained / "ticket.safetensors").ticket.params
    file = ticket_file.load(tmp_path / "run" / "ticket.safetensors")
    masks.check(file.ticket.mask, 5020)
    for layer, params in dense.items():
        np.testing.assert_array_equal(file.initial[layer]["kernel"], params["kernel"])
        mask = file.ticket.mask[layer]["kernel"]
        np.testing.assert_array_equal(file.ticket.params[layer]["kernel"], params["kernel"] * mask)
    assert 0.3 < summary["overlap_with_initial_mask"] <= 1
    assert summary["accuracy"]["after_finetune"] is None  # the preset finetunes nothing
    assert summary["epochs"]["finetune"] == 0
    if criterion == "magnitude":
        assert summary["accuracy"]["before_finetune"] > 0.5


def test_ratios_copied_from_a_ticket(trained, tmp_path, capsys):
    flags = ["--pruner=magnitude", *LENET, f"--run-dir={tmp_path}/magnitude"]
    assert run("digits", flags) == 0
    flags = ["--pruner=copied_ratios", *LENET, f"--copied-ratios.ticket={tmp_path}/magnitude"]
    assert run("digits", [*flags, f"--run-dir={tmp_path}/copied"]) == 0
    files = [ticket_file.load(tmp_path / name / "ticket.safetensors") for name in ("magnitude", "copied")]
    counts = [masks.layer_counts(file.ticket.mask) for file in files]
    assert counts[0] == counts[1]
    assert masks.overlap(files[0].ticket.mask, files[1].ticket.mask) < 0.3
    capsys.readouterr()
    other = ["--pruner=copied_ratios", f"--copied-ratios.ticket={tmp_path}/magnitude", f"--run-dir={tmp_path}/other"]
    assert run("digits", other) == 2  # ResNet-20
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--copied-ratios.ticket" in error


SHORT = ["--train-examples=40", "--batch-size=40", "--finetune-epochs=1"]


def test_hybrid_keeps_smart_ratios_and_v5_tunes_them(tmp_path):
    """The counts on ResNet-20 are tests of the library; here the command line goes all the way."""
    command = ["--model=conv2", "--network.width=0.1", *SHORT, "--epochs=1", "--sparsity=0.9"]
    assert run("digits", ["--pruner=hybrid", *command, "--hybrid.linear=None", f"--run-dir={tmp_path}/run"]) == 0
    summary = _summary(tmp_path / "run")
    kept = {layer["name"]: layer["num_kept"] for layer in summary["layers"]}
    shapes = {
        layer["name"]: jax.ShapeDtypeStruct((1, 1, 1, layer["num_prunable"]), bool) for layer in summary["layers"]
    }
    expected = smart_ratio_counts(list(shapes.values()), 0.9, linear=None)
    assert list(kept.values()) == expected
    tuned = ["--smart-ratio.version=v5", "--smart-ratio.linear=None", f"--smart-ratio.ticket={tmp_path}/run"]
    assert run("digits", ["--pruner=smart_ratio", *command, *tuned, f"--run-dir={tmp_path}/tuned"]) == 0
    assert _summary(tmp_path / "tuned")["num_kept"] == summary["num_kept"]


def test_what_checks_of_the_data_change_is_read():
    for name, (flags, *_) in RUNS.items():
        config, _ = parse("digits", [f"--pruner={name.split()[0]}", *LENET, *flags])
        read = [phase for phase in plan_of(config).recipe if phase.uses_data and phase.name != "finetune"]
        assert config.method.reads_data == any(phase.num_steps for phase in read), name


MISTAKES = [
    (["--pruner=imp", "--imp.rewind-step=999"], "--imp.rewind-step: expected an integer from 0 to 134"),
    (["--pruner=imp", "--epochs=30"], "--imp.round-epochs"),
    (["--pruner=imp", "--imp.rate=1"], "(0, 1)"),
    (["--pruner=imp", "--imp.rounds=100000"], "expected fewer"),
    (["--pruner=imp", "--sparsity=0"], "(0, 1)"),
    (["--pruner=edge_popup", "--edge-popup.gradual", "--edge-popup.period=60"], "period"),
    (["--pruner=edge_popup", "--sparsity=0.9999"], "conv1"),
    (["--pruner=erk", "--sparsity=0.99999"], "weight"),
    (["--pruner=gmp", "--gmp.every=100000"], "every"),
    (["--pruner=jackpot"], "--pretrained"),
    (["--pruner=jackpot", "--pretrained=/nowhere"], "/nowhere"),
    (["--pruner=copied_ratios"], "--copied-ratios.ticket"),
    (["--pruner=ticket"], "--ticket.run: expected the folder of a finished run, got none"),
    (["--pruner=ticket", "--ticket.run=/nowhere"], "--ticket.run: expected the folder of a finished run, got /nowhere"),
    (["--pruner=ticket", "--ticket.run=/nowhere", "--pretrained=x"], "--pretrained: ticket begins with"),
    (["--pruner=smart_ratio", "--sparsity=0.9999"], "sparsity from"),
    (["--pruner=smart_ratio", "--sparsity=0.001"], "sparsity from"),
    (["--pruner=smart_ratio", "--smart-ratio.version=v4"], "--smart-ratio.ticket"),
    (["--pruner=smart_ratio", "--smart-ratio.version=v2", "--sparsity=0.9"], "0.9856"),
    (
        ["--pruner=smart_ratio", "--smart-ratio.version=v5", "--sparsity=0.9", "--epochs=1"],
        "0.9; expected --smart-ratio.ticket=RUN,",
    ),
    (["--pruner=snip", "--epochs=3"], "--finetune-epochs"),
    (["--pruner=snip", "--snip.batches=0"], "1 or more"),
    (["--pruner=prospr", "--prospr.inner-steps=0"], "1 or more"),
    (["--pruner=synflow", "--synflow.rounds=0"], "1 or more"),
    (["--pruner=rigl", "--rigl.drop-fraction=2"], "--rigl.drop-fraction: expected"),
    (["--pruner=smart_ratio", "--smart-ratio.version=v2", "--smart-ratio.ticket=/nowhere"], "--smart-ratio.ticket"),
    (["--pruner=smart_ratio", "--smart-ratio.candidates=3"], "v4, v6"),
    (["--pruner=edge_popup", "--edge-popup.period=3"], "--edge-popup.gradual"),
    (["--pruner=imp", "--imp.rounds=3", "--imp.rate=0.5"], "--imp.rounds"),
    (["--pruner=snip", "--finetune-epochs=0", "--weight-decay=0"], "trains no weights"),
    (["--pruner=snip", "--sanity=half_data", "--batch-size=1000"], "--sanity=half_data: "),
    (["--pruner=random", "--finetune-epochs=0", "--finetune-learning-rate=1"], "--finetune-epochs=0"),
]


@pytest.mark.parametrize(("flags", "message"), MISTAKES)
def test_mistakes(flags, message, tmp_path, capsys):
    assert run("digits", [*flags, f"--run-dir={tmp_path}/run"]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    assert message in err
    assert "Traceback" not in err + out
    assert not (tmp_path / "run").exists()


def test_a_sparse_ticket_is_no_trained_network(tmp_path, capsys):
    assert run("digits", ["--pruner=random", *LENET[:-1], "--finetune-epochs=0", f"--run-dir={tmp_path}/sparse"]) == 0
    capsys.readouterr()
    flags = ["--pruner=jackpot", *LENET[:-1], f"--pretrained={tmp_path}/sparse", f"--run-dir={tmp_path}/run"]
    assert run("digits", flags) == 2
    assert "dense network, got 5,020 of 50,200" in capsys.readouterr().err
