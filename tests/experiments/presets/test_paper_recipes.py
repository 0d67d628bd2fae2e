"""How the papers train weights, copied here by hand; their variants; what follows from another length."""

import pytest

from experiments.commands.program import run
from experiments.config.parse import parse
from experiments.problem.training import check_training, spelled

# pruner, network, data set: what the finetuning is, and the search where weights train in it (None: the same)
STATED = {
    ("imp", "lenet_300_100", "mnist"): ("Adam, rate 0.0012, constant; weight decay 0", None),
    ("imp", "resnet50", "imagenet"): (
        "SGD, momentum 0.9, rate 0.4, times 0.1 from epochs 30, 60 and 80, from 0 in 5 epochs; weight decay 0.0001",
        None,
    ),
    ("imp", "squeezenet", "imagenet"): (
        "SGD with Nesterov's momentum, momentum 0.9, rate 0.03, linear to 0.005; weight decay 0.0002",
        None,
    ),
    ("dense", "inception_v3", "imagenet"): (
        "RMSprop, momentum 0.9, epsilon 1, rate 0.66, exponential to 6.6e-05; weight decay 4e-05",
        None,
    ),
    ("gem_miner", "resnet50", "caltech101"): (
        "Adam, rate 0.0001, times 0.1 from epochs 20 and 40; weight decay 0.0001",
        None,
    ),
    ("imp", "resnet50", "caltech101"): ("Adam, rate 0.0001, times 0.1 from epochs 25 and 33; weight decay 0", None),
    ("edge_popup", "resnet20", "cifar10"): ("SGD, momentum 0.9, rate 0.1, cosine to 0; weight decay 0.0001", None),
    ("edge_popup", "mobilenet_v2", "cifar10"): (
        "SGD, momentum 0.9, rate 0.01, times 0.1 from epochs 150 and 250; weight decay 0.0001",
        None,
    ),
    ("smart_ratio", "resnet18", "cifar10"): ("Adam, rate 0.001, cosine to 0; weight decay 0.0005", None),
    ("dense", "resnet18", "tiny_imagenet"): (
        "Adam, rate 0.001, times 0.1 from epochs 100 and 150; weight decay 0.0001",
        None,
    ),
    ("imp", "resnet18", "tiny_imagenet"): (
        "SGD, momentum 0.9, rate 0.2, times 0.1 from epochs 100 and 150; weight decay 0.0001",
        None,
    ),
    ("lrr", "resnet50", "tiny_imagenet"): (
        "SGD with Nesterov's momentum, momentum 0.9, rate 0.1, times 0.1 from epochs 80 and 120; weight decay 0.0005",
        None,
    ),
    ("dense", "conv4", "cifar10"): ("SGD, momentum 0.9, rate 0.01, cosine to 0; weight decay 0.0001", None),
    ("rigl", "resnet20", "cifar10"): (
        "SGD, momentum 0.9, rate 0.01, times 0.1 from epochs 20 and 26; weight decay 0.0001",
        "SGD, momentum 0.9, rate 0.1, times 0.1 from epochs 80 and 120; weight decay 0.0001",
    ),
}


@pytest.mark.parametrize("named", STATED, ids="-".join)
def test_weights_train_as_the_paper_says(named):
    pruner, model, dataset = named
    sparsity = [] if pruner == "dense" else ["--sparsity=0.9"]
    config, sources = parse(dataset, [f"--pruner={pruner}", f"--model={model}", *sparsity])
    finetuning, search = STATED[named]
    assert spelled(config, "finetune") == finetuning
    if config.method.trains == "weights" and pruner != "dense":
        assert spelled(config, "training") == (search or finetuning)
    for group in ("training", "finetune"):
        for field, value in vars(getattr(config, group)).items():
            assert value is None or sources[f"{group}.{field}"].startswith(("Stabilizing", "Rare Gems", "code", "ref"))


def test_jackpots_are_tuned_along_a_cosine():
    flags = ["--pruner=jackpot", "--model=resnet32", "--sparsity=0.9", "--pretrained=dense", "--finetune-epochs=10"]
    config, _ = parse("cifar10", flags)
    assert spelled(config, "finetune") == "SGD, momentum 0.9, rate 0.01, cosine to 0; weight decay 0"
    digits, _ = parse("digits", ["--pruner=jackpot", "--pretrained=dense", "--finetune-epochs=30"])  # our own recipe
    assert "rate 0.1, times 0.1 from epochs 15 and 20; " in spelled(digits, "finetune")


