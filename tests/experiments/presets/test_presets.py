"""Presets against the tables of the papers, copied here by hand."""

import dataclasses

import pytest

from experiments.catalog.datasets import DATASETS
from experiments.catalog.networks import NETWORKS, defaults_of
from experiments.catalog.pruners.table import PRUNERS
from experiments.catalog.training import GROUPS, TrainingOptions
from experiments.config.config import Config
from experiments.config.parse import _replace, parse
from experiments.presets import lookup
from experiments.presets.rows import WITHOUT_SEARCH

# sparsity: period, learning rate, lambda, epochs, finetuning rate (Rare Gems v1, Tables 8 and 15)
RESNET20 = {
    0.5: (8, 0.05, 1e-8, 150, 0.1),
    0.8626: (5, 0.1, 1e-5, 150, 0.01),
    0.9628: (5, 0.1, 3e-5, 150, 0.01),
    0.9856: (5, 0.1, 1e-4, 150, 0.01),
    0.9941: (5, 0.1, 1e-4, 150, 0.01),
}
# The same, with the optimizer second, of Tables 9 to 14; and epochs, batch size, finetuning rates of Table 15.
GEM_MINER = {
    ("mobilenet_v2", "cifar10"): (
        {0.5: (5, "sgd", 0.05, 0), 0.8: (5, "sgd", 0.1, 3e-6), 0.95: (5, "sgd", 0.1, 7e-6),
         0.9856: (5, "sgd", 0.1, 1e-4)}, (300, 128, 0.1, 0.1)
    ),
    ("vgg16", "cifar10"): (
        {0.5: (5, "sgd", 0.01, 0), 0.95: (5, "sgd", 0.01, 1e-6), 0.975: (5, "sgd", 0.01, 1e-6),
         0.986: (5, "sgd", 0.01, 1e-6), 0.995: (5, "sgd", 0.01, 1e-6)}, (200, 128, 0.05, 0.05)
    ),
    ("wide_resnet28_2", "cifar10"): (
        {0.5: (5, "sgd", 0.1, 0), 0.8: (10, "sgd", 0.1, 1e-5), 0.95: (10, "sgd", 0.1, 1e-5),
         0.9856: (10, "sgd", 0.1, 1e-5), 0.995: (10, "sgd", 0.1, 1e-5)}, (150, 128, 0.1, 0.01)
    ),
    ("resnet18", "tiny_imagenet"): (
        {0.5: (10, "sgd", 0.1, 0), 0.95: (5, "sgd", 0.001, 8e-6), 0.986: (5, "sgd", 0.001, 5e-6),
         0.995: (5, "sgd", 0.001, 1e-5)}, (200, 256, 0.1, 0.1)
    ),
    ("resnet50", "tiny_imagenet"): (
        {0.5: (5, "adam", 0.01, 0), 0.95: (5, "adam", 0.01, 1e-6), 0.986: (5, "adam", 0.01, 1e-6),
         0.995: (5, "adam", 0.01, 1e-6)}, (150, 256, 0.1, 0.1)
    ),
    ("resnet50", "caltech101"): (
        {0.5: (5, "adam", 0.01, 0), 0.95: (5, "adam", 0.01, 1e-6), 0.986: (5, "adam", 0.01, 1e-6),
         0.995: (5, "adam", 0.01, 1e-6)}, (50, 16, 1e-4, 1e-4)
    ),
}  # fmt: skip

