"""Weights on no path: told once a ticket is found, in summary.json, and no reason to fail."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.commands.program import run
from experiments.training import effective_weights
from rare_gems.models.lenet import lenet_300_100
from rare_gems.storage import ticket_file

FLAGS = ["--pruner=random", "--finetune-epochs=0", "--train-examples=100", "--batch-size=50"]
DEAD = "kept weights lie on no path from the images to the logits (effective sparsity "


def test_dead_weights_are_told_before_the_finetuning_and_stand_in_the_summary(tmp_path, capsys):
    folder = tmp_path / "run"
    flags = [*FLAGS, "--model=lenet_300_100", "--sparsity=0.99", f"--run-dir={folder}"]
    assert run("digits", flags) == 0
    out, err = capsys.readouterr()
    summary = json.loads((folder / "summary.json").read_text())
    mask = ticket_file.load(folder / "ticket.safetensors").ticket.mask
    one, two, three = (np.asarray(mask[f"linear{i}"]["kernel"]) for i in (1, 2, 3))
    first, second = one.any(0), three.any(1)  # units that read something, and units that are read
    for _ in range(3):
        first, second = one.any(0) & (two & second[None]).any(1), three.any(1) & (two & first[:, None]).any(0)
    alive = (one & first[None]).sum() + (two & first[:, None] & second[None]).sum() + (three & second[:, None]).sum()
    dead = summary["num_kept"] - alive
    assert (summary["num_effective"], summary["cut_layers"]) == (alive, [])
    assert summary["effective_sparsity"] == pytest.approx(1 - alive / 50_200)
    assert dead > 0.1 * summary["num_kept"]
    told = f"warning: {dead:,} of the {summary['num_kept']:,} {DEAD}{100 * summary['effective_sparsity']:.2f} %)"
    assert err.count("warning: ") == err.count(told) == 1
    assert err.index(told) < err.index("the ticket is found")
    assert f"{100 * summary['effective_sparsity']:.2f}" in out


def test_a_network_that_cannot_be_followed_has_none(tmp_path, capsys):
    folder = tmp_path / "run"
    flags = [*FLAGS, "--model=tests.experiments.nets:of_two_images_or_more", "--sparsity=0.5", f"--run-dir={folder}"]
    assert run("digits", flags) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert [summary[key] for key in ("effective_sparsity", "num_effective", "cut_layers")] == [None] * 3
    assert "warning: " not in capsys.readouterr().err


def test_what_is_cut_is_named(capsys):
    model = lenet_300_100(10, input_size=4)
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    kept = {name: {"kernel": np.ones(leaf["kernel"].shape, bool), "bias": None} for name, leaf in params.items()}
    kept["linear2"]["kernel"][:] = False
    kept["linear2"]["kernel"][0, 0] = True
    kept["linear3"]["kernel"][0] = False
    problem = SimpleNamespace(model=model, image_shape=(2, 2, 1))
    counted = effective_weights.count(problem, params, {}, kept)
    assert counted == {"sparsity": 1.0, "num_kept": 0, "cut_layers": [f"linear{i}/kernel" for i in (1, 2, 3)]}
    effective_weights.tell(counted, kept, "seed-1: ")
    names = ", ".join(counted["cut_layers"])
    assert capsys.readouterr().err.strip() == (
        f"warning: seed-1: 2,191 of the 2,191 {DEAD}100.00 %); nothing passes {names}"
    )
    many = counted | {"cut_layers": [f"layer{i}" for i in range(30)]}
    effective_weights.tell(many, kept)
    assert capsys.readouterr().err.endswith("layer6, layer7 and 22 more\n")
    few = counted | {"num_kept": 2191 - 219}
    effective_weights.tell(few, kept)
    effective_weights.tell(None, kept)
    assert capsys.readouterr().err == ""
