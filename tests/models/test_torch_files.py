"""Files of PyTorch against what torch reads in them, and what is said of other files. torch is not needed."""

import contextlib
import io
import json
import pickle
import zipfile
from importlib.metadata import version

import numpy as np
import pytest
from safetensors.numpy import save

from rare_gems.models import torch_files
from rare_gems.models.torch_files import read_tensors
from rare_gems.models.torch_tensors import Stored, numbers
from tests.models.torch_golden import expected, stored_bytes, written

OLD = tuple(map(int, version("safetensors").split(".")[:2])) < (0, 8)
NEW = pytest.mark.skipif(OLD, reason="safetensors 0.8 is the first to read it")


def refusal(path):
    with pytest.raises(ValueError, match=r".") as caught:
        read_tensors(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "file", ["views", "views_legacy", "float8", "float8_legacy", "dtypes", "dtypes_legacy", "checkpoint"]
)
def test_reads_what_torch_reads(file, tmp_path):
    found = {".".join(keys): tensor for keys, tensor in read_tensors(written(tmp_path, file)).items()}
    name = file.removesuffix("_legacy")
    wanted = expected("tensors", name)
    if name == "checkpoint":
        found = {at: tensor for at, tensor in found.items() if not at.startswith("optimizer.state.")}
    assert found.keys() == wanted.keys()
    for at, array in wanted.items():
        assert found[at].shape == array.shape
        np.testing.assert_array_equal(numbers(found[at]).astype(np.float32), array)
        assert found[at].dtype in (at, "float32")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("F8_E4M3", "float8_e4m3fn"), pytest.param("F8_E4M3FNUZ", "float8_e4m3fnuz", marks=NEW),
        ("F8_E5M2", "float8_e5m2"), pytest.param("F8_E5M2FNUZ", "float8_e5m2fnuz", marks=NEW),
        ("F8_E8M0", "float8_e8m0fnu"),
    ],
)  # fmt: skip
def test_float8_of_safetensors_is_that_of_torch(name, dtype, tmp_path):
    header = json.dumps({"w": {"dtype": name, "shape": [16, 16], "data_offsets": [0, 256]}}).encode()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(range(256)))
    [(keys, tensor)] = read_tensors(path).items()
    assert (keys, tensor.dtype, tensor.shape) == (("w",), dtype, (16, 16))
    wanted = expected("tensors", "float8")[dtype]
    got = numbers(tensor).reshape(-1)
    np.testing.assert_array_equal(got, wanted)
    assert np.unique(got[np.isfinite(got)]).size > 200  # every number is another


def test_what_has_no_numbers_here_is_named(tmp_path):
    found = {keys[0]: tensor for keys, tensor in read_tensors(written(tmp_path, "strange")).items()}
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "complex64": "complex64", "sparse": "sparse (sparse_coo)", "csr": "sparse (sparse_csr)",
        "meta": "meta float32", "quantized": "quantized qint8", "nested": "torch._utils._rebuild_nested_tensor",
        "float4": "float4_e2m1fn_x2",
    }  # fmt: skip
    assert found["csr"].shape == found["sparse"].shape == (2, 2)
    assert not any(tensor.read for tensor in found.values())
    with pytest.raises(ValueError, match="got complex64"):
        numbers(found["complex64"])


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)
    return file.getvalue()


EXPECTED = "; expected torch.save(network.state_dict(), ...)"
OTHERS = {
    "empty": (b"", "an empty file"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\nsize 3\n", "a Git LFS pointer instead of the file: git lfs"),
    "page": (b"\n <!DOCTYPE html><html>", "a web page (HTML or XML) instead of the file"),
    "denied": (b'<?xml version="1.0"?><Error>', "a web page (HTML or XML) instead of the file"),
    "json": (b'{"error": "not found"}', "JSON text"),
    "gzip": (b"\x1f\x8b\x08\x00", "a compressed file"),
    "tar": (b"a" * 257 + b"ustar\x00", "a tar archive"),
    "keras": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    "numpy": (b"\x93NUMPY\x01", "a NumPy array"),
    "npz": (zipped(a_npy=b""), "a NumPy archive, which holds a.npy"),
    "zip": (zipped(b_txt=b"", a_txt=b""), "a zip archive of something else, which holds a.txt, b.txt"),
    "pickle": (b"\x80\x04}\x94.", "a Python pickle that torch.save did not write"),
    "text": (b"\x1b[31mred", "no file of weights: it begins with b'\\x1b[31mred'"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_told_by_their_beginning(name, tmp_path):
    data, told = OTHERS[name]
    message = refusal(written(tmp_path, name, data))
    assert message.startswith(told)
    assert message.endswith(EXPECTED)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("network", "a whole network, pickled as torch.nn.modules.container.Sequential, which only its own code"),
        (
            "network_legacy",
            "a whole network, pickled as torch.nn.modules.container.Sequential, which only its own code",
        ),
        ("network_within", "a whole network, pickled as torch.nn.modules.container.Sequential (under 'model'), which"),
        ("torchscript", "a TorchScript archive, which holds code"),
        ("calls", "its pickle would run posix.system, which no file of weights needs; nothing of it was run"),
    ],
)
def test_files_of_torch_that_are_no_state_dict(name, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(written(tmp_path, name))
    assert message.startswith(told)
    assert message.endswith(EXPECTED)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("list", f"a dict without tensors, of w: list{EXPECTED}"),
        ("tensor", "expected a state dict of tensors, got a Tensor"),
        ("nothing", "expected a state dict of tensors, got a dict"),
    ],
)
def test_what_has_no_tensors(name, told, tmp_path):
    assert refusal(written(tmp_path, name)) == told