@pytest.mark.parametrize(
    ("model", "variant", "words", "rewound"),
    [
        ("resnet20", "standard", "0.1, times 0.1 from epochs 57 and 71", 500),
        ("resnet20", "low", "0.01, times 0.1 from epochs 57 and 71", 500),
        ("resnet20", "warmup", "0.03, times 0.1 from epochs 57 and 71, from 0 in 57 epochs", 500),
        ("vgg19", "standard", "0.1, times 0.1 from epochs 80 and 120", 100),
        ("vgg19", "low", "0.01, times 0.1 from epochs 80 and 120", 100),
        ("vgg19", "warmup", "0.1, times 0.1 from epochs 80 and 120, from 0 in 14 epochs", 100),
    ],
)
def test_the_three_ways_of_stabilizing(model, variant, words, rewound):
    flags = [f"--model={model}", f"--variant=stabilizing-{variant}"]
    config, sources = parse("cifar10", ["--pruner=imp", "--sparsity=0.833", *flags])
    assert spelled(config, "training") == f"SGD, momentum 0.9, rate {words}; weight decay 0.0001"
    assert spelled(config, "finetune") == spelled(config, "training")
    assert (config.options.rewind_step, config.options.rewind_batch_norm) == (rewound, True)
    assert config.network.affine
    assert "Stabilizing, Figure 2" in sources["training.milestones"]
    steps = -(-45_000 // config.batch_size) * config.finetune_epochs
    assert abs(steps - {"resnet20": 30_000, "vgg19": 112_000}[model]) < 1000
    for pruner in ("dense", "snip", "random"):  # it is how weights train, and takes nothing from other methods
        other, _ = parse("cifar10", [f"--pruner={pruner}", *flags])
        assert spelled(other, "finetune") == spelled(config, "finetune")


@pytest.mark.parametrize("pruner", ["lrr", "hybrid", "lottery_ticket", "rigl", "gem_miner"])
def test_a_search_of_another_length_takes_no_variant(pruner, capsys):
    """Its rounds of 160 epochs fell at epochs 57 and 71, and scores had the rate of weights."""
    assert run("cifar10", [f"--pruner={pruner}", "--model=resnet20", "--variant=stabilizing-low"]) == 2
    told = f"--variant: expected none for {pruner}, whose search is another paper's; it is for dense, imp and methods"
    assert f"{told} without a search, got 'stabilizing-low'" in capsys.readouterr().err


def test_an_unknown_variant_is_told_the_known(capsys):
    assert run("cifar10", ["--model=vgg19", "--variant=slow"]) == 2
    known = "--variant: expected one of stabilizing-standard, stabilizing-low, stabilizing-warmup for vgg19 on cifar10"
    assert known in capsys.readouterr().err
    assert run("digits", ["--variant=stabilizing-low"]) == 2
    assert "--variant: expected none for resnet20 on digits, got 'stabilizing-low'" in capsys.readouterr().err


def test_milestones_and_warm_up_of_a_preset_go_with_the_length():
    imp = ["--pruner=imp", "--model=resnet50", "--sparsity=0.7"]
    config, sources = parse("imagenet", [*imp, "--imp.round-epochs=18", "--finetune-epochs=9", "--imp.rewind-step=0"])
    assert (config.training.milestones, config.training.warmup_epochs) == ("6,12,16", 1)
    assert (config.finetune.milestones, config.finetune.warmup_epochs) == ("3,6,8", None)  # the search's, of 1
    assert sources["training.milestones"] == "Stabilizing, Figure 6; scaled from 90 to 18 epochs"
    assert sources["finetune.milestones"] == "Stabilizing, Figure 6; scaled from 90 to 9 epochs"
    config, _ = parse("imagenet", [*imp, "--finetune-epochs=9", "--finetune.milestones=2", "--finetune.warmup-steps=3"])
    assert (config.training.milestones, config.finetune.milestones) == ("30,60,80", "2")
    assert (config.finetune.warmup_epochs, config.finetune.warmup_steps) == (None, 3)
    dense = ["--pruner=dense", "--model=resnet50", "--finetune-epochs=1"]
    config, _ = parse("imagenet", dense)  # no milestone is left
    assert (config.training.milestones, config.training.warmup_epochs) == ("", 0)
    config, sources = parse("imagenet", [*dense, "--training.schedule=cosine"])  # nor asked for
    assert spelled(config, "finetune").startswith("SGD, momentum 0.9, rate 0.4, cosine to 0; ")
    gem, _ = parse("caltech101", ["--model=resnet50", "--finetune-epochs=10", "--sparsity=0.95"])
    assert (gem.finetune.milestones, gem.training.milestones) == ("4,8", None)


@pytest.mark.parametrize("model", ["resnet50", "squeezenet", "inception_v3"])
def test_however_short_it_can_be_trained(model):
    for epochs in (1, 2, 5):
        config, _ = parse("imagenet", ["--pruner=dense", f"--model={model}", f"--finetune-epochs={epochs}"])
        check_training(config, "finetune", steps_per_epoch=1)
