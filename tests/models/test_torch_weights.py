"""PyTorch's weights in our networks: what stored runs of torch computed (golden/make_torch_outputs.py), and mismatches.

torch is not needed: its file format has tests of stored files (test_torch_files.py). Two tests here try it with the
torch that is installed, if one is.
"""

import json
import math
import re
import sys
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from rare_gems.masks import count_for, num_kept, num_prunable, path_name
from rare_gems.models import (
    conv_net,
    from_torch,
    inception_v3,
    mobilenet_v2,
    read_torch,
    resnet_imagenet,
    squeezenet,
    vgg,
    wide_resnet,
)
from rare_gems.models.lenet import lenet_5, lenet_300_100
from rare_gems.models.resnet import resnet20, resnet32
from rare_gems.models.torch_names import our_paths, torch_name
from tests.models.torch_golden import stored_bytes, written

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "torch_outputs.json").read_text())
FACTORIES = {
    f.__name__: f
    for f in (
        conv_net.conv2, conv_net.conv4, conv_net.conv6, inception_v3.inception_v3, lenet_5, lenet_300_100,
        mobilenet_v2.mobilenet_v2, resnet20, resnet32, resnet_imagenet.resnet18, resnet_imagenet.resnet50,
        squeezenet.squeezenet, vgg.vgg16, vgg.vgg19, wide_resnet.wide_resnet28_2,
    )
}  # fmt: skip


def drawn(name, shape, variance=1.0):
    """float32 values that depend on the tensor's name only, as in golden/make_torch_outputs.py."""
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    unit = ((bits >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1).reshape(shape)
    leaf = name.rpartition(".")[2]
    if leaf == "weight" and len(shape) > 1:
        unit *= math.sqrt(6 / math.prod(shape[1:]))
    elif leaf == "weight":
        unit = 1 + unit / 2
    elif leaf == "running_var":
        unit = variance * (1 + unit / 2)
    elif leaf != "images":
        unit /= 4
    return unit.astype(np.float32)


def state_dict(golden):
    tensors = {}
    for text in golden["tensors"].split():
        name, _, sizes = text.rpartition(":")
        tensors[name] = drawn(name, tuple(map(int, sizes.split("x"))), golden["variance"])
    return tensors


def first(factory):
    return next(golden for golden in GOLDEN if golden["factory"] == factory)


@pytest.fixture(scope="module")
def resnet():
    """ResNet-20 with all that can be had, option B, affine and biases: its options and tensors."""
    [golden] = [golden for golden in GOLDEN if golden["options"].get("shortcut") == "B"]
    return golden["options"], state_dict(golden)


@pytest.fixture(scope="module")
def loaded(resnet, tmp_path_factory):
    return from_torch(saved(tmp_path_factory.mktemp("resnet"), resnet[1]), resnet20(**resnet[0]))


@pytest.fixture
def lenet():
    """LeNet-300-100 for four values and two classes."""
    shapes = {f"fc{i}.weight": shape for i, shape in ((1, (300, 4)), (2, (100, 300)), (3, (2, 100)))}
    shapes |= {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}
    return lenet_300_100(2, input_size=4), {name: drawn(name, shape) for name, shape in shapes.items()}


def saved(folder, tensors):
    path = folder / "weights.safetensors"
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)
    return path