WITHOUT_WEIGHTS = {
    "a dict without tensors, of epoch: int, lr: float": {"epoch": 3, "lr": 0.1},
    "a dict without tensors, of model: dict, a: int, b: int ...": {"model": {"epoch": 3}, "a": 1, "b": 2, "c": 3},
    "a dict without tensors, of fc.weight: NumPy array, which safetensors.numpy": {"fc.weight": np.ones(2)},
    "the state dict of an optimizer, which has no weights": {"state": {}, "param_groups": [{"lr": 0.1}]},
    "the state dict of an optimizer (under 'adam'), which": {"adam": {"state": {}, "param_groups": []}, "epoch": 3},
}


@pytest.mark.parametrize("told", WITHOUT_WEIGHTS)
def test_dicts_without_weights_are_told_by_what_they_hold(told, tmp_path):
    content = zipped(**{"a/data_pkl": pickle.dumps(WITHOUT_WEIGHTS[told], protocol=2)})
    message = refusal(written(tmp_path, "weights", content))
    assert message.startswith(told)
    assert message.endswith(EXPECTED)


def test_the_slots_of_an_optimizer_are_no_weights():
    slot = Stored("float32", (2,), None)
    optimizer = {"state": {0: {"exp_avg": slot}}, "param_groups": [{"lr": 0.1}]}
    with pytest.raises(ValueError, match="the state dict of an optimizer, which"):
        torch_files._tensors_in(optimizer)
    with pytest.raises(ValueError, match=r"the state dict of an optimizer \(under 'model.opt'\), which"):
        torch_files._tensors_in({"model": {"opt": optimizer}})
    both = {"opt": optimizer, "net": {"fc.weight": slot}}
    assert set(torch_files._tensors_in(both)) == {("opt", "state", "0", "exp_avg"), ("net", "fc.weight")}


@pytest.mark.parametrize("name", ["checkpoint", "views_legacy", "float8_legacy"])
def test_no_part_of_a_file_is_taken_for_the_whole(name, tmp_path):
    data = stored_bytes(name)
    for size in {*range(1, len(data), 97), len(data) - 1}:
        message = refusal(written(tmp_path, "part", data[:size]))
        assert "cut off" in message or "damaged" in message or "no file of weights" in message or "pickle" in message


@pytest.mark.parametrize("name", ["checkpoint", "views_legacy"])
def test_flipped_bits_are_found_or_refused(name, tmp_path):
    """Of a zip archive the numbers have checksums; whatever else is changed leads to no other error."""
    data = bytearray(stored_bytes(name))
    for at in range(0, len(data), 41):
        data[at] ^= 0x15
        path = written(tmp_path, "flipped", bytes(data))
        with contextlib.suppress(ValueError):
            for tensor in read_tensors(path).values():
                assert len(tensor.shape) < 5
        data[at] ^= 0x15


def test_a_tensor_outside_of_its_numbers_is_refused(tmp_path):
    file, other = zipfile.ZipFile(io.BytesIO(stored_bytes("views"))), io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        for name in file.namelist():
            content = file.read(name)
            archive.writestr(name, content.replace(b"K\x02K\x03\x86", b"K\x02K\x63\x86"))  # (2, 3): (2, 99)
    tensors = read_tensors(written(tmp_path, "outside", other.getvalue()))
    with pytest.raises(ValueError, match=r"damaged: a tensor of shape \(2, 99\) lies outside of its 96 bytes"):
        numbers(tensors[("part",)])


def test_nothing_of_a_pickle_is_called_or_changed(tmp_path):
    """Names that are called, and states that are set, on whatever a pickle may name."""
    for body in (
        b"cbuiltins\ngetattr\n(cos\nsystem\nVx\ntR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",
        b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x08\x00\x00\x00functionK\x01s\x86b.",
        b"cany\nClass\n}X\x01\x00\x00\x00aK\x01sb.",
        b"ctorch\nFloatStorage\n)R.",
        b"cany\nClass\n)\x81}X\x05\x00\x00\x00itemsK\x01sb.",
        b"}r\xff\xff\xff\x7f.",  # would take 16 GiB
        b"}r\x00\x00",
    ):
        path = written(tmp_path, "crafted", zipped(**{"a/data_pkl": b"\x80\x02" + body}))
        assert refusal(path)
    found = read_tensors(written(tmp_path, "views"))  # as before
    assert numbers(found[("scalar",)]) == 2.5


def test_safetensors_by_another_name(tmp_path):
    data = save({"w": np.zeros(1, np.float32)})
    assert read_tensors(written(tmp_path, "weights", data))[("w",)].shape == (1,)
    assert refusal(written(tmp_path, "weights", data[:-1])).startswith("cut off, or not a safetensors file (")
