"""--model: every network by name, those of a user's own in Linen, Haiku and Equinox, and what is refused."""

import json
import re
from pathlib import Path
from typing import get_args

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.catalog import networks
from experiments.commands.program import run
from experiments.config.config import Config
from experiments.config.parse import ModelName, parse
from experiments.problem import network
from experiments.problem.network import forward_flop, network_for
from experiments.terminal.errors import UsageError
from rare_gems import masks
from rare_gems.models.layers import Conv
from rare_gems.models.model import from_module
from rare_gems.storage import ticket_file

README = Path(__file__).parents[3] / "experiments" / "README.md"
SHORT = [
    "--init=model", "--sparsity=0.8", "--epochs=2", "--finetune-epochs=1", "--gem-miner.period=1", "--batch-size=25",
    "--train-examples=100",
]  # fmt: skip
# Prunable weights for CIFAR-10 (32x32x3, 10 classes), where the papers' codes or hand counts give them.
PRUNABLE = {
    "resnet20": 268_336, "resnet32": 461_872, "resnet18": 11_164_352, "vgg16": 14_715_584, "vgg19": 20_024_000,
    "mobilenet_v2": 2_261_824, "wide_resnet28_2": 1_463_984, "conv2": 4_300_992, "conv4": 2_425_024,
    "conv6": 2_261_184, "lenet_300_100": 3072 * 300 + 300 * 100 + 100 * 10,
}  # fmt: skip


def _config(*flags, dataset="cifar10"):
    return parse(dataset, list(flags))[0]


def test_every_name_is_a_network():
    assert tuple(networks.NETWORKS) == get_args(ModelName)
    assert {name for name in networks.NETWORKS if networks.defaults_of(name).bias} == {
        "lenet_300_100", "lenet_5", "squeezenet"
    }  # fmt: skip


@pytest.mark.parametrize("name", PRUNABLE)
def test_prunable_counts_on_cifar10(name):
    model = network_for(Config("cifar10", model=name, network=networks.defaults_of(name)), (32, 32, 3), 10)
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    assert masks.num_prunable(jax.eval_shape(masks.ones, params)) == PRUNABLE[name]


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        (
            [
                "--model=resnet32",
                "--network.width=2",
                "--network.shortcut=B",
                "--network.no-affine",
                "--network.no-bias",
            ],
            1_855_584,
        ),
        (["--model=resnet18", "--network.stem=imagenet"], 11_164_352 + 3 * 64 * (49 - 9)),
        (["--model=resnet20", "--network.affine", "--network.bias"], 268_336),
    ],
)
def test_options_reach_the_network(flags, count):
    config = _config(*flags)
    params, _ = jax.eval_shape(network_for(config, (32, 32, 3), 10).init, jax.random.key(0))
    assert masks.num_prunable(jax.eval_shape(masks.ones, params)) == count
    names = {str(path[-1].key) for path, _ in jax.tree.leaves_with_path(params)}
    assert names == ({"kernel", "scale", "bias"} if config.network.affine else {"kernel"})


def test_the_stem_follows_the_images(monkeypatch):
    monkeypatch.setattr(network, "_checked", lambda name, model, *_, **__: model)  # by other tests
    config = _config("--model=resnet50")
    for side, classes, count in [(32, 10, None), (64, 200, 23_864_512), (224, 1000, 25_502_912), (224, 101, None)]:
        params, _ = jax.eval_shape(network_for(config, (side, side, 3), classes).init, jax.random.key(0))
        assert params["conv1"]["kernel"].shape == ((3, 3, 3, 64) if side == 32 else (7, 7, 3, 64))
        if count is not None:
            assert masks.num_prunable(jax.eval_shape(masks.ones, params)) == count


def test_grey_images_get_three_channels_but_for_the_lenets():
    shapes = {name: networks.input_shape(name, (28, 28, 1)) for name in networks.NETWORKS}
    assert {name for name, shape in shapes.items() if shape == (28, 28, 1)} == {"lenet_300_100", "lenet_5"}
    assert set(shapes.values()) == {(28, 28, 1), (28, 28, 3)}
    assert networks.input_shape("resnet20", (32, 32, 3)) == (32, 32, 3)


