"""Which of a file's tensors are the network's: names under wrappers, prefixes, averages, and what is left over."""

import re

import pytest

from rare_gems.models.torch_files import read_tensors
from rare_gems.models.torch_state_dict import find_state_dict
from rare_gems.models.torch_tensors import Stored
from tests.models.torch_golden import written

OURS = ("conv1/kernel", "bn1/scale", "bn1/bias", "bn1/mean", "bn1/var", "linear/kernel")
NAMES = ("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "fc.weight")
PATHS = dict(zip(NAMES, OURS, strict=True))


def flat(content, keys=()):
    """Dicts of dicts; what is not a dict is the number of axes of a tensor, or a tensor."""
    if isinstance(content, dict):
        found = [flat(value, (*keys, key)) for key, value in content.items()]
        return {at: tensor for each in found for at, tensor in each.items()}
    return {keys: content if isinstance(content, Stored) else Stored("float32", (2,) * content, lambda: None)}


def network(prefix="", *more):
    axes = {"conv1.weight": 4, "fc.weight": 2}
    return {prefix + name: axes.get(name, 1) for name in NAMES} | dict.fromkeys(more, 1)


def found(content, **options):
    return find_state_dict(flat(content), OURS, **options)


AVERAGED = network("module.") | {"n_averaged": 0}
OPTIMIZER = {"state": {"0": {"exp_avg": 4, "step": 0}}, "lr": 0}
RECOGNISED = {
    "plain": (network(), ""),
    "DataParallel": (network("module."), "module."),
    "compiled": (network("_orig_mod."), "_orig_mod."),
    "compiled DataParallel": ({"state_dict": network("module._orig_mod.")}, "state_dict.module._orig_mod."),
    "one module wrapped": ({name.replace("bn1", "bn1.module"): 4 for name in NAMES}, None),
    "model": ({"model": network(), "optimizer": OPTIMIZER, "epoch": 0}, "model."),
    "net in net": ({"net": {"net": network()}}, "net.net."),
    "names begin with the wrapper's": (network("state_dict."), "state_dict."),
    "backbone": (network("backbone."), "backbone."),
    "any name": ({"what": {"ever": network("it.is.")}}, "what.ever.it.is."),
    "Lightning": ({"epoch": 0, "state_dict": network("model.", "criterion.weight")}, "state_dict.model."),
    "Lightning, loss": ({"state_dict": network("net.", "loss_fn.weight", "loss.pos_weight")}, "state_dict.net."),
    "averaged": (AVERAGED, "module."),
    "ema": ({"ema": network(), "updates": 0}, "ema."),
    "model_ema": ({"model_ema": AVERAGED}, "model_ema.module."),
    "ema_state_dict": ({"ema_state_dict": network()}, "ema_state_dict."),
    "state_dict_ema": ({"epoch": 0, "state_dict_ema": network()}, "state_dict_ema."),
    "profiler": (network("", "total_ops", "total_params", "bn1.total_ops", "bn1.total_params"), ""),
    "counters": (network("", "bn1.num_batches_tracked", "AuxLogits.conv0.conv.weight"), ""),
    "both": ({"model": network(), "model_ema": AVERAGED}, "model."),
    "both, the average first": ({"model_ema": AVERAGED, "model": network()}, "model."),
    "both in one dict": (network("net.") | network("ema_model."), "net."),
    "one within the other": (network() | network("ema.module."), ""),
    "an average of the weights alone": (network("net.") | {"ema.conv1.weight": 4, "ema.fc.weight": 2}, "net."),
    "the best beside the last": ({"state_dict": network(), "best": network()}, "state_dict."),
}  # fmt: skip


@pytest.mark.parametrize("name", RECOGNISED)
def test_recognised(name):
    content, prefix = RECOGNISED[name]
    it = found(content)
    assert it.unexpected == []
    if prefix is None:
        assert sorted(it.paths.values()) == sorted(OURS)
    else:
        assert it.paths == {prefix + name: path for name, path in PATHS.items()}
    assert it.paths.keys() <= it.tensors.keys()


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("plain", []),
        ("model", []),
        ("counters", []),
        ("averaged", []),
        ("Lightning", ["left out: state_dict.criterion.weight (of a profiler or a loss)"]),
        ("ema", ["the weights are the averaged ones under 'ema.'"]),
        ("both", ["the weights are those under 'model.', not those under 'model_ema.'"]),
        ("both in one dict", ["the weights are those under 'net.', not those under 'ema_model.'"]),
        ("the best beside the last", ["the weights are those under 'state_dict.', not those under 'best.'"]),
        ("an average of the weights alone", ["left out: ema.conv1.weight, ema.fc.weight (averages)"]),
    ],
)
def test_what_is_told(name, notes):
    assert found(RECOGNISED[name][0]).notes == notes


