"""The checksum against NumPy, under any sharding, and what it shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rare_gems.storage.checksum import checksum


def numpy_mix(x):
    for shift, factor in [(16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)]:
        x = ((x ^ (x >> shift)) * factor) % 2**32
    return x


def numpy_checksum(array):
    """In uint64, from the array's bytes: 32-bit words, or bytes and halves that are filled up with zeros."""
    size = min(array.dtype.itemsize, 4)
    words = np.frombuffer(array.tobytes(), f"u{size}").astype(np.uint64).reshape(array.size, -1)
    total = 0
    for part in range(words.shape[1]):
        index = (np.arange(array.size, dtype=np.uint64) + part * 0x9E3779B9) % 2**32
        total += int(numpy_mix((words[:, part] + numpy_mix(index)) % 2**32).sum())
    return total % 2**32


DTYPES = ["bool", "uint8", "int8", "int32", "bfloat16", "float16", "float32", "float64", "int64", "complex64"]


def _on(*spec):
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    return NamedSharding(mesh, PartitionSpec(*spec))


@pytest.mark.parametrize("dtype", DTYPES)
def test_checksum_in_numpy(dtype):
    rng = np.random.default_rng(3)
    array = (rng.normal(size=(2, 3, 5)) * 100).astype(jnp.dtype(dtype))
    if dtype == "float32":
        array.flat[:4] = [np.nan, -0.0, np.inf, 1e-42]
    if dtype == "complex64":
        array = array + array[::-1] * np.complex64(1j)
    with jax.enable_x64(dtype.endswith("64") and dtype != "complex64"):
        assert int(checksum(jnp.asarray(array))) == numpy_checksum(array)


def test_checksum_of_four_bits():
    array = np.array([-8, 7, 3], np.int8)
    assert int(checksum(jnp.asarray(array, jnp.int4))) == numpy_checksum(array)


def test_checksum_is_that_of_any_sharding_and_moves_no_array():
    array = np.random.default_rng(4).normal(size=(8, 16, 512)).astype(np.float32)
    for spec in [(), ("data", "model"), (None, None, ("data", "model")), ("model", None, "data")]:
        leaf = jax.device_put(array, _on(*spec))
        assert int(checksum(leaf)) == numpy_checksum(array)
    compiled = checksum.lower(leaf).compile().as_text()
    assert "all-reduce" in compiled
    assert not [word for word in ("all-gather", "all-to-all", "collective-permute") if word in compiled]


def test_checksum_shows_any_change():
    array = np.zeros((4, 8), np.float32)
    array[1, 2] = 1.5
    seen = {int(checksum(jnp.array(array)))}
    for place in range(32):  # every bit of some element: of a zero, of the only number, of zero's sign
        changed = array.copy()
        changed.view(np.uint32)[place % 4, place % 8] ^= np.uint32(1 << place)
        seen.add(int(checksum(jnp.array(changed))))
    swapped = array.copy()
    swapped[[1, 3], [2, 5]] = array[[3, 1], [5, 2]]
    seen |= {int(checksum(jnp.array(x))) for x in (swapped, array[::-1], array[:, ::-1], array.T)}
    assert len(seen) == 1 + 32 + 4