def saved_as(folder, tensors, code):
    """A safetensors file of any dtype, by its code; what has one axis more has the bytes of a number on it."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        shape = tensor.shape[:-1] if tensor.dtype == np.uint8 else tensor.shape
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [len(data), len(data) + tensor.nbytes]}
        data += tensor.tobytes()
    text = json.dumps(header).encode()
    path = folder / "weights.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def refusal(path, *args):
    with pytest.raises(ValueError, match="weights") as caught:
        from_torch(path, *args)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda g: "-".join([g["factory"], *map(str, g["options"].values())]))
def test_computes_what_torch_does(golden, tmp_path):
    model, tensors = FACTORIES[golden["factory"]](**golden["options"]), state_dict(golden)
    inputs = *from_torch(saved(tmp_path, tensors), model), drawn("images", golden["images"]).transpose(0, 2, 3, 1)
    apply = jax.jit(model.apply, static_argnums=3)
    close = 1e-4 if jax.version.__version_info__ >= (0, 10) else 5e-4  # XLA rounds the deep ones otherwise there
    logits, state = apply(*inputs, False)
    np.testing.assert_allclose(logits, golden["eval"], rtol=0, atol=close)
    same(state, inputs[1])
    logits, state = apply(*inputs, True)
    np.testing.assert_allclose(logits, golden["train"], rtol=0, atol=close)
    moved = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    paths = our_paths({name: tensor.shape for name, tensor in tensors.items()}, list(moved))
    for name, expected in golden["statistics"].items():
        np.testing.assert_allclose(moved[paths[name]][:4], expected, rtol=0, atol=close)


def test_every_network_is_compared():
    assert {golden["factory"] for golden in GOLDEN} == set(FACTORIES)
    for golden in GOLDEN:
        assert len(golden["statistics"]) == (6 if ".running_" in golden["tensors"] else 0)
        for logits in map(np.array, (golden["eval"], golden["train"])):
            assert np.ptp(logits, 0).max() > 0.05  # the image matters
            assert 0.2 < np.abs(logits).max() < 20


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        ("^", "module."),
        ("^", "_orig_mod.module."),
        (r"shortcut\.(\d)", r"downsample.\1"),
        ("linear", "fc"),
        ("linear", "classifier"),
        ("linear", "classifier.1"),
    ],
)
def test_names(pattern, replacement, resnet, loaded, tmp_path):
    options, tensors = resnet
    renamed = {re.sub(pattern, replacement, name): tensor for name, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    same(from_torch(saved(tmp_path, renamed), resnet20(**options)), loaded)


def test_our_own_names(tmp_path):
    for golden in map(first, ("squeezenet", "conv4", "vgg16", "wide_resnet28_2")):
        model, tensors = FACTORIES[golden["factory"]](**golden["options"]), state_dict(golden)
        trees, like = from_torch(saved(tmp_path, tensors), model), jax.eval_shape(model.init, jax.random.key(0))
        one, other = ([(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)] for tree in (trees, like))
        assert one == other
        paths = [path_name(path[1:]) for path, _ in jax.tree_util.tree_leaves_with_path(like)]
        translated = our_paths({name: tensor.shape for name, tensor in tensors.items()}, paths)
        assert sorted(translated.values()) == sorted(paths)
        renamed = {torch_name(path): tensors[name] for name, path in translated.items()}
        same(from_torch(saved(tmp_path, renamed), model), trees)


def test_numbers_of_a_sequential_count_layers():
    shapes = {f"net.{i}.weight": (4, 4) for i in (10, 2, 0)}  # as a sorted file has them: 0, 10, 2
    paths = our_paths(dict(sorted(shapes.items())), [f"linear{i}/kernel" for i in (1, 2, 3)])
    assert paths == {
        "net.0.weight": "linear1/kernel", "net.2.weight": "linear2/kernel", "net.10.weight": "linear3/kernel"
    }  # fmt: skip


def test_left_out(lenet, tmp_path):
    model, tensors = lenet
    more = {"AuxLogits.conv0.conv.weight": np.ones((1, 1, 1, 1)), "bn1.num_batches_tracked": np.array(7)}
    same(from_torch(saved(tmp_path, tensors | more), model), from_torch(saved(tmp_path, tensors), model))


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_other_floats_become_float32(dtype, lenet, tmp_path):
    model, tensors = lenet
    tensors = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    params, state = from_torch(saved(tmp_path, tensors), model)
    assert state == {}
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(params["linear2"]["kernel"], tensors["fc2.weight"].astype(np.float32).T)


@pytest.mark.parametrize(("dtype", "name"), [(jnp.float8_e4m3fn, "F8_E4M3"), (jnp.float8_e5m2, "F8_E5M2")])
def test_float8_becomes_float32(dtype, name, lenet, tmp_path):
    model, tensors = lenet
    tensors = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    params, _ = from_torch(saved_as(tmp_path, tensors, name), model)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(params["linear2"]["kernel"], tensors["fc2.weight"].astype(np.float32).T)


@pytest.mark.parametrize(("code", "size", "told"), [("BOOL", 1, "bool"), ("I32", 4, "int32"), ("C64", 8, "complex64")])
def test_other_dtypes_are_named(code, size, told, lenet, tmp_path):
    model, tensors = lenet
    tensors = {name: np.zeros((*tensor.shape, size), np.uint8) for name, tensor in tensors.items()}
    message = refusal(saved_as(tmp_path, tensors, code), model)
    names = ", ".join(f"fc{i}.{leaf}: {told}" for i in (1, 2, 3) for leaf in ("bias", "weight"))
    kept = names.rpartition(", ")[0]
    assert message == f"its tensors are not those of the model: 6 of a dtype that is not read ({kept} and 1 more)"


def test_pruned_weights_and_their_mask(lenet, tmp_path):
    model, tensors = lenet
    mask = drawn("mask", (100, 300)) > 0
    pruned = {f"net.{name}": tensor for name, tensor in tensors.items() if name != "fc2.weight"}
    pruned |= {"net.fc2.weight_orig": tensors["fc2.weight"], "net.fc2.weight_mask": mask.astype(np.float32)}
    weights = read_torch(saved(tmp_path, pruned), model)
    np.testing.assert_array_equal(weights.params["linear2"]["kernel"], (tensors["fc2.weight"] * mask).T)
    np.testing.assert_array_equal(weights.mask["linear2"]["kernel"], mask.T)
    assert weights.mask["linear1"]["kernel"].all()
    assert weights.mask["linear2"]["bias"] is None
    num, size = num_kept(weights.mask), num_prunable(weights.mask)
    assert size - num == 30_000 - mask.sum()
    [note] = weights.notes
    [sparsity] = re.findall(r"sparsity (.*)\)", note)
    assert count_for(size, float(sparsity)) == num
    assert f"{num:,} of {size:,}" in note
    assert read_torch(saved(tmp_path, tensors), model)[2:] == (None, ())


def test_the_mask_of_a_dense_layer_after_maps_of_channels_lies_as_its_weights(tmp_path):
    golden = first("conv2")
    model, tensors = FACTORIES["conv2"](**golden["options"]), state_dict(golden)
    dense = {name: tensor for name, tensor in tensors.items() if tensor.ndim in (2, 4)}
    masks = {name: drawn(f"mask of {name}", tensor.shape) > 0 for name, tensor in dense.items()}
    for name, mask in masks.items():
        tensors[f"{name}_orig"], tensors[f"{name}_mask"] = tensors.pop(name), mask
    weights = read_torch(saved(tmp_path, tensors), model)
    pairs = zip(
        jax.tree.leaves(weights.params), jax.tree.leaves(weights.mask, is_leaf=lambda m: m is None), strict=True
    )
    kernels = [(weight, mask) for weight, mask in pairs if mask is not None]
    assert len(kernels) == len(dense)
    for weight, mask in kernels:
        np.testing.assert_array_equal(mask, weight != 0)


def test_what_may_be_missing_or_more(lenet, tmp_path):
    model, tensors = lenet
    kept = {name: tensor for name, tensor in tensors.items() if "fc3" not in name}
    path = saved(tmp_path, kept | {"head.weight": np.ones(3), "odd": np.ones(1)})
    message = refusal(path, model)
    assert message.endswith("2 missing (linear3.bias, linear3.weight); 2 unexpected (head.weight, odd)")
    with pytest.raises(ValueError, match=r": 1 missing \(linear3.bias\); 1 unexpected \(head.weight\)"):
        from_torch(path, model, allow_missing=r"3\.weight$", allow_unexpected="^odd")
    options = {"allow_missing": "linear3", "allow_unexpected": "head|odd", "key": jax.random.key(5)}
    weights = read_torch(path, model, **options)
    same(weights[:2], from_torch(path, model, **options))
    same(weights.params["linear3"], jax.jit(model.init)(jax.random.key(5))[0]["linear3"])
    np.testing.assert_array_equal(weights.params["linear2"]["kernel"], tensors["fc2.weight"].T)
    assert weights.notes == (
        "left out: head.weight, odd (unexpected)", "missing, with fresh values: linear3.bias, linear3.weight"
    )  # fmt: skip
    everything = read_torch(
        saved(tmp_path, tensors), model, allow_missing="", allow_unexpected=""
    )  # what is there is read
    np.testing.assert_array_equal(everything.params["linear3"]["kernel"], tensors["fc3.weight"].T)
    assert everything.notes == ()


@pytest.mark.parametrize("name", ["allow_missing", "allow_unexpected"])
def test_what_is_no_regular_expression(name, lenet, tmp_path):
    with pytest.raises(ValueError, match=rf"^{name}: expected a regular expression, got '\(' \(missing \)"):
        from_torch(saved(tmp_path, lenet[1]), lenet[0], **{name: "("})
    with pytest.raises(ValueError, match=rf"^{name}: expected a regular expression, got 'a{{9+}}' \(the repetition"):
        from_torch(saved(tmp_path, lenet[1]), lenet[0], **{name: "a{99999999999}"})


def test_names_are_told_without_commands_to_the_terminal(lenet, tmp_path):
    model, tensors = lenet
    path = saved(tmp_path, tensors | {"\x1b[31mred\nline": np.ones(1)})
    assert refusal(path, model).endswith("1 unexpected (\\x1b[31mred\\nline)")


def test_parametrizations_that_are_not_read(lenet, tmp_path):
    model, tensors = lenet
    tensors["fc2.parametrizations.weight.original"] = tensors.pop("fc2.weight")
    message = refusal(saved(tmp_path, tensors), model)
    assert "1 missing (linear2.weight); 1 unexpected (fc2.parametrizations.weight.original)" in message
    assert message.endswith("; try torch.nn.utils.parametrize.remove_parametrizations before saving")


def test_mismatches_are_named(lenet, tmp_path):
    model, tensors = lenet
    del tensors["fc1.weight"]
    tensors["fc1.scores"] = tensors["fc2.flag"] = np.ones((2, 2), np.float32)
    tensors["fc2.bias"] = np.zeros(7, np.float32)
    tensors["fc2.weight"] = tensors["fc2.weight"].T
    assert refusal(saved(tmp_path, tensors), model) == (
        "its tensors are not those of the model: 1 missing (linear1.weight); 2 unexpected (fc1.scores, fc2.flag); "
        "2 misshapen (fc2.bias: expected (100,), got (7,), fc2.weight: expected (100, 300), got (300, 100))"
    )


def test_integers_are_named_and_second_tensors_for_one_place_are_unexpected(lenet, tmp_path):
    model, tensors = lenet
    tensors["linear3.weight"] = tensors["fc3.weight"]
    tensors["fc1.weight"] = tensors["fc1.weight"].astype(np.int8)
    message = refusal(saved(tmp_path, tensors), model)
    assert message.endswith(": 1 of a dtype that is not read (fc1.weight: int8); 1 unexpected (linear3.weight)")


@pytest.mark.parametrize(
    ("change", "told", "hint"),
    [
        ({"affine": False}, "42 unexpected (bn1.bias, bn1.weight, ", "; try affine=True"),
        ({"use_bias": False}, "1 unexpected (linear.bias)", "; try use_bias=True"),
        ({"num_classes": 3}, "2 misshapen (linear.bias: expected (3,), got (10,), ", "; try replace_classifier=True"),
        ({"width": 1}, "misshapen", " more)"),
        ({"shortcut": "A"}, "10 unexpected (layer2.0.shortcut.0.weight, ", " and 5 more)"),
    ],
)
def test_hints(change, told, hint, resnet, tmp_path):
    options, tensors = resnet
    message = refusal(saved(tmp_path, tensors), resnet20(**options | change))
    assert told in message
    assert message.endswith(hint)
    assert "missing" not in message


def test_hints_of_what_is_missing(resnet, tmp_path):
    options, tensors = resnet
    bare = {name: t for name, t in tensors.items() if not re.search(r"(bn\d|shortcut\.1)\.(weight|bias)|r\.bias", name)}
    message = refusal(saved(tmp_path, bare), resnet20(**options))
    assert "43 missing (bn1.bias, bn1.weight, layer1.0.bn1.bias, " in message
    assert message.endswith(" and 38 more); try affine=False, use_bias=False")


def test_another_network(lenet, resnet, tmp_path):
    message = refusal(saved(tmp_path, resnet[1]), lenet[0])
    assert ": 6 missing (linear1.bias, linear1.weight, " in message
    assert message.endswith(" and 102 more)")  # without hints


@pytest.mark.parametrize("name", ["linear", "linaer/kernel", "linear/bias", "fc.weight"])
def test_what_is_to_be_replaced_is_a_kernel(name, resnet, tmp_path):
    """Another name was ignored, and the file's classifier kept."""
    options, tensors = resnet
    told = rf"^replace_classifier: expected a kernel, one of conv1/kernel, .*, linear/kernel, got '{name}'$"
    with pytest.raises(ValueError, match=told):
        from_torch(saved(tmp_path, tensors), resnet20(**options), replace_classifier=name)