@pytest.fixture
def my_networks(tmp_path, monkeypatch):
    """The README's file, in the working directory."""
    text = README.read_text()
    (code,) = re.findall(r"<!-- file: my_networks.py -->\n```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "my_networks.py").write_text(code)
    (tmp_path / "bad_networks.py").write_text(BAD)
    (tmp_path / "broken_module.py").write_text("def")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    import sys

    for name in ("my_networks", "bad_networks", "broken_module"):
        sys.modules.pop(name, None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


BAD = """
import sys
from types import SimpleNamespace
import jax.numpy as jnp
net = lambda init, apply: (lambda image_shape, num_classes: SimpleNamespace(init=init, apply=apply))
weights = lambda key: ({"w": jnp.zeros((64, 10))}, {"count": jnp.zeros(())})
logits = lambda p, x: x.reshape(len(x), -1) @ p["w"]
five = net(weights, lambda p, s, x, train: (logits(p, x)[:, :5], s))
alone = net(weights, lambda p, s, x, train: logits(p, x)[:1])
forgets = net(weights, lambda p, s, x, train: (logits(p, x), {}))
quits = lambda image_shape, num_classes: sys.exit(4)
"""


@pytest.mark.parametrize("framework", ["linen", "haiku", "equinox"])
def test_networks_of_other_frameworks(framework, my_networks):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # their own layers promote
        _finds_a_ticket(framework, my_networks)


def _finds_a_ticket(framework, my_networks):
    folder = my_networks / "run"
    assert run("digits", [f"--model=my_networks:{framework}", *SHORT, f"--run-dir={folder}"]) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["num_prunable"], summary["num_kept"]) == (64 * 100 + 100 * 10, 1480)
    file = ticket_file.load(folder / "ticket.safetensors")
    kept = jax.tree.map(lambda m, w: None if m is None else np.count_nonzero(w), file.ticket.mask, file.ticket.params,
                        is_leaf=lambda leaf: leaf is None)  # fmt: skip
    assert sum(jax.tree.leaves(kept)) == 1480
    assert run("digits", [f"--model=my_networks:{framework}", *SHORT, f"--run-dir={folder}"]) == 0  # it is finished


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--model=resnet21", "expected one of resnet20.*or module:function of your own, got 'resnet21'"),
        ("--model=nowhere:net", "No module named 'nowhere'"),
        ("--model=my_networks:mlp", "the module my_networks has no 'mlp'"),
        ("--model=my_networks:MLP", r"my_networks:MLP\(image_shape, num_classes\) failed: TypeError"),
        ("--model=builtins:max", r"builtins:max\(image_shape, num_classes\) failed"),
        ("--model=builtins:divmod", "divmod"),
        ("--model=:net", "or module:function of your own, got ':net'"),
        ("--model=bad_networks:five", r"bad_networks:five, for images of 8x8x1: expected logits of shape \(2, 10\)"),
        ("--model=bad_networks:alone", "bad_networks:alone, for images of 8x8x1: TypeError: cannot unpack"),
        ("--model=bad_networks:forgets", "expected apply to return a state like the one it was given"),
        ("--model=bad_networks:quits", r"bad_networks:quits\(image_shape, num_classes\) failed: SystemExit"),
        ("--model=broken_module:net", "importing broken_module failed: SyntaxError"),
        ("--model=operator:is_", r"operator:is_: expected something with init\(key\) .* got bool"),
    ],
)
def test_what_is_no_network_is_refused(flag, message, my_networks):
    with pytest.raises(UsageError, match=message):
        network_for(_config(flag, dataset="digits"), (8, 8, 1), 10)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--network.stem=cifar"], "--network.stem: resnet20 has no such option; it takes --network.bias, --net"),
        (["--model=conv4", "--network.affine"], "--network.affine: conv4 has no such option"),
        (["--network.width=-1"], r"--network.width: expected a number in \(0, 100\], got -1"),
        (["--model=a:b", "--network.bias"], "it takes none of them"),
    ],
)
def test_options_that_a_network_does_not_take_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        network_for(_config(*flags), (32, 32, 3), 10)


@pytest.mark.parametrize(
    ("flags", "shape", "message"),
    [
        (["--model=vgg16"], (8, 8, 3), "--model: vgg16, for images of 8x8x3: .*expected 32 x 32"),
        (["--model=lenet_5"], (8, 8, 1), "--model: lenet_5: image_size: expected 16 or more"),
        (["--network.width=inf"], (8, 8, 3), r"--network.width: expected a number in \(0, 100\], got inf"),
    ],
)
def test_networks_that_do_not_fit_the_images(flags, shape, message):
    with pytest.raises(UsageError, match=message):
        network_for(_config(*flags), shape, 10)


def test_forward_flop_counts_the_products_of_each_convolution_once():
    class Net(nnx.Module):
        def __init__(self):
            self.conv = Conv(4, 8, 3, padding=1)  # on CPU computed in pairs of columns, with a third more products

        def __call__(self, x, train):
            del train
            return self.conv(x)

    inside = 3 * 6 - 2  # window positions of a row of six pixels that lie in the image
    assert forward_flop(from_module(Net), (6, 6, 4)) == 2 * inside**2 * 4 * 8