RARE_GEMS = ("gem_miner", "dense", "edge_popup", "imp", "lrr", "smart_ratio", "random")
SANITY = ("dense", "smart_ratio", "lottery_ticket", "snip", "grasp", "lrr", "hybrid")
# What the papers report, apart from ResNet-20 on CIFAR-10: (network, data set) -> pruners.
REPORTED = {
    **dict.fromkeys(GEM_MINER, RARE_GEMS),
    ("resnet18", "cifar10"): RARE_GEMS,
    ("mobilenet_v2", "tiny_imagenet"): RARE_GEMS,
    ("vgg19", "cifar10"): (*SANITY, "jackpot", "imp"),
    ("resnet32", "cifar10"): (*SANITY, "jackpot"),
    ("vgg19", "cifar100"): (*SANITY, "jackpot"),
    ("resnet32", "cifar100"): (*SANITY, "jackpot", "gem_miner", "imp", "edge_popup", "random"),
    ("vgg19", "tiny_imagenet"): SANITY,
    ("resnet32", "tiny_imagenet"): SANITY,
    ("resnet50", "imagenet"): ("dense", "imp", "jackpot", "edge_popup"),
    ("squeezenet", "imagenet"): ("dense", "imp"),
    ("inception_v3", "imagenet"): ("dense", "imp"),
    ("lenet_300_100", "mnist"): ("dense", "imp"),
    ("conv2", "cifar10"): ("dense", "edge_popup"),
    ("conv4", "cifar10"): ("dense", "edge_popup"),
    ("conv6", "cifar10"): ("dense", "edge_popup"),
}
# Pruners of them whose length and batch size no paper or code gives.
OURS = {
    ("imp", "resnet18", "cifar10"),
    ("lrr", "resnet18", "cifar10"),
    ("smart_ratio", "resnet18", "cifar10"),
    ("edge_popup", "resnet50", "tiny_imagenet"),
    ("smart_ratio", "resnet50", "caltech101"),
    ("edge_popup", "resnet32", "cifar100"),
}
PAPERS = ("Rare Gems", "Sanity-Checking Pruning", "Lottery Jackpots", "Stabilizing", "OpenLTH", "Hidden Networks")


def config_of(pruner, model, dataset, sparsity):
    """The configuration as the command line makes it, without reading one."""
    preset = lookup.lookup(pruner, model, dataset, sparsity)
    network = defaults_of(model)
    named = Config(dataset, pruner=pruner, model=model, sparsity=sparsity, network=network)
    return _replace(named, preset.values), preset


@pytest.mark.parametrize("sparsity", RESNET20)
def test_resnet20_on_cifar10(sparsity):
    config, preset = config_of("gem_miner", "resnet20", "cifar10", sparsity)
    got = (config.options.period, config.learning_rate, config.options.l2, config.epochs)
    assert (*got, config.finetune_learning_rate) == RESNET20[sparsity]
    assert (config.finetune_epochs, config.batch_size, config.momentum, config.weight_decay) == (150, 128, 0.9, 1e-4)
    assert config.init == "signed_constant"
    assert config.options.finetune_mask == "frozen"
    assert preset.sources["gem_miner.l2"].startswith("Rare Gems v1, Table 8")


def test_the_command_line_has_the_preset_and_its_sources():
    config, sources = parse("cifar10", ["--pruner=gem_miner", "--model=wide_resnet28_2", "--sparsity=0.95"])
    assert (config.options.period, config.options.l2, config.finetune_learning_rate) == (10, 1e-5, 0.01)
    assert sources["gem_miner.l2"].startswith("Rare Gems v1, Table 11")
    assert sources["sparsity"] == "command line"
    assert sources["run_dir"] == "default"


@pytest.mark.parametrize("pair", GEM_MINER)
def test_gem_miner_has_the_tables(pair):
    rows, (epochs, batch_size, dense_rate, sparse_rate) = GEM_MINER[pair]
    assert set(lookup.TABLES["gem_miner", *pair]) == set(rows)
    for sparsity, expected in rows.items():
        config, preset = config_of("gem_miner", *pair, sparsity)
        search = config.options
        assert (search.period, search.optimizer, config.learning_rate, search.l2) == expected
        assert (config.epochs, config.finetune_epochs, config.batch_size) == (epochs, epochs, batch_size)
        assert config.finetune_learning_rate == (dense_rate if sparsity == 0.5 else sparse_rate)
        assert config.init == "signed_constant"
        assert preset.sources["gem_miner.l2"].startswith("Rare Gems v1, Table ")
        assert preset.sources["finetune_learning_rate"].startswith("Rare Gems v1, Table 15")


@pytest.mark.parametrize("pair", REPORTED, ids="-".join)
def test_what_a_paper_reports_has_a_row_whose_sources_name_one(pair):
    for pruner in REPORTED[pair]:
        assert (pruner, *pair) in lookup.TABLES, pruner
        if pruner == "random":  # ours everywhere; see the next test
            continue
        _, preset = config_of(pruner, *pair, 0.0 if pruner == "dense" else 0.9)
        ours = {field for field, source in preset.sources.items() if source.startswith("our choice")}
        assert {"batch_size", "finetune_epochs"} & ours == (
            {"batch_size", "finetune_epochs"} if (pruner, *pair) in OURS else set()
        ), pruner
        assert all(any(paper in preset.sources[f] for paper in PAPERS) for f in preset.sources.keys() - ours), pruner