@pytest.mark.parametrize("with_classifier", [True, False])
def test_replace_classifier(with_classifier, resnet, loaded, tmp_path):
    options, tensors = resnet
    model = resnet20(**options | {"num_classes": 500})
    path = saved(tmp_path, {name: t for name, t in tensors.items() if with_classifier or "linear" not in name})
    params, state = from_torch(path, model, replace_classifier=True, key=jax.random.key(3))
    same({**params, "linear": None}, {**loaded[0], "linear": None})
    same(state, loaded[1])
    kernel = np.asarray(params["linear"]["kernel"])
    assert kernel.shape == (32, 500)
    assert np.std(kernel) == pytest.approx((2 / 32) ** 0.5, rel=0.02)
    assert not params["linear"]["bias"].any()
    other, _ = from_torch(path, model, replace_classifier=True)
    assert (other["linear"]["kernel"] != kernel).all()


def test_replace_several_dense_layers(tmp_path):
    golden = first("vgg16")
    tensors = {name: t for name, t in state_dict(golden).items() if name.startswith("features.")}
    for i, shape in ((0, (9, 25)), (3, (9, 9)), (6, (5, 9))):
        tensors[f"classifier.{i}.weight"], tensors[f"classifier.{i}.bias"] = np.ones(shape), np.ones(shape[:1])
    model = vgg.vgg16(**golden["options"])
    assert "4 unexpected (classifier.3.bias, " in refusal(saved(tmp_path, tensors), model)
    params, _ = from_torch(saved(tmp_path, tensors), model, replace_classifier=True)
    assert params["linear"]["kernel"].shape == (128, 10)


