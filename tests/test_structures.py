"""What is told where two trees differ: leaves, kinds of containers, in one short line."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze

from rare_gems import masks
from rare_gems.analysis import connectivity, distance
from rare_gems.pruners.parts.counts import check_counts
from rare_gems.structures import difference


class Pair(NamedTuple):
    a: Any
    b: Any


PARAMS = {f"layer{i}": {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)} for i in range(40)}
MASK = {name: {"kernel": np.ones((2, 3), bool), "bias": None} for name in PARAMS}


@pytest.mark.parametrize(
    ("tree", "like", "told"),
    [
        ({"a": 1}, {"a": 1, "b": {"c": 1}}, "one without b/c"),
        ({"a": 1, "b": 2}, {"a": 1, "b": None}, "one with b"),
        (list(range(9)), [0], "one with 1, 2, 3, 4 and 4 more"),
        (1, {"a": 1}, "a leaf in place of dict"),
        ([1, {"a": 1}], [1, 1], "dict in place of a leaf at 1"),
        ({"a": Pair(1, 2)}, {"a": {"a": 1, "b": 2}}, "Pair in place of dict at a"),
        ([{"a": [1]}, [1, (2,)]], [{"a": [1]}, [1, [2]]], "tuple in place of list at 1/1"),
        (None, {"a": 1}, "None"),
        ({0: 1}, {"0": 1}, "dict of other keys or static fields"),
        ([1, None], [1], "list of 2 in place of 1"),
        ([[], 1], [(), 1], "list in place of tuple"),
    ],
)
def test_in_a_few_words(tree, like, told):
    assert difference(tree, like) == told


@pytest.mark.parametrize(
    ("mask", "tree", "told"),
    [
        ({"a": None}, {"a": {"b": 1}, "c": 1}, "one without c"),
        ({"a": None, "c": None}, {"a": {"b": 1}}, "one with c"),
        ({"x": {"a": None}, "y": (1,)}, {"x": {"a": {"b": 1}}, "y": [1]}, "tuple in place of list at y"),
        ({"a": {"b": 1}}, {"a": 1}, "dict in place of a leaf at a"),
    ],
)
def test_none_of_a_mask_stands_for_whatever_is_there(mask, tree, told):
    assert difference(mask, tree, prefix="tree") == told


ONE = [np.ones(2, np.float32)]
FROZEN = "FrozenDict in place of dict"


@pytest.mark.parametrize(
    ("call", "expected", "got"),
    [
        (lambda: masks.apply(PARAMS, freeze(MASK)), "mask: expected the structure of params", FROZEN),
        (lambda: masks.apply(PARAMS, MASK | {"layer3": {}}), "mask: expected the structure of params",
         "one without layer3/bias, layer3/kernel"),
        (lambda: masks.map_kept(np.abs, PARAMS, freeze(MASK)), "mask: expected the structure of tree", FROZEN),
        (lambda: masks.map_kept(np.abs, None, MASK), "tree: expected the structure of the mask", "None"),
        (lambda: masks.overlap(MASK, freeze(MASK)), "b: expected the structure of a", FROZEN),
        (lambda: masks.keep_top(PARAMS, 1, within=MASK), "within: expected the structure of scores",
         "one without layer0/bias, layer1/bias, layer10/bias, layer11/bias and 36 more"),
        (lambda: masks.keep_top(ONE, {"a": 1}, "layer"), "num_kept: expected the structure of scores",
         "one without 0 and with a"),
        (lambda: masks.keep_top(ONE, 1, at_least=(1,)), "at_least: expected the structure of scores",
         "tuple in place of list"),
        (lambda: check_counts(MASK, freeze(MASK)), "counts: expected the structure of the mask", FROZEN),
        (lambda: connectivity.path(PARAMS, freeze(PARAMS), 0.5), "b: expected the structure of a", FROZEN),
        (lambda: distance.between(PARAMS, freeze(PARAMS), MASK), "b: expected params in the structure of the mask",
         FROZEN),
    ],
    ids=["apply", "some", "map", "none", "overlap", "within", "num_kept", "at_least", "counts", "path", "distance"],
)  # fmt: skip
def test_one_short_line_of_every_function(call, expected, got):
    """Of a network of forty layers, whose structure alone has thousands of characters."""
    with pytest.raises(ValueError, match="expected") as caught:
        call()
    assert str(caught.value) == f"{expected}, got {got}"


def test_masks_of_nnx():
    layer, norm = {"kernel": nnx.Param(jnp.ones((2, 3)))}, {"scale": nnx.Param(jnp.ones(3))}
    statistics = {"mean": nnx.BatchStat(jnp.ones(3)), "var": nnx.BatchStat(jnp.ones(3))}
    params, whole = nnx.State({"layer": layer, "norm": norm}), nnx.State({"layer": layer, "norm": norm | statistics})
    mask = masks.ones(params)
    assert masks.num_kept(masks.map_kept(lambda leaf: leaf > 0, params, mask)) == 6
    for wrong, told in (
        (masks.ones(whole), "one with norm/mean, norm/var"),
        (nnx.to_pure_dict(mask), "dict in place of State"),
    ):
        with pytest.raises(ValueError, match=f"^mask: expected the structure of params, got {told}$"):
            masks.apply(params, wrong)