@pytest.mark.parametrize("pair", REPORTED, ids="-".join)
def test_pruners_without_a_search_train_as_the_dense_network_of_the_pair(pair):
    dense, _ = config_of("dense", *pair, 0.0)
    for pruner in WITHOUT_SEARCH:
        if pair == ("resnet32", "cifar100") and pruner in ("random", "copied_ratios"):
            continue  # Rare Gems' network, as GEM-MINER and IMP have it there
        config, _ = config_of(pruner, *pair, 0.9)
        for field in (
            "network",
            "batch_size",
            "finetune_epochs",
            "finetune_learning_rate",
            "weight_decay",
            "image_size",
        ):
            assert getattr(config, field) == getattr(dense, field), (pruner, field)


@pytest.mark.parametrize("pair", [("resnet20", "digits"), ("resnet20", "cifar10"), *REPORTED], ids="-".join)
def test_every_pruner_resolves_on_every_pair(pair):
    model, dataset = pair
    defaults = {name: field.default for name, field in Config.__dataclass_fields__.items()}
    for pruner in PRUNERS:
        config, preset = config_of(pruner, model, dataset, 0.0 if pruner == "dense" else 0.9)
        assert preset.values.keys() == preset.sources.keys()
        # no value differs from its default without a source, and no option is another pruner's
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if field.name in ("dataset", "pruner", "model", "sparsity") or dataclasses.is_dataclass(value):
                continue
            assert value == defaults[field.name] or field.name in preset.sources, field.name
        for field in preset.values:
            group, dot, name = field.partition(".")
            if group == "network":
                assert name in (*NETWORKS[model].options, "bias"), field
            elif group in GROUPS:
                assert name in TrainingOptions.__dataclass_fields__, field
            else:
                assert not dot or group == pruner, field
        assert config.image_size is None or "image_size" in DATASETS[dataset].flags
        expected = {"init", "batch_size", "epochs", "finetune_epochs", "finetune_learning_rate", "momentum"}
        assert expected <= preset.sources.keys(), pruner
        assert all(preset.sources.values())


def test_the_vgg_rule_is_for_vgg():
    for pruner in ("smart_ratio", "hybrid"):
        for name, model, dataset in lookup.TABLES:
            if name == pruner and model != "*":
                config, _ = config_of(pruner, model, dataset, 0.9)
                assert config.options.family == ("vgg" if model.startswith("vgg") else "resnet")


@pytest.mark.parametrize(("dataset", "epochs"), [("cifar10", 160), ("cifar100", 160), ("tiny_imagenet", 300)])
@pytest.mark.parametrize("model", ["vgg19", "resnet32"])
def test_sanity_checking_pruning(model, dataset, epochs):
    for pruner in SANITY:
        config, _ = config_of(pruner, model, dataset, 0.0 if pruner == "dense" else 0.98)
        assert (config.batch_size, config.momentum, config.weight_decay) == (64, 0.9, 1e-4)
        assert (config.finetune_epochs, config.finetune_learning_rate) == (epochs, 0.1)
        assert config.epochs == (epochs if pruner in ("lottery_ticket", "hybrid") else 0)
        assert (config.network.affine, config.network.bias) == (True, True)
        expected = (2, "B") if model == "resnet32" else (1, None)
        assert (config.network.width, config.network.shortcut) == expected
    rewinding, _ = config_of("lrr", model, dataset, 0.98)
    assert (rewinding.options.rounds, rewinding.options.round_epochs, rewinding.learning_rate) == (1, epochs, 0.1)