def test_damaged_or_absent(lenet, tmp_path):
    model, tensors = lenet
    path = saved(tmp_path, tensors)
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(path, model).startswith("cut off, or not a safetensors file (")
    path.write_bytes(b"")
    assert refusal(path, model).startswith("cut off, or not a safetensors file (")
    for name in ("none.safetensors", "none.pth"):
        with pytest.raises(FileNotFoundError, match=name):
            from_torch(tmp_path / name, model)


def test_torch_is_not_needed(lenet, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert refusal(written(tmp_path, "weights", b"x"), lenet[0]).startswith("no file of weights: it begins with b'x'")
    message = refusal(written(tmp_path, "weights", stored_bytes("network")), lenet[0])
    assert message.startswith("a whole network, pickled as torch.nn.modules.container.Sequential, which")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"epoch": 3, "state_dict": {f"module.{name}": t for name, t in tensors.items()}},
        lambda tensors: {"model": tensors, "optimizer": {"lr": 0.1}},
    ],
)
def test_files_of_torch(wrap, legacy, lenet, tmp_path):
    torch = pytest.importorskip("torch")
    model, tensors = lenet
    content = wrap({name: torch.from_numpy(tensor).bfloat16() for name, tensor in tensors.items()})
    torch.save(content, tmp_path / "weights.tar", _use_new_zipfile_serialization=not legacy)
    half = {name: tensor.astype(jnp.bfloat16) for name, tensor in tensors.items()}
    same(from_torch(tmp_path / "weights.tar", model), from_torch(saved(tmp_path, half), model))


