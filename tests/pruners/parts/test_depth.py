"""Which layer comes first, where nobody says so: certain orders, and guesses that are refused."""

import dataclasses
from collections import OrderedDict
from typing import Any, NamedTuple

import equinox as eqx
import flax
import jax
import pytest
from flax import nnx

from rare_gems import masks
from rare_gems.models.layers import Linear
from rare_gems.phase import Context, Ticket
from rare_gems.pruners.hybrid import hybrid
from rare_gems.pruners.parts.depth import by_leaf, layers_by_depth
from rare_gems.pruners.parts.finetune import finetune
from rare_gems.pruners.parts.smart_ratio_counts import smart_ratio_counts
from rare_gems.pruners.smart_ratio import smart_ratio
from rare_gems.pruners.smart_ratio_search import smart_ratio_search

LEAF = jax.ShapeDtypeStruct((10, 10), bool)


class Pair(NamedTuple):
    stem: Any
    head: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Data:
    stem: Any
    head: Any


@flax.struct.dataclass
class Struct:
    stem: Any
    head: Any


class Net(eqx.Module):
    stem: Any
    body: Any
    head: Any


class Shuffled(nnx.Module):
    def __init__(self):
        self.stem, self.head = (Linear(2, 2, use_bias=False) for _ in range(2))


def nnx_params():
    return nnx.state(nnx.eval_shape(Shuffled), nnx.Param)


def named(*names):
    return {name: {"kernel": LEAF, "bias": None} for name in names}


@pytest.mark.parametrize(
    ("tree", "order"),
    [
        ([LEAF] * 11, range(11)),
        ((LEAF, [LEAF, None, LEAF]), range(3)),
        (LEAF, [0]),
        ({"only": {"kernel": LEAF, "bias": None}}, [0]),
        ([], []),
        (Pair(LEAF, {"w": LEAF}), [0, 1]),
        (Data(LEAF, LEAF), [0, 1]),
        (Struct(LEAF, LEAF), [0, 1]),
        (Net(LEAF, [LEAF, LEAF], LEAF), range(4)),
        (OrderedDict(stem=LEAF, block=LEAF), [0, 1]),
        (named(*(f"Dense_{i}" for i in range(12))), [0, 1, *range(4, 12), 2, 3]),
        (named("linear", "linear_1", "linear_10", "linear_2"), [0, 1, 3, 2]),
        (named("layer9", "layer10"), [1, 0]),
        (dict.fromkeys((10, 9, 2), LEAF), [0, 1, 2]),
        ({"1": LEAF, "10": LEAF, "9": {"b10": LEAF, "b9": LEAF}}, [0, 3, 2, 1]),
        ({"net/~/linear_9": {"w": LEAF}, "net/~/linear_10": {"w": LEAF}}, [1, 0]),
    ],
)
def test_certain_orders(tree, order):
    assert layers_by_depth(tree) == list(order)


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        (
            named("stem", "block1", "block2", "classifier"),
            r"of the params are .*\(block1, block2, classifier, stem\)",
        ),
        (named("Conv_0", "Conv_1", "Dense_0"), "Conv_0, Conv_1, Dense_0"),
        (named("a", "b"), r"\(a, b\)"),
        (named("layer1", "layer01"), "layer01, layer1"),
        ([LEAF, {"key": LEAF, "query": LEAF}], "those of 1 are sorted by name"),
        (flax.core.freeze(named("stem", "head")), "head, stem"),
        (nnx_params(), "head, stem"),
        (named(*(f"{letter}" for letter in "abcdefgh")), r"\(a, b, c, d, e, f, \.\.\.\)"),
    ],
)
def test_guesses_are_refused(tree, told):
    with pytest.raises(ValueError, match=rf"^order: expected the names of the layers.*{told}") as error:
        layers_by_depth(tree)
    assert "pass order=layer_order(apply, params, state, images), from rare_gems.models.layer_order" in str(error.value)
    assert "\n" not in str(error.value)


