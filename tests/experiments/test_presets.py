"""Presets against the tables of the paper, copied here by hand."""

from typing import get_args

import pytest

from experiments import presets
from experiments.command_line import parse
from experiments.config import Pruner

# sparsity: period, learning rate, lambda, epochs, finetuning rate (Rare Gems v1, Tables 8 and 15)
RESNET20 = {
    0.5: (8, 0.05, 1e-8, 150, 0.1),
    0.8626: (5, 0.1, 1e-5, 150, 0.01),
    0.9628: (5, 0.1, 3e-5, 150, 0.01),
    0.9856: (5, 0.1, 1e-4, 150, 0.01),
    0.9941: (5, 0.1, 1e-4, 150, 0.01),
}


@pytest.mark.parametrize("sparsity", RESNET20)
def test_resnet20_on_cifar10(sparsity):
    config, sources = parse("cifar10", ["--pruner=gem_miner", f"--sparsity={sparsity}"])
    got = (config.gem_miner.period, config.learning_rate, config.gem_miner.l2, config.epochs)
    assert (*got, config.finetune_learning_rate) == RESNET20[sparsity]
    assert (config.finetune_epochs, config.batch_size, config.momentum, config.weight_decay) == (150, 128, 0.9, 1e-4)
    assert config.init == "signed_constant"
    assert config.gem_miner.finetune_mask == "frozen"
    assert sources["gem_miner.l2"].startswith("Rare Gems v1, Table 8")
    assert sources["sparsity"] == "command line"
    assert sources["run_dir"] == "default"


def test_between_two_rows_the_nearest_is_taken_and_named():
    near = presets.lookup("gem_miner", "resnet20", "cifar10", 0.98)
    assert near.values["gem_miner.l2"] == 1e-4
    assert near.sources["gem_miner.l2"].endswith("row of sparsity 0.9856")


def test_elsewhere_the_source_says_so():
    _, sources = parse("cifar10", ["--model=lenet_300_100"])
    assert sources["learning_rate"] == "our choice: the papers are silent; as ResNet-20 on CIFAR-10"


def test_flags_override():
    config, sources = parse("cifar10", ["--gem-miner.l2=0", "--gem-miner.period=10", "--gem-miner.norm=l1"])
    assert (config.gem_miner.l2, config.gem_miner.period, config.gem_miner.norm) == (0, 10, "l1")
    assert sources["gem_miner.l2"] == sources["gem_miner.norm"] == "command line"


@pytest.mark.parametrize("pruner", get_args(Pruner))
@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_every_pair_has_a_source_for_every_hyper_parameter(pruner, dataset):
    _, sources = parse(dataset, [f"--pruner={pruner}"])
    for field in ("init", "batch_size", "epochs", "finetune_epochs", "finetune_learning_rate", "momentum"):
        assert sources[field] not in ("default", "command line"), field
