"""Weights in parts against those that torch computed with (golden/make_torch_files.py)."""

import numpy as np
import pytest

from rare_gems.models.torch_files import read_tensors
from rare_gems.models.torch_reparametrized import whole_weights
from rare_gems.models.torch_tensors import Stored, numbers
from tests.models.torch_golden import expected, written

KINDS = {
    "prune": "mask", "prune_structured": "mask", "weight_norm": "weight norm", "weight_norm_whole": "weight norm",
    "weight_norm_inputs": "weight norm", "parametrized_weight_norm": "weight norm", "spectral_norm": "spectral norm",
    "parametrized_spectral_norm": "spectral norm", "prune_of_weight_norm": "weight norm",
}  # fmt: skip


def stored(array):
    return Stored(str(array.dtype), array.shape, lambda: array)


@pytest.mark.parametrize("name", KINDS)
def test_the_whole_is_what_torch_computes_with(name, tmp_path):
    tensors = {keys[0]: tensor for keys, tensor in read_tensors(written(tmp_path, name)).items()}
    whole = whole_weights(tensors)
    assert set(whole.tensors) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert whole.kinds == dict.fromkeys(("0.weight", "1.weight"), KINDS[name])
    assert {part for parts in whole.parts.values() for part in parts} == set(tensors) - {"0.bias", "1.bias"}
    for at, weight in expected("whole", name).items():
        assert whole.tensors[at].shape == weight.shape
        np.testing.assert_allclose(numbers(whole.tensors[at]), weight, rtol=1e-5, atol=1e-7)
        if "prune" in name:
            np.testing.assert_array_equal(numbers(whole.masks[at]) != 0, weight != 0)
    assert set(whole.masks) == (set(expected("whole", name)) if "prune" in name else set())


def test_a_mask_of_bools(tmp_path):
    parts = {"fc.weight_orig": stored(np.arange(3.0)), "fc.weight_mask": stored(np.array([True, False, True]))}
    assert numbers(whole_weights(parts).tensors["fc.weight"]).tolist() == [0, 0, 2]


def test_parts_of_integers_are_not_computed_with(tmp_path):
    parts = {"fc.weight_orig": stored(np.arange(3, dtype=np.int8)), "fc.weight_mask": stored(np.ones(3, bool))}
    [(name, tensor)] = whole_weights(parts).tensors.items()
    assert (name, tensor.dtype, tensor.shape, tensor.read) == ("fc.weight", "int8", (3,), None)


@pytest.mark.parametrize(
    "names",
    [
        ("fc.weight_orig",),
        ("fc.weight_orig", "fc.bias_mask"),
        ("fc.weight_g", "gc.weight_v"),
        ("fc.weight_orig", "fc.weight_u", "fc.weight_v"),  # of other shapes than spectral norm's
        ("fc.weight_orig", "fc.weight_mask", "fc.weight"),
        ("fc.parametrizations.weight.original", "fc.parametrizations.weight.0.base"),
    ],
)
def test_other_parts_stay(names):
    parts = {name: stored(np.ones((2, 2), np.float32)) for name in names}
    whole = whole_weights(parts)
    assert set(whole.tensors) == set(names)
    assert not whole.kinds