def test_lottery_jackpots():
    for sparsity, epochs in ((0.8, 30), (0.9, 60)):
        config, _ = config_of("jackpot", "resnet50", "imagenet", sparsity)
        assert (config.epochs, config.batch_size, config.learning_rate) == (epochs, 256, 0.1)
        assert (config.options.weight_decay, config.options.dropped, config.finetune_epochs) == (1e-4, 0.99, 0)
        assert config.network == config_of("dense", "resnet50", "imagenet", 0.0)[0].network  # a run of it serves
    for model in ("vgg19", "resnet32"):
        for dataset in ("cifar10", "cifar100"):
            config, _ = config_of("jackpot", model, dataset, 0.95)
            assert (config.epochs, config.batch_size, config.options.weight_decay) == (30, 256, 5e-4)
            dense, _ = config_of("dense", model, dataset, 0.0)
            shortcut = "A" if model == "resnet32" else None
            assert config.network == dataclasses.replace(dense.network, shortcut=shortcut)


@pytest.mark.parametrize(
    ("pair", "sparsity", "length", "rewind_step", "rounds"),
    [
        (("lenet_300_100", "mnist"), 0.893, (50, 60), 0, None),
        (("vgg19", "cifar10"), 0.978, (160, 64), 100, None),
        (("resnet50", "imagenet"), 0.7, (90, 1024), 4 * 1252, 1),
        (("resnet50", "imagenet"), 0.8, (90, 1024), 6 * 1252, None),
        (("inception_v3", "imagenet"), 0.7, (171, 1024), 6 * 1252, 1),
        (("squeezenet", "imagenet"), 0.5, (150, 1024), 10 * 1252, 1),
        (("resnet20", "cifar10"), 0.9, (160, 128), 1000, None),  # Rare Gems'
    ],
)
def test_rewinding(pair, sparsity, length, rewind_step, rounds):
    config, _ = config_of("imp", *pair, sparsity)
    assert (config.options.round_epochs, config.batch_size) == (config.finetune_epochs, config.batch_size) == length
    assert (config.options.rewind_step, config.options.rounds, config.options.rate) == (rewind_step, rounds, 0.2)
    assert config.learning_rate == config.finetune_learning_rate


def test_edge_popup_of_hidden_networks():
    for model in ("conv2", "conv4", "conv6"):
        config, _ = config_of("edge_popup", model, "cifar10", 0.5)
        assert (config.epochs, config.batch_size, config.learning_rate, config.momentum) == (100, 128, 0.1, 0.9)
        assert (config.options.weight_decay, config.finetune_epochs) == (1e-4, 0)
    config, _ = config_of("edge_popup", "resnet50", "imagenet", 0.7)
    assert (config.epochs, config.batch_size, config.learning_rate, config.momentum) == (100, 256, 0.256, 0.875)
    assert config.options.weight_decay == 0.000030517578125
    assert not config.network.affine  # unlike the dense network of the pair


def test_the_code_of_rare_gems():
    # sparsity does not matter; learning rate, weight decay, batch size, epochs of a round, rewinding step
    rounds = {
        ("mobilenet_v2", "cifar10"): (0.1, 4e-5, 128, 300, 1000),
        ("vgg16", "cifar10"): (0.1, 1e-4, 128, 200, 2000),
        ("wide_resnet28_2", "cifar10"): (0.1, 1e-4, 128, 150, 2000),
        ("resnet18", "tiny_imagenet"): (0.2, 1e-4, 256, 200, 1000),
        ("resnet50", "tiny_imagenet"): (0.1, 5e-4, 256, 150, 1000),
        ("resnet50", "caltech101"): (1e-4, 0.0, 16, 50, 1000),
        ("resnet32", "cifar100"): (0.1, 1e-4, 64, 150, 1000),
    }
    for pair, expected in rounds.items():
        config, _ = config_of("imp", *pair, 0.9)
        training = (config.learning_rate, config.weight_decay, config.batch_size)
        assert (*training, config.options.round_epochs, config.options.rewind_step) == expected, pair
    config, _ = config_of("smart_ratio", "mobilenet_v2", "cifar10", 0.9)
    assert (config.finetune_learning_rate, config.weight_decay, config.finetune_epochs) == (0.01, 1e-4, 300)
    config, _ = config_of("edge_popup", "wide_resnet28_2", "cifar10", 0.9)
    assert (config.options.weight_decay, config.finetune_learning_rate, config.batch_size) == (0.0, 0.01, 128)


def test_pre_trained_caltech_replaces_the_classifier():
    for pruner in RARE_GEMS:
        config, _ = config_of(pruner, "resnet50", "caltech101", 0.9)
        assert (config.replace_classifier, config.network.affine, config.network.bias) == (True, True, True), pruner
        assert config.pretrained is None


