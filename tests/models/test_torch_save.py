"""Files of torch.save without torch: read back here, and by torch where it is installed."""

import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from rare_gems.models.torch_pickle import read_zip
from rare_gems.models.torch_save import torch_file

RNG = np.random.default_rng(0)
TENSORS = {
    "conv.weight": RNG.standard_normal((3, 4, 2, 2)).astype(np.float32),
    "ü": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "scalar": np.float64(2.5),
    "empty": np.zeros((0, 3), np.float32),
    "mask": np.array([True, False]),
    "half": np.ones((2, 3), jnp.bfloat16),
    "of another machine": np.arange(3, dtype=">i2"),
    "bytes": np.arange(300, dtype=np.uint8),
}


def test_what_is_written_is_read_and_lies_on_full_lines(tmp_path):
    data = torch_file(TENSORS)
    assert data == torch_file(dict(TENSORS))
    found = read_zip(data)
    assert list(found) == list(TENSORS)
    for name, stored in found.items():
        np.testing.assert_array_equal(stored.read(), TENSORS[name])
        assert stored.read().dtype == np.asarray(TENSORS[name]).dtype.newbyteorder("=")
    path = tmp_path / "t.pt"
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            length = int.from_bytes(data[member.header_offset + 28 : member.header_offset + 30], "little")
            assert (member.header_offset + 30 + len(member.filename) + length) % 64 == 0


@pytest.mark.parametrize("options", [{"weights_only": True}, {"weights_only": True, "mmap": True}])
def test_torch_reads_it(options, tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "t.pt"
    path.write_bytes(torch_file(TENSORS))
    found = torch.load(path, **options)
    assert list(found) == list(TENSORS)
    for name, tensor in found.items():
        assert tensor.is_contiguous()
        np.testing.assert_array_equal(tensor.double().numpy(), np.asarray(TENSORS[name]).astype(np.float64))


def test_what_torch_does_not_store_is_refused():
    with pytest.raises(ValueError, match="w: expected numbers that torch stores, got uint64"):
        torch_file({"w": np.ones(2, np.uint64)})