def test_the_averaged_model_of_torch(tmp_path):
    it = find_state_dict(read_tensors(written(tmp_path, "averaged")), ["linear1/kernel", "linear1/bias"])
    assert it.paths == {"module.1.weight": "linear1/kernel", "module.1.bias": "linear1/bias"}
    assert it.unexpected == ["module.0.bias", "module.0.weight"]  # a convolution


def test_a_classifier_beside_the_backbone():
    content = {
        f"model.backbone.{name}" if "fc" not in name else f"model.{name}": axes for name, axes in network().items()
    }
    it = found({"state_dict": content})
    assert sorted(it.paths.values()) == sorted(OURS)
    assert it.unexpected == []
    parts = {"encoder": {n: a for n, a in network().items() if "fc" not in n}, "fc": {"weight": 2}}
    assert sorted(found(parts).paths.values()) == sorted(OURS)


def test_only_what_the_backbone_lacks_is_looked_for_beside_it():
    it = found(network("backbone.") | {"fc.weight": 2, "conv1.weight": 4})
    assert "backbone.fc.weight" in it.paths
    assert it.unexpected == ["conv1.weight", "fc.weight"]


@pytest.mark.parametrize(
    ("content", "unexpected"),
    [
        (network("", "odd"), ["odd"]),
        (network("net.", "head.weight", "criterion2.weight"), ["criterion2.weight", "head.weight"]),
        (network("net.", "global_avg.weight"), ["global_avg.weight"]),  # no average of anything
        ({"state_dict": network("", "odd"), "more": {"even": 1}}, ["state_dict.odd"]),
        (network() | network("teacher."), sorted("teacher." + name for name in NAMES)),
        (network() | {"module.fc.weight": 2}, ["module.fc.weight"]),  # two for one place
        ({"what": 1, "ever": {"it": 2}}, ["ever.it", "what"]),  # another network
    ],
)
def test_what_is_left_over_is_named(content, unexpected):
    assert found(content).unexpected == unexpected


def test_two_networks_are_refused_until_one_is_left_out():
    both = {"student": network(), "teacher": network("module.")}
    with pytest.raises(
        ValueError, match=r"expected one network, got 2, under 'student\.' and 'teacher\.'; try allow_un"
    ):
        found(both)
    assert set(found(both, allow_unexpected=re.compile("^student")).paths) == {f"teacher.module.{n}" for n in NAMES}
    plain_too = {"state_dict": network(), "state_dict_ema": network()}  # so an average can be had
    assert set(found(plain_too, allow_unexpected=re.compile(r"^state_dict\.")).paths) == {
        f"state_dict_ema.{name}" for name in NAMES
    }


def test_weights_in_parts_have_the_name_of_the_whole():
    content = network("net.")
    del content["net.conv1.weight"], content["net.fc.weight"]
    content |= {"net.module.conv1.weight_orig": 4, "net.module.conv1.weight_mask": 4}
    content |= {"net.fc.parametrizations.weight.original0": 2, "net.fc.parametrizations.weight.original1": 2}
    it = found({"model": content})
    assert it.unexpected == []
    assert set(it.masks) == {"model.net.module.conv1.weight"}
    assert it.paths["model.net.fc.weight"] == "linear/kernel"
    assert it.notes == ["weight norm is worked into model.net.fc.weight"]