def test_no_pruner_model_and_data_set_is_in_two_tables():
    table = {("imp", "resnet20", "cifar10"): lookup.TABLES["imp", "resnet20", "cifar10"]}
    assert lookup._merged(table, {}) == table
    with pytest.raises(ValueError, match=r"got two for \[\('imp', 'resnet20', 'cifar10'\)\]"):
        lookup._merged(table, table)


def test_between_two_rows_the_nearest_is_taken_and_named():
    near = lookup.lookup("gem_miner", "resnet20", "cifar10", 0.98)
    assert near.values["gem_miner.l2"] == 1e-4
    assert near.sources["gem_miner.l2"].endswith("row of sparsity 0.9856")
    assert near.sources["init"] == "code of Rare Gems"  # the same in all rows


def test_elsewhere_the_source_says_so():
    _, sources = parse("cifar10", ["--pruner=gem_miner", "--model=lenet_300_100"])
    assert sources["learning_rate"] == "our choice: the papers are silent; as ResNet-20 on CIFAR-10"


def test_elsewhere_the_network_is_that_of_the_dense_row():
    rigl, dense = (config_of(pruner, "resnet32", "cifar10", 0.0)[0] for pruner in ("rigl", "dense"))
    assert rigl.network == dense.network
    assert rigl.batch_size == 128
    assert config_of("rigl", "inception_v3", "imagenet", 0.9)[0].image_size == 299


@pytest.mark.parametrize("typed", [["--smart-ratio.version=v5"], ["--smart-ratio.version", "v6"]])
def test_tuned_smart_ratios_have_a_length_of_their_own(typed):
    config, sources = parse("cifar10", ["--pruner=smart_ratio", *typed])
    assert (config.epochs, config.learning_rate, config.finetune_epochs) == (20, 0.1, 160)
    assert sources["epochs"].endswith("neither how long the ratios are tuned nor at what rate")
    config, sources = parse("cifar10", ["--pruner=smart_ratio", *typed, "--epochs=3"])
    assert (config.epochs, sources["epochs"]) == (3, "command line")
    for others in ([], ["--smart-ratio.version=v2"]):
        assert parse("cifar10", ["--pruner=smart_ratio", *others])[0].epochs == 0


@pytest.mark.parametrize("pair", [("vgg19", "cifar10"), ("resnet32", "cifar100")])
def test_methods_of_other_papers_train_as_the_tables_that_quote_them(pair):
    for pruner in ("deep_r", "snfs", "dsr", "obd"):
        config, _ = config_of(pruner, *pair, 0.95)
        assert (config.epochs, config.batch_size, config.learning_rate, config.momentum) == (160, 64, 0.1, 0.9)
        assert config.weight_decay == (0.0 if pruner == "deep_r" else 1e-4)
        assert config.network == config_of("dense", *pair, 0.0)[0].network
        finetuning = (config.finetune_epochs, config.finetune_learning_rate)
        assert finetuning == (150, 1e-3) if pruner == "obd" else finetuning[0] == 0
    assert config.options.curvature == "gauss_newton"


def test_dsr_moves_as_many_weights_as_its_code():
    for model, dataset, sparsity, kept, moved in (
        ("wide_resnet28_2", "cifar10", 0.9, 146_398, 20_000),
        ("wide_resnet28_2", "cifar10", 0.5, 731_992, 20_000),
        ("resnet50", "imagenet", 0.8, 5_100_582, 400_000),
        ("resnet50", "imagenet", 0.9, 2_550_291, 400_000),
    ):
        config, _ = config_of("dsr", model, dataset, sparsity)
        assert config.options.moved * kept == pytest.approx(moved, rel=1e-3)
        assert (config.options.threshold, config.options.stop, config.options.doublings) == (1e-3, 0.95, 3)
        assert (config.epochs, config.options.every) == ((100, 1000) if dataset == "imagenet" else (200, 100))


def test_flags_override():
    config, sources = parse("cifar10", ["--gem-miner.l2=1", "--gem-miner.period=10", "--gem-miner.norm=l1"])
    assert (config.options.l2, config.options.period, config.options.norm) == (1, 10, "l1")
    assert sources["gem_miner.l2"] == sources["gem_miner.norm"] == "command line"
