"""A command line read flag by flag says what it says when it is read as a whole."""

import dataclasses

import pytest
import tyro

from experiments.config.config import Config
from experiments.config.parse import config_type, default_config, parse
from experiments.terminal.errors import UsageError


@pytest.mark.parametrize(
    "flags",
    [
        ["--epochs", "9", "--sparsity=0.9", "--epochs=7", "--dense=^a", "--data-dir", "b/c", "--compare"],
        ["--gem-miner.no-freeze", "--gem_miner.l2=1e-3", "--gem-miner.scope", "layer", "--gem-miner.period=1"],
        ["--network.width=0.5", "--network.affine", "--network.no-bias", "--network.shortcut=None"],
        ["--training.optimizer=adam", "--finetune.milestones=3,4", "--finetune.warmup-epochs", "2", "--data-seed=None"],
        ["--pruner=imp", "--imp.rewind-step=4", "--imp.rounds=2", "--model=resnet32", "--no-scale-fan", "--run-dir=-x"],
    ],
)
def test_flag_by_flag_is_as_a_whole(flags):
    default = default_config("cifar10", flags)
    kind = config_type(default.pruner)
    whole = tyro.cli(kind, args=flags, default=kind(**vars(default)))
    config, sources = parse("cifar10", flags, all_used=False)
    for field in dataclasses.fields(Config):
        assert getattr(config, field.name) == getattr(whole, field.name), field.name
    typed = {flag.split("=")[0] for flag in flags if flag.startswith("--")}
    assert list(sources.values()).count("command line") == len(typed)


@pytest.mark.parametrize("flags", [["9"], ["--epochs=9", "8"], ["--epochs", "9", "8"], ["--epochs", "nine"]])
def test_what_cannot_be_read_is_named(flags):
    with pytest.raises(UsageError, match=flags[-1]):
        parse("cifar10", flags)


@pytest.mark.parametrize(
    ("dataset", "flags", "pruner"),
    [
        ("cifar10", [], "gem_miner"),
        ("cifar10", ["--model=lenet_300_100"], "gem_miner_auto"),
        ("tiny_imagenet", ["--model=resnet18"], "gem_miner"),
        ("tiny_imagenet", [], "gem_miner_auto"),
        ("digits", [], "gem_miner_auto"),  # its settings for digits are ours, not the paper's
        ("digits", ["--gem-miner.l2=0"], "gem_miner"),
        ("cifar10", ["--rigl.every=10", "--model=resnet20"], "rigl"),
        ("digits", ["--dense=conv1", "--network.width=0.5"], "gem_miner_auto"),  # a flag that is named as a method
    ],
)
def test_the_method_where_none_is_named(dataset, flags, pruner):
    config, sources = parse(dataset, flags)
    assert config.pruner == pruner
    assert sources["pruner"].startswith("default: ")
    named, told = parse(dataset, [*flags, f"--pruner={pruner}"])
    assert (config, sources) == (named, told | {"pruner": sources["pruner"]})