def test_damaged_files_of_torch(lenet, tmp_path):
    torch = pytest.importorskip("torch")
    model, tensors = lenet
    path = tmp_path / "weights.pth"
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, path)
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(path, model).startswith("cut off: a zip archive without its end")
    path.write_bytes(b"")
    assert refusal(path, model).startswith("an empty file")
    torch.save(torch.nn.Linear(2, 2), path)  # a whole network: code, not only tensors
    assert refusal(path, model).endswith("; expected torch.save(network.state_dict(), ...)")
    torch.save({"weights": [1, 2]}, path)
    assert refusal(path, model) == "expected a state dict of tensors, got a list"
    torch.save(torch.ones(2), path)
    assert refusal(path, model) == "expected a state dict of tensors, got a Tensor"


def test_numbers_that_float32_does_not_hold_are_refused(lenet, tmp_path):
    model, tensors = lenet
    wide = tensors["fc2.weight"].astype(np.float64)
    wide[3, 4] = -1e300
    message = refusal(saved(tmp_path, tensors | {"fc2.weight": wide}), model)
    assert message.startswith("expected finite numbers, got -1e+300, which float32 does not hold (at fc2.weight, which")
    assert message.endswith("which becomes linear2/kernel)")
    tensors.pop("fc2.weight")
    normed = {"fc2.weight_g": np.full((100, 1), 1e200), "fc2.weight_v": np.where(wide == -1e300, 0, wide)}
    assert "which float32 does not hold (at fc2.weight, which" in refusal(saved(tmp_path, tensors | normed), model)


def test_masks_that_are_none(lenet, tmp_path):
    model, tensors = lenet
    tensors["fc2.weight_orig"] = tensors.pop("fc2.weight")
    mask = np.ones((100, 300), np.float32)
    message = refusal(saved(tmp_path, tensors | {"fc2.weight_mask": mask[0]}), model)
    assert message.endswith(
        ": 1 missing (linear2.weight); "
        "1 misshapen (fc2.weight_mask: expected that of fc2.weight_orig, (100, 300), got (300,))"
    )
    mask[5, 6] = np.nan
    message = refusal(saved(tmp_path, tensors | {"fc2.weight_mask": mask}), model)
    assert message.startswith("expected finite numbers, got NaN or infinity in fc2.weight_mask (at fc2.weight, which")