def test_names_decide():
    tree = named("stem", "block1", "block2")
    order = ["stem/kernel", "block1/kernel", "block2/kernel"]
    assert layers_by_depth(tree, order) == [2, 0, 1]
    assert layers_by_depth([LEAF] * 3, ("2", "0", "1")) == [2, 0, 1]
    for wrong, told in [
        (order[:2], "got no 'block2/kernel'"),
        ([*order, "head/kernel"], "got a layer that is not there 'head/kernel'"),
        ([*order, order[0]], "got twice 'stem/kernel'"),
        ("stem/kernel", "got no 'block1/kernel'"),
    ]:
        with pytest.raises(ValueError, match=f"^order: expected the names of all 3 prunable layers, {told}"):
            layers_by_depth(tree, wrong)
    with pytest.raises(ValueError, match="two layers called 'a/b'"):
        layers_by_depth({"a": {"b": LEAF}, "a/b": LEAF}, ["a/b", "a/b"])


def test_ratios_in_order_or_by_name():
    tree, order = named("stem", "block"), ["stem/kernel", "block/kernel"]
    by_name = {"stem/kernel": 0.1, "block/kernel": 0.9}
    assert by_leaf(tree, [0.1, 0.9], order) == by_leaf(tree, by_name, None) == [0.9, 0.1]
    assert by_leaf(tree, [0.5, 0.5], None) == [0.5, 0.5]
    with pytest.raises(ValueError, match="order: expected"):
        by_leaf(tree, [0.1, 0.9], None)
    with pytest.raises(ValueError, match="ratios: expected one for each of 2 layers, by name; not so for block/kernel"):
        by_leaf(tree, {"stem/kernel": 0.1}, None)


MASK = {
    "block": jax.ShapeDtypeStruct((3, 3, 8, 8), bool),
    "head": LEAF,
    "stem": jax.ShapeDtypeStruct((3, 3, 3, 8), bool),
}
ORDER = ["stem", "block", "head"]


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
@pytest.mark.parametrize("exact", [True, False])
def test_counts_follow_the_order_that_is_named(version, exact):
    options = {"version": version, "exact": exact, "ends": (0.5, 0.25) if version == "v2" else None}
    listed = smart_ratio_counts([MASK[name] for name in ORDER], 0.6, **options)
    named = smart_ratio_counts(MASK, 0.6, order=ORDER, **options)
    assert [named[name] for name in ORDER] == listed
    assert named["stem"] / 216 > named["block"] / 576


TRAINING = finetune(num_epochs=1, steps_per_epoch=1, learning_rate=0.1)
TUNE = {"num_epochs": 1, "steps_per_epoch": 1}


@pytest.mark.parametrize(
    "make",
    [
        *(lambda v=v, **order: smart_ratio(MASK, sparsity=0.6, version=v, **order) for v in ("v1", "v3")),
        lambda **order: smart_ratio(MASK, sparsity=0.6, version="v2", ends=(0.5, 0.5), **order),
        *(lambda v=v, **order: smart_ratio(MASK, sparsity=0.6, version=v, ratios=[0.5, 0.4, 0.1], **TUNE, **order)
          for v in ("v4", "v5", "v6")),
        lambda **order: smart_ratio(MASK, sparsity=0.6, version="v5", ends=(0.5, 0.5), **TUNE, **order),
        lambda **order: smart_ratio_search(MASK, sparsity=0.6, version="v4", ratios=[0.5, 0.4, 0.1], **order),
        lambda **order: hybrid(MASK, sparsity=0.6, training=TRAINING, **order),
    ],
)  # fmt: skip
def test_every_method_that_knows_depth_takes_it_or_refuses(make):
    with pytest.raises(ValueError, match=r"order: .*\(block, head, stem\)"):
        make()
    assert make(order=ORDER)


def test_ratios_of_a_search_lie_in_the_layers_that_they_are_meant_for():
    ticket = masks.map_kept(lambda m: jax.numpy.zeros(m.shape), MASK, MASK)
    first = smart_ratio(MASK, sparsity=0.6, version="v5", ratios=[0.9, 0.2, 0.6], order=ORDER, **TUNE)[0].after
    start = Ticket(ticket, ticket, ticket)
    out, _ = first.update(start, first.init(start), Context(0, jax.random.key(0), None, None))
    ratios = {name: float(out.scores[name].ravel()[0]) for name in ORDER}
    assert ratios["stem"] > ratios["head"] > ratios["block"]
