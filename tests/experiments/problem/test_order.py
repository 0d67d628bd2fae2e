"""A network whose names tell no depth: smart ratios, the last layer, tables and the dry run go by its own order."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.commands.program import run
from experiments.config.parse import parse
from experiments.problem.initial_ticket import initial_ticket
from experiments.problem.network import layers_of, network_for
from experiments.problem.recipe import plan_of
from rare_gems import masks
from rare_gems.phase import Context, Ticket
from rare_gems.pruners.parts.smart_ratio_counts import smart_ratio_counts
from rare_gems.reports import run_figures
from rare_gems.storage import ticket_file

HERE = "--model=tests.experiments.problem.test_order"
SIZES = {"stem": (64, 12), "block1": (12, 12), "block2": (12, 12), "classifier": (12, 10)}


def misnamed(image_shape, num_classes, names=tuple(SIZES), classes=None):
    sizes = SIZES | {"classifier": (12, classes or num_classes)}

    def start(key):
        return {name: jax.random.normal(key, sizes.get(name, (4, 4))) / 8 for name in names}, {}

    def apply(params, state, x, train):
        h = x.reshape(len(x), -1)
        for name in SIZES:
            h = jax.nn.relu(h @ params[name])
        return h, state

    return SimpleNamespace(init=start, apply=apply)


def spare(image_shape, num_classes):
    return misnamed(image_shape, num_classes, (*SIZES, "aside"))


def tied(image_shape, num_classes):
    made = misnamed(image_shape, num_classes)

    def start(key):
        params, state = made.init(key)
        return params | {"block2": params["block1"]}, state

    return SimpleNamespace(init=start, apply=made.apply)


def counts_of(*flags):
    config, _ = parse("digits", [f"{HERE}:misnamed", "--sparsity=0.8", "--init=model", *flags])
    recipe = plan_of(config).recipe
    weights = {name: jnp.ones(shape) for name, shape in SIZES.items()}
    ticket = Ticket(weights, weights, masks.ones(weights))
    for phase in recipe[:1]:
        context = Context(jnp.int32(0), jax.random.key(0), None, None)
        ticket, _ = phase.after.update(ticket, phase.after.init(ticket), context)
    kept = masks.layer_counts(ticket.mask)
    return [kept[name][0] for name in SIZES]


LISTED = [jax.ShapeDtypeStruct(shape, bool) for shape in SIZES.values()]


@pytest.mark.parametrize("pruner", ["smart_ratio", "hybrid"])
def test_the_stem_keeps_most(pruner):
    option = f"--{pruner.replace('_', '-')}.linear=None"
    expected = smart_ratio_counts(LISTED, 0.8, linear=None)
    assert counts_of(f"--pruner={pruner}", option) == expected
    ratios = [count / leaf.size for count, leaf in zip(expected, LISTED, strict=True)]
    assert ratios == sorted(ratios, reverse=True)


def test_ratios_of_a_ticket_go_to_their_layers(tmp_path):
    weights = {name: jnp.ones(shape) for name, shape in SIZES.items()}
    kept = {"stem": 384, "block1": 36, "block2": 24, "classifier": 12}
    mask = masks.keep_top(weights, kept, "layer")
    ticket_file.save(tmp_path / "ticket.safetensors", Ticket(masks.apply(weights, mask), None, mask), metadata={})
    flags = ["--pruner=smart_ratio", "--smart-ratio.linear=None", f"--smart-ratio.ticket={tmp_path}"]
    counts = counts_of(*flags, "--smart-ratio.version=v2", "--sparsity=0.6")
    assert counts == smart_ratio_counts(LISTED, 0.6, version="v2", ends=(0.5, 0.1), linear=None)


def test_the_last_layer_is_replaced_though_its_name_is_not_the_last(tmp_path):
    seven = misnamed((8, 8, 1), 7)
    config, _ = parse("digits", [f"{HERE}:misnamed", "--init=model"])
    old, _ = initial_ticket(seven, config)
    ticket_file.save(tmp_path / "ticket.safetensors", old, metadata={}, model_state={})
    flags = [f"{HERE}:misnamed", f"--pretrained={tmp_path}", "--replace-classifier", "--seed=3"]
    config, _ = parse("digits", flags)
    model = network_for(config, (8, 8, 1), 10)
    ticket, _ = initial_ticket(model, config, layers_of(model, (8, 8, 1)).read[-1])
    assert ticket.params["classifier"].shape == (12, 10)
    for name in ("stem", "block1", "block2"):
        np.testing.assert_array_equal(ticket.params[name], old.params[name])


def test_tables_and_figures_list_layers_in_the_order_of_use_but_files_do_not(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(run_figures, "plot_layers", lambda layers, *_: drawn.extend(row["name"] for row in layers))
    flags = [f"{HERE}:spare", "--init=model", "--pruner=random", "--finetune-epochs=0", "--train-examples=40"]
    assert run("digits", [*flags, "--batch-size=40", f"--run-dir={tmp_path}/run"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    names = [*SIZES, "aside"]
    assert drawn == list(summary["layer_sparsity"]) == [row["name"] for row in summary["layers"]] == names
    header = ticket_file.load(tmp_path / "run" / "ticket.safetensors").metadata
    assert [layer["name"] for layer in header["layers"]] == sorted(names)


def test_a_dry_run_tells_the_ends_and_what_is_never_read(capsys):
    flags = [f"{HERE}:spare", "--pruner=smart_ratio", "--smart-ratio.linear=None", "--sparsity=0.5", "--dry-run"]
    assert run("digits", flags) == 0
    told = capsys.readouterr().out
    assert "in 5 layers, the first stem, the last classifier" in told
    assert "the network never reads 1 of its 5 prunable layers, which are pruned all the same: aside" in told


@pytest.mark.parametrize("flags", [["--dry-run"], []])
def test_tied_weights_are_refused_before_training(flags, capsys, tmp_path):
    assert run("digits", [f"{HERE}:tied", "--init=model", f"--run-dir={tmp_path}/run", *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "expected an array of its own for each prunable leaf, got one for block1 and block2" in error
    assert not (tmp_path / "run").exists()
