"""--prunable and --dense, what counts in a user's network, and every place that must agree with it."""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments.catalog.pruners.table import PRUNERS
from experiments.catalog.sanity_checks import CHECKS
from experiments.commands.leaf_table import rows_of, tell_dense, tell_doubts
from experiments.commands.program import run
from experiments.config import sweep
from experiments.config.config import Config
from experiments.config.parse import known_fields, parse
from experiments.config.saved import digest, fields_of, from_fields
from experiments.problem.initial_ticket import initial_ticket, weights_of
from experiments.problem.network import network_for
from experiments.problem.prunable import leaves_for, mask_for, of_kernels
from experiments.problem.recipe import plan_of
from experiments.terminal.errors import UsageError
from rare_gems import init, masks
from rare_gems.models.lenet import lenet_300_100
from rare_gems.models.resnet_imagenet import resnet50
from rare_gems.phase import Context, Ticket
from rare_gems.storage import ticket_file

LENET = ["--model=lenet_300_100", "--pruner=magnitude", "--sparsity=0.5", "--finetune-epochs=0"]
SIZES = {"linear1/kernel": 64 * 300, "linear2/kernel": 300 * 100, "linear3/kernel": 100 * 10}
OWN = """
from types import SimpleNamespace
import haiku as hk, jax, jax.numpy as jnp

def nchw(image_shape, num_classes):
    def forward(x, train):
        x = hk.Conv2D(8, 3, data_format="NCHW")(x.transpose(0, 3, 1, 2))
        x = hk.LayerNorm((-3, -2, -1), True, True)(hk.Conv2DTranspose(8, 3, data_format="NCHW")(x))
        return hk.Linear(num_classes)(x.mean((2, 3)))
    net = hk.transform_with_state(forward)
    return SimpleNamespace(init=lambda key: net.init(key, jnp.zeros((1, *image_shape)), True),
                           apply=lambda p, s, x, train: net.apply(p, s, None, x, train))

def _plain(make):
    def network(image_shape, num_classes):
        def init(key):
            return make(jax.random.normal(key, (64, num_classes))), {}
        def apply(params, state, x, train):
            return x.reshape(len(x), -1) @ jax.tree.leaves(params)[-1], state
        return SimpleNamespace(init=init, apply=apply)
    return network

nameless = _plain(lambda w: {"theta": w})
misnamed = _plain(lambda w: {"layer": {"scale": w}})
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_networks", None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


def planned(*flags):
    return masks_of(plan_of(parse("digits", [*LENET, *flags])[0]).mask)


def masks_of(mask):
    return {masks.path_name(path): leaf.size for path, leaf in jax.tree.leaves_with_path(mask)}


def begun(*flags):
    config, _ = parse("digits", [*LENET, *flags])
    return initial_ticket(network_for(config, (8, 8, 1), 10), config)[0]


def test_snip_does_not_see_the_biases_and_norms_of_a_haiku_network(own):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        config, _ = parse("digits", ["--model=own_networks:nchw", "--pruner=snip", "--init=model"])
        plan = plan_of(config)
    sizes = {"conv2_d/w": 72, "conv2_d_transpose/w": 576, "linear/w": 80}
    assert masks_of(plan.mask) == sizes
    assert {leaf.name: leaf.reason for leaf in plan.leaves if not leaf.prunable} == {
        "conv2_d/b": "bias", "conv2_d_transpose/b": "bias", "layer_norm/offset": "bias", "layer_norm/scale": "scale",
        "linear/b": "bias",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ([], SIZES),
        (["--dense=linear1"], ["linear2/kernel", "linear3/kernel"]),
        (["--dense=linear[13]/"], ["linear2/kernel"]),
        (["--prunable=linear1/kernel|linear2/kernel"], ["linear1/kernel", "linear2/kernel"]),
        (["--prunable=kernel$", "--dense=^linear3"], ["linear1/kernel", "linear2/kernel"]),
    ],
)
def test_the_flags_choose_and_the_ticket_agrees_with_the_plan(flags, names):
    assert planned(*flags) == {name: SIZES[name] for name in names}
    ticket = begun(*flags)
    assert masks_of(ticket.mask) == masks_of(ticket.scores) == planned(*flags)
    for name, leaf in jax.tree.leaves_with_path(begun().params):  # the network begins as it does without them
        np.testing.assert_array_equal(leaf, ticket.params[name[0].key][name[1].key])


def test_prunable_may_name_what_the_rule_refuses():
    ticket = begun("--prunable=linear1", "--init=kaiming_normal")
    assert masks_of(ticket.mask) == {"linear1/bias": 300, "linear1/kernel": 64 * 300}
    assert not np.any(ticket.params["linear1"]["bias"])  # --init draws kernels
    config, _ = parse("digits", [*LENET, "--prunable=linear1"])
    edit = of_kernels(CHECKS["reinit"].edit(weights_of(config)))
    redrawn = edit.update(ticket, (), Context(0, jax.random.key(1), None, None))[0].params
    assert not np.any(redrawn["linear1"]["bias"])
    assert np.any(redrawn["linear1"]["kernel"] != ticket.params["linear1"]["kernel"])
    np.testing.assert_array_equal(redrawn["linear2"]["kernel"], ticket.params["linear2"]["kernel"])


def test_what_stays_whole_is_drawn_for_all_of_its_inputs():
    plain, ticket = begun(), begun("--scale-fan", "--dense=linear1")
    np.testing.assert_array_equal(ticket.params["linear1"]["kernel"], plain.params["linear1"]["kernel"])
    np.testing.assert_allclose(
        ticket.params["linear2"]["kernel"], plain.params["linear2"]["kernel"] * 2**0.5, rtol=1e-6
    )


@pytest.mark.parametrize("flags", [["--prunable=bias"], ["--sparsity=0"]])
def test_scaling_what_keeps_all_of_its_inputs_is_refused(flags):
    with pytest.raises(UsageError, match=r"--scale-fan: (of what counts as prunable nothing is|a unit keeps all)"):
        planned("--scale-fan", *flags)


def test_a_dense_run_says_what_its_counts_are_of(capsys):
    config, _ = parse("digits", ["--pruner=dense", "--model=lenet_300_100", "--dense=linear1"])
    tell_dense(Console(), config)
    tell_dense(Console(), parse("digits", [*LENET, "--dense=linear1"])[0])
    told = "--dense: dense removes nothing, so only the counts of its ticket change\n"
    assert capsys.readouterr().out == told


def test_without_flags_weights_are_drawn_as_the_library_draws_them():
    config, _ = parse("digits", [*LENET, "--scale-fan"])
    model = network_for(config, (8, 8, 1), 10)
    key_model, key, _ = jax.random.split(jax.random.split(jax.random.key(config.seed))[0], 3)
    params, _ = model.init(key_model)
    drawn = init.kaiming_normal(key, params, masks.ones(params), keep_ratio=0.5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), begun("--scale-fan").params, drawn)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dense=linaer"], "--dense: expected a regular expression that is found in a name, got 'linaer'; the names "
         "are linear1/kernel, linear2/kernel, linear3/kernel"),
        (["--dense=bias"], "--dense: .* got 'bias'; the names are linear1/kernel"),  # not prunable in the first place
        (["--prunable=conv"], "--prunable: .* got 'conv'; the names are linear1/bias, linear1/kernel, linear2/bias"),
        (["--prunable=linear1("], r"--prunable: expected a regular expression, got 'linear1\(' \(missing \)"),
        (["--dense=a{99999999999999}"], "--dense: expected a regular expression, got"),
        (["--dense="], "--dense: .* got ''; the names are"),
        (["--dense=kernel"], "--dense: 'kernel' matches every prunable leaf; expected to leave one"),
        (["--prunable=linear1", "--dense=linear2"], "--dense: .* got 'linear2'; the names are linear1/bias"),
        (["--no-dense"], "--no-dense: there is no such flag; the nearest is --dense"),
    ],
)  # fmt: skip
def test_what_matches_nothing_is_refused_in_one_line(flags, message, tmp_path, capsys):
    assert run("digits", [*LENET, *flags, f"--run-dir={tmp_path}/run"]) == 2
    captured = capsys.readouterr()
    assert len(captured.err.strip().splitlines()) == 1
    with pytest.raises(UsageError, match=message):
        raise UsageError(captured.err)
    assert list(tmp_path.iterdir()) == []


def test_a_network_in_which_nothing_counts_by_itself(own):
    with pytest.raises(UsageError, match=r"--prunable: own_networks:misnamed has no leaf .* of layer/scale; expected"):
        plan_of(parse("digits", ["--model=own_networks:misnamed"])[0])
    config, _ = parse("digits", ["--model=own_networks:misnamed", "--prunable=scale"])
    plan = plan_of(config)
    assert masks_of(plan.mask) == {"layer/scale": 640}
    assert plan.leaves[0].reason == "matches --prunable, though usually not: scale"
    assert masks_of(initial_ticket(network_for(config, (8, 8, 1), 10), config)[0].mask) == {"layer/scale": 640}


def test_names_of_run_folders_stay_and_old_ones_load():
    config = parse("digits", LENET)[0]
    fields = fields_of(config)
    old = {name: value for name, value in fields.items() if name not in ("prunable", "dense")}
    assert digest(fields) == digest(old)
    assert from_fields(old) == from_fields(fields) == config
    for flags in (["--dense=linear1"], ["--prunable=linear1"]):
        other = parse("digits", [*LENET, *flags])[0]
        assert digest(fields_of(other)) != digest(fields)
        assert from_fields(json.loads(json.dumps(fields_of(other)))) == other


def test_dense_is_a_flag_of_the_dense_method_too():
    config = parse("digits", ["--pruner=dense", "--dense=linear", "--model=lenet_300_100"])[0]
    assert from_fields(json.loads(json.dumps(fields_of(config)))) == config
    old = {name: value for name, value in fields_of(config).items() if name != "dense"}
    assert from_fields(old).dense is None
    with_options = {name for name, row in PRUNERS.items() if vars(row.options())}
    assert not with_options & known_fields("dense")  # their groups in config.json


def test_dense_runs_are_begun_from_whatever_counted_in_them(tmp_path):
    trained, _ = initial_ticket(lenet_300_100(10, input_size=64), parse("digits", [*LENET, "--seed=7"])[0])
    ticket_file.save(tmp_path / "ticket.safetensors", trained, metadata={}, model_state={})
    ticket = begun("--dense=linear1", f"--pretrained={tmp_path}")
    np.testing.assert_array_equal(ticket.params["linear1"]["kernel"], trained.params["linear1"]["kernel"])
    assert masks_of(ticket.mask) == {name: SIZES[name] for name in ("linear2/kernel", "linear3/kernel")}
    replaced = begun("--dense=linear3", f"--pretrained={tmp_path}", "--replace-classifier")  # still the last layer
    np.testing.assert_array_equal(replaced.params["linear2"]["kernel"], trained.params["linear2"]["kernel"])
    assert np.any(replaced.params["linear3"]["kernel"] != trained.params["linear3"]["kernel"])


def test_a_run_its_checks_and_its_report(tmp_path, capsys):
    flags = [*LENET, "--dense=linear1", "--sanity=reinit", f"--run-dir={tmp_path}/run"]
    assert run("digits", flags) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["num_prunable"], summary["num_kept"]) == (31_000, 15_500)
    assert [layer["name"] for layer in summary["layers"]] == ["linear2/kernel", "linear3/kernel"]
    first = np.asarray(begun().params["linear1"]["kernel"])
    for place in ("run", "run/sanity/reinit"):
        ticket = ticket_file.load(tmp_path / place / "ticket.safetensors").ticket
        np.testing.assert_array_equal(ticket.params["linear1"]["kernel"], first)
        assert masks.num_kept(ticket.mask) == 15_500
    capsys.readouterr()
    assert run("digits", flags) == 0  # finished
    assert run("digits", [flag for flag in flags if flag != "--dense=linear1"]) == 2
    assert "dense 'linear1' there, None here" in capsys.readouterr().err


def test_runs_that_differ_in_what_counts_train_in_groups_of_their_own(tmp_path):
    flags = [*LENET, "--sweep.dense=linear1/,linear3", "--at-once=2", f"--run-dir={tmp_path}"]
    assert [c.config.dense for c in sweep.expand("digits", flags)] == ["linear1/", "linear3"]
    assert run("digits", flags) == 0
    counts = {place.name: json.loads((place / "summary.json").read_text())["num_kept"] for place in tmp_path.glob("d*")}
    assert counts == {"dense-linear1-": 15_500, "dense-linear3": 24_600}
    with pytest.raises(UsageError, match=r"--run-dir: .*dense-a-b.* is that of two combinations"):
        sweep.expand("digits", [*LENET, "--sweep.dense=a/b,a-b", f"--run-dir={tmp_path}"])


def test_compare_passes_the_expression_on_and_keeps_its_switch(capsys):
    flags = ["digits", "--pruners=random", "--sparsities=0.5", "--model=lenet_300_100", "--dry-run"]
    assert run("compare", [*flags, "--dense=linear1"]) == 0
    assert "2 runs" in capsys.readouterr().out  # the dense network is one
    assert run("compare", [*flags, "--no-dense", "--dense=linear1", "--prunable=kernel"]) == 0
    assert "1 runs" in capsys.readouterr().out
    assert run("compare", [*flags, "--dense=nothing"]) == 2
    assert "--dense: expected a regular expression that is found in a name, got 'nothing'" in capsys.readouterr().err


def test_the_dry_run_lists_every_leaf(capsys):
    assert run("digits", [*LENET, "--dense=linear1", "--dry-run"]) == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines() if line.startswith("  linear")]
    assert lines == [
        ["linear1/bias", "300", "not prunable: bias"],
        ["linear1/kernel", "64x300", "not prunable: matches --dense"],
        ["linear2/bias", "100", "not prunable: bias"],
        ["linear2/kernel", "300x100", "prunable: kernel"],
        ["linear3/bias", "10", "not prunable: bias"],
        ["linear3/kernel", "100x10", "prunable: kernel"],
    ]


def test_large_networks_are_listed_in_groups():
    params, _ = jax.eval_shape(resnet50(affine=True).init, jax.random.key(0))
    leaves = leaves_for(Config("imagenet", model="resnet50"), params)
    rows = rows_of(leaves)
    assert len(leaves) > 150
    assert len(rows) < 20
    assert ("layer*/*/conv*/kernel (48)", "1x1x64x64 to 1x1x512x2048", "prunable: kernel") in rows


def test_a_run_says_what_it_guesses(own, capsys):
    flags = [
        "--model=own_networks:nameless",
        "--init=model",
        "--pruner=random",
        "--finetune-epochs=0",
        "--sparsity=0.5",
    ]
    assert run("digits", [*flags, f"--run-dir={own}/run"]) == 0
    out = capsys.readouterr().out
    assert (
        "own_networks:nameless: nothing tells whether 1 of its 1 leaves are kernels, so they count; --prunable=REG"
        in out
    )
    assert "  theta  64x10  prunable: its name tells nothing\n" in out
    assert run("digits", [*flags, "--prunable=theta", f"--run-dir={own}/other"]) == 0
    assert "theta" not in capsys.readouterr().out


def test_a_run_says_what_prunable_adds_to_the_kernels(capsys):
    config, _ = parse("digits", [*LENET, "--prunable=linear1"])
    params, _ = jax.eval_shape(lenet_300_100(10, input_size=64).init, jax.random.key(0))
    tell_doubts(Console(), config.model, leaves_for(config, params))
    out = capsys.readouterr().out
    assert out.startswith("lenet_300_100: --prunable counts 1 of its 6 leaves though they are no kernels by the usual")
    assert "prunable: matches --prunable, though usually not: bias" in out
    tell_doubts(Console(), config.model, leaves_for(parse("digits", LENET)[0], params))
    assert capsys.readouterr().out == ""


def test_only_floating_leaves_can_be_asked_for():
    params = {"w": jnp.ones((2, 2)), "count": jnp.ones((2, 2), jnp.int32)}
    assert masks_of(mask_for(Config("digits", prunable="."), params)) == {"w": 4}
    with pytest.raises(UsageError, match=r"the names are w$"):
        mask_for(Config("digits", prunable="count"), params)


@pytest.mark.parametrize("check", ["reinit", "reinit_kaiming_normal"])
def test_checks_that_draw_again_draw_kernels_only(check):
    law = init.kaiming_normal if check == "reinit_kaiming_normal" else weights_of(parse("digits", LENET)[0])
    params = {"linear": {"kernel": jnp.zeros((4, 3)), "bias": jnp.full((1, 3), 7.0)}}
    mask = masks.ones(params, lambda path, leaf: True)  # as --prunable=. counts
    edit = of_kernels(CHECKS[check].edit(law))
    after, _ = edit.update(Ticket(params, mask, mask), (), Context(0, jax.random.key(0), None, None))
    assert np.count_nonzero(after.params["linear"]["kernel"]) == 12
    np.testing.assert_array_equal(after.params["linear"]["bias"], params["linear"]["bias"])
    assert jax.tree.structure(after.mask) == jax.tree.structure(mask)


def test_a_check_that_would_draw_nothing_again_is_refused(own, capsys):
    flags = ["--model=own_networks:misnamed", "--prunable=scale", "--sanity=reinit"]
    assert run("digits", [*LENET, *flags]) == 2
    assert "--sanity=reinit: expected a kernel to draw again, got none" in capsys.readouterr().err


def test_brackets_in_expressions_are_no_markup(capsys):
    assert run("digits", [*LENET, "--dense=linear1[/]kernel", "--dry-run"]) == 0
    assert "linear1[/]kernel" in capsys.readouterr().out
