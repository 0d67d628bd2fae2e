"""`experiments.export`: a finished run as files of other frameworks, and refusals in one line."""

import json
import shutil

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from experiments.commands.export_formats import FORMATS, Exported
from experiments.commands.program import run
from experiments.config.parse import parse
from experiments.problem.data import load_data
from experiments.run_folder import paths
from rare_gems import masks
from rare_gems.models import from_torch, read_torch
from rare_gems.models.compact_file import load_compact
from rare_gems.models.keras_names import from_keras_names
from rare_gems.models.lenet import LeNet, lenet_300_100
from rare_gems.models.resnet import resnet20
from rare_gems.phase import Ticket
from rare_gems.storage import ticket_file
from tests.models.test_torch_weights import same

MODEL = lenet_300_100(10, input_size=64)


@pytest.fixture(scope="module")
def ticket(small_run):
    return ticket_file.load(small_run / "ticket.safetensors")


def exported(capsys, *args):
    assert run("export", [str(arg) for arg in args]) == 0
    return capsys.readouterr().out


def refused(capsys, *args):
    assert run("export", [str(arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err.removeprefix("experiments.export: error: ")


def test_torch(small_run, ticket, tmp_path, capsys):
    file = tmp_path / "ticket.safetensors"
    out = exported(capsys, small_run, "--to=torch", f"--output={file}")
    assert f"{file}: trained weights, 25,100 of 50,200 prunable ones kept (50.00% removed)" in out.replace("\n", " ")
    data = load_data(parse("digits", ["--model=lenet_300_100"])[0]).data
    assert f"images for it: (pixels in [0, 1] - [{data.mean[0]:.4f}]) / [{data.std[0]:.4f}]" in out
    same(from_torch(file, MODEL)[0], ticket.ticket.params)
    assert sorted(load_file(file)) == [f"fc{i}.{leaf}" for i in (1, 2, 3) for leaf in ("bias", "weight")]


def test_a_seed_has_no_trained_weights(small_run, capsys):
    told = "--weights: a seed draws initial weights; expected no such flag with --to=seed"
    assert refused(capsys, small_run, "--to=seed", "--weights=trained").startswith(told)


def test_what_a_search_left_is_of_the_network_of_the_run_beside_it(small_copy, ticket, tmp_path, capsys):
    """It blamed the network "None"."""
    for file in (small_copy / "search.safetensors", paths.round_file(small_copy, 1)):
        ticket_file.save(file, ticket.ticket, metadata={"num_kept": 25100, "num_prunable": 50200}, model_state={})
        output = tmp_path / f"{file.stem}.safetensors"
        exported(capsys, file, "--to=torch", f"--output={output}")
        assert sorted(load_file(output)) == [f"fc{i}.{leaf}" for i in (1, 2, 3) for leaf in ("bias", "weight")]


def test_fill_has_the_norms_of_projecting_shortcuts(tmp_path):
    model = resnet20(shortcut="B", width=0.25)
    params, state = jax.jit(model.init)(jax.random.key(0))
    what = Exported("resnet20", params, state, masks.ones(params), prune=False, fill=True)
    tensors, _ = FORMATS["torch"].arrays(what)
    file = tmp_path / "full.safetensors"
    file.write_bytes(FORMATS["torch"].files[".safetensors"][0](tensors))
    full = resnet20(shortcut="B", width=0.25, affine=True, use_bias=True)
    read, _ = from_torch(file, full)
    assert read["layer2"][0]["downsample"]["bn"]["scale"].tolist() == [1.0] * 8


def test_a_keras_model_is_told_the_epsilon_of_the_network():
    told = [FORMATS["keras-names"].arrays(Exported(name, {}, {}, {}, False, False))[1] for name in (
        "inception_v3", "resnet20", "my_networks:linen"
    )]  # fmt: skip
    assert "epsilon is 1e-3" in told[0]
    assert "epsilon is 1e-5" in told[1]
    assert "names of your own network" in told[2]
    assert "epsilon" not in told[2]


def test_weights_that_are_not_finetuned_yet_are_not_called_trained(small_copy, ticket, capsys):
    file = small_copy / "search.safetensors"
    ticket_file.save(file, ticket.ticket, metadata=ticket.metadata, initial=ticket.initial, model_state={})
    assert f"{small_copy}/export.npz: weights of search.safetensors, 25,100 of" in exported(capsys, file, "--to=numpy")


def test_the_winning_ticket_with_masks_of_torch(small_run, ticket, tmp_path, capsys):
    file = tmp_path / "ticket.safetensors"
    out = exported(capsys, small_run, "--to=torch", "--weights=initial", "--masks=prune", f"--output={file}")
    assert "torch.nn.utils.prune.identity" in out
    weights = read_torch(file, MODEL)
    same(weights.mask, ticket.ticket.mask)
    assert masks.num_kept(weights.mask) == 25_100
    same(weights.params, jax.tree.map(np.asarray, masks.apply(ticket.initial, ticket.ticket.mask)))
    np.testing.assert_array_equal(load_file(file)["fc2.weight_orig"].T, ticket.initial["linear2"]["kernel"])


@pytest.mark.parametrize("there", [True, False])
def test_pixels_that_were_not_scaled_and_runs_that_do_not_say(there, small_copy, capsys):
    summary = json.loads((small_copy / "summary.json").read_text())
    given = summary.pop("pixels")
    assert {name: len(values) for name, values in given.items()} == {"mean": 1, "std": 1}
    if there:
        summary["pixels"] = {"mean": [0.0], "std": [1.0]}
    (small_copy / "summary.json").write_text(json.dumps(summary))
    out = exported(capsys, small_copy, "--to=numpy")
    assert ("images for it: pixel values in [0, 1]\n" in out, "images for it" in out) == (there, there)


def test_numpy_and_flax(small_copy, ticket, capsys):
    exported(capsys, small_copy, "--to=numpy")
    exported(capsys, small_copy / "ticket.safetensors", "--to=flax")
    with np.load(small_copy / "export.npz") as arrays:
        np.testing.assert_array_equal(arrays["params/linear1/kernel"], ticket.ticket.params["linear1"]["kernel"])
        np.testing.assert_array_equal(arrays["mask/linear1/kernel"], ticket.ticket.mask["linear1"]["kernel"])
        assert "mask/linear1/bias" not in arrays
    trees = flax.serialization.msgpack_restore((small_copy / "export.msgpack").read_bytes())
    same(trees["params"], ticket.ticket.params)
    same(trees["mask"], ticket.ticket.mask)
    module = LeNet(10, 64)
    params = nnx.state(module, nnx.Param)
    nnx.replace_by_pure_dict(params, nnx.restore_int_paths(trees["params"]))
    nnx.update(module, params)
    x = jnp.ones((1, 8, 8, 1))
    np.testing.assert_array_equal(module(x, False), MODEL.apply(ticket.ticket.params, {}, x, False)[0])


def test_a_pt_and_the_names_of_keras(small_run, ticket, tmp_path, capsys):
    out = exported(capsys, small_run, "--to=torch", f"--output={tmp_path}/t.pt")
    assert 'network.load_state_dict(torch.load("t.pt", weights_only=True))' in out.replace("\n", " ")
    same(from_torch(tmp_path / "t.pt", MODEL)[0], ticket.ticket.params)
    for suffix, load in ((".npz", np.load), (".safetensors", load_file)):
        exported(capsys, small_run, "--to=keras-names", f"--output={tmp_path}/keras{suffix}")
        arrays = dict(load(tmp_path / f"keras{suffix}"))
        assert sorted(arrays) == [f"linear{i}/{leaf}" for i in (1, 2, 3) for leaf in ("bias", "kernel", "kernel_mask")]
        same(from_keras_names(arrays, ticket.ticket.params, {})[0], ticket.ticket.params)
        np.testing.assert_array_equal(arrays["linear2/kernel_mask"], ticket.ticket.mask["linear2"]["kernel"])


def test_statistics_of_the_winning_ticket_are_those_of_the_search(small_copy, ticket, capsys):
    state = {"bn": {"mean": np.ones(2, np.float32), "var": np.full(2, 3, np.float32)}}
    for name, factor in (("ticket", 2), ("search", 1)):
        ticket_file.save(
            small_copy / f"{name}.safetensors", ticket.ticket, metadata=ticket.metadata, initial=ticket.initial,
            model_state=jax.tree.map(lambda leaf, factor=factor: factor * leaf, state),
        )  # fmt: skip
    found = []
    for flags in (["--weights=trained"], ["--weights=initial"], ["--weights=initial"]):
        exported(capsys, small_copy, "--to=numpy", "--overwrite", *flags)
        with np.load(small_copy / "export.npz") as arrays:
            found.append((float(arrays["state/bn/mean"][0]), float(arrays["state/bn/var"][0])))
        if len(found) == 2:
            (small_copy / "search.safetensors").unlink()  # a run without a search begins with fresh ones
    assert found == [(2, 6), (1, 3), (0, 1)]


@pytest.mark.parametrize("fill", [False, True])
def test_what_only_the_counterpart_has_is_told_or_filled_in(fill):
    params, state = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, np.float32), jax.eval_shape(resnet20(width=0.25).init, jax.random.key(0))
    )
    what = Exported(model="resnet20", params=params, state=state, mask=masks.ones(params), prune=False, fill=fill)
    tensors, told = FORMATS["torch"].arrays(what)
    assert ("linear.bias" in tensors) == ("bn1.weight" in tensors) == fill
    assert "conv1.bias" not in tensors
    lacks = "; without the scales and biases of BatchNorm and biases of layers that PyTorch's usually have (--fill"
    assert (lacks in told) != fill


def test_compact(small_copy, ticket, tmp_path, capsys):
    out = exported(capsys, small_copy, "--to=compact")
    small = load_compact(small_copy / "compact.safetensors")
    size = sum(leaf.size for leaf in jax.tree.leaves(small.params))
    assert f"parameters 50,610 -> {size:,}, operations for an image of 8x8x1" in out
    assert "time for 64 images" in out
    x = jax.random.normal(jax.random.key(0), (5, 8, 8, 1))
    expected = MODEL.apply(ticket.ticket.params, {}, x, False)[0]
    np.testing.assert_allclose(
        small.model.apply(small.params, small.state, x, False)[0], expected, rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ValueError, match="expected a compact network, got the ticket of another"):
        load_compact(small_copy / "ticket.safetensors")
    bare = tmp_path / "t.safetensors"
    shutil.copy(small_copy / "ticket.safetensors", bare)
    assert "--to=compact: expected a run folder" in refused(capsys, bare, "--to=compact")
    ticket_file.save(small_copy / "ticket.safetensors", ticket.ticket, metadata={"model": "squeezenet"})
    assert "--to=compact: expected a chain or a residual" in refused(capsys, small_copy, "--to=compact", "--overwrite")


def test_runs_that_cannot_be_exported(small_copy, tmp_path, capsys):
    assert "expected a run folder or a ticket.safetensors, got nothing" in refused(
        capsys, tmp_path / "no", "--to=torch"
    )
    assert "expected a run folder, with a config.json" in refused(capsys, tmp_path, "--to=torch")
    (tmp_path / "seed-42").mkdir()
    shutil.copy(small_copy / "config.json", tmp_path / "seed-42")
    assert f"such as {tmp_path}/seed-42" in refused(capsys, tmp_path, "--to=torch")
    (small_copy / "summary.json").unlink()
    assert "expected a finished run, got one without summary.json" in refused(capsys, small_copy, "--to=torch")
    damaged = tmp_path / "ticket.safetensors"
    damaged.write_bytes((small_copy / "ticket.safetensors").read_bytes()[:-1])
    assert "cut off" in refused(capsys, damaged, "--to=flax")


def test_outputs_that_are_refused(small_copy, tmp_path, capsys):
    assert "expected a file that ends in .npz" in refused(capsys, small_copy, "--to=numpy", "--output=a.safetensors")
    assert "in .safetensors or .pt or .pth, got a.npz" in refused(capsys, small_copy, "--to=torch", "--output=a.npz")
    own = small_copy / "ticket.safetensors"
    assert "expected another file" in refused(capsys, own, "--to=torch", f"--output={own}", "--overwrite")
    (small_copy / "export.npz").write_text("mine")
    assert "is there already" in refused(capsys, small_copy, "--to=numpy")
    assert (small_copy / "export.npz").read_text() == "mine"
    exported(capsys, small_copy, "--to=numpy", "--overwrite")
    assert "No such file" in refused(capsys, small_copy, "--to=numpy", f"--output={tmp_path}/no/a.npz")


@pytest.mark.parametrize("flag", ["--masks=prune", "--fill"])
def test_flags_of_torch_only(flag, small_run, capsys):
    assert f"{flag.split('=')[0]}: of --to=torch" in refused(capsys, small_run, "--to=numpy", flag)


def test_a_network_without_counterpart(ticket, tmp_path, capsys):
    file = tmp_path / "own.safetensors"
    ticket_file.save(file, ticket.ticket, metadata={"model": "my_networks:linen"})
    told = refused(capsys, file, "--to=torch")
    assert "one of resnet20," in told
    assert "got my_networks:linen; --to=numpy, --to=flax and --to=keras-names take any network" in told
    exported(capsys, file, "--to=numpy")
    assert "has no initial weights" in refused(capsys, file, "--to=flax", "--weights=initial")


@pytest.mark.parametrize("to", ["numpy", "flax"])
def test_keys_are_written_as_their_data(to, tmp_path, capsys):
    keys = jax.random.split(jax.random.key(1, impl="rbg"), 3)
    params, state = {"w": jnp.ones((2, 2)), "noise": keys}, {"rng": jax.random.key(7)}
    ticket = Ticket(params, None, {"w": jnp.eye(2, dtype=bool), "noise": None})
    ticket_file.save(tmp_path / "t.safetensors", ticket, metadata={}, model_state=state)
    output = tmp_path / ("t.npz" if to == "numpy" else "t.msgpack")
    assert run("export", [str(tmp_path / "t.safetensors"), f"--to={to}", f"--output={output}"]) == 0
    if to == "numpy":
        found = np.load(output)
        noise, rng, w = (found[name] for name in ("params/noise", "state/rng", "params/w"))
    else:
        found = flax.serialization.msgpack_restore(output.read_bytes())
        noise, rng, w = found["params"]["noise"], found["state"]["rng"], found["params"]["w"]
    np.testing.assert_array_equal(noise, jax.random.key_data(keys))
    np.testing.assert_array_equal(rng, jax.random.key_data(jax.random.key(7)))
    np.testing.assert_array_equal(w, np.eye(2))
