"""From rows to runs: every item can be run at both scales, for what costs.json says."""

import json
from pathlib import Path

import pytest

from experiments.commands import reproduce_list
from experiments.comparison.expand import Combination
from experiments.config.parse import parse
from experiments.config.saved import fields_of, flat
from experiments.papers.item import Column, Item, Part, Small, cells
from experiments.papers.table import ITEMS
from experiments.problem import network
from experiments.problem.recipe import plan_of
from experiments.problem.training import spelled
from experiments.reproduction import cost
from experiments.reproduction.analyses import TOGETHER as TOGETHER_KINDS
from experiments.reproduction.spread import Wanted, item_folder, item_of, spread, without_training
from experiments.terminal.errors import UsageError

COSTS = json.loads(reproduce_list.COSTS.read_text())
SMALL = Small("fewer images", "--train-examples=500 --epochs=3 --finetune-epochs=2", sparsities=("0.9",))
PART = Part(
    "digits", "lenet_300_100",
    (
        Column("long", "gem_miner --epochs=9 --gem-miner.period=3", small="--epochs=4 --gem-miner.period=2"),
        Column("mask", "random --finetune-epochs=0"), Column("pair", "random --sparsities=0.5,0.9 --init=uniform"),
    ),
    ("0.9", "0.95"), SMALL, cells("after", ("0.9",), {"long": (90.0,)}),
)  # fmt: skip
ITEM = Item("a-table", "A paper", "Table 1", "something", (PART,))


@pytest.fixture
def _networks_not_traced_again(monkeypatch):
    """That networks take images of their sizes is tested with the networks."""
    monkeypatch.setattr(network, "_checked", lambda name, model, *_, **__: model)


@pytest.mark.parametrize("name", ITEMS)
@pytest.mark.usefixtures("_networks_not_traced_again")
def test_every_item_can_be_run_at_both_scales(name):
    """Raises for what anything refuses; python -m experiments.reproduce --count writes the costs."""
    assert reproduce_list.count(ITEMS[name]) == COSTS[name]


TOGETHER = [(name, scale) for name, item in ITEMS.items() for scale in ("paper", "small")
            if any(asked.what in TOGETHER_KINDS for part in item.parts for asked in part.analyses)]  # fmt: skip


@pytest.mark.parametrize(("name", "scale"), TOGETHER)
@pytest.mark.usefixtures("_networks_not_traced_again")
def test_networks_whose_distance_is_taken_train_alike(name, scale):
    """On digits the rates of IMP's tickets fell elsewhere than those of the others."""
    for runs in spread(ITEMS[name], Wanted(scale, Path("runs"), num_seeds=1)):
        for asked in (one for one in runs.part.analyses if one.what in TOGETHER_KINDS):
            compared = [each.config for each in runs.combinations if each.column in {*asked.columns, asked.against}]
            assert len({spelled(config, "finetune") for config in compared}) == 1
            for config in compared:
                if config.pruner == "imp":
                    assert spelled(config, "training") == spelled(config, "finetune")


def test_the_list_has_the_costs_of_these_items():
    assert list(COSTS) == list(ITEMS)


def configs(scale="paper", *flags, **more):
    (runs,) = spread(ITEM, Wanted(scale, Path("runs"), flags, **more))
    return {(each.column, each.sparsity, each.config.seed): each.config for each in runs.combinations}, runs


def test_the_papers_scale_has_the_papers_seeds_and_lists():
    found, runs = configs()
    assert len(found) == 3 * (1 + 3 * 2)
    assert {sparsity for column, sparsity, _ in found if column == "pair"} == {"0.5", "0.9"}
    assert found["long", "0.9", 44].epochs == 9
    assert found["long", "0.9", 42].train_examples is None
    assert runs.notes == ()


def test_a_reduction_is_said_and_reduces():
    found, runs = configs("small")
    assert set(found) == {(column, at, 42) for column, at in (
        ("dense", "0.0"), ("long", "0.9"), ("mask", "0.9"), ("pair", "0.9"),
    )}  # fmt: skip
    long = found["long", "0.9", 42]
    assert (long.epochs, long.options.period, long.finetune_epochs, long.train_examples) == (4, 2, 2, 500)
    assert found["mask", "0.9", 42].finetune_epochs == 0  # what the paper leaves out stays out
    assert runs.notes == ("small scale: fewer images",)


def test_what_is_typed_changes_the_recipe_and_is_said():
    found, runs = configs("small", "--learning-rate=0.5", "--train-examples=300", num_seeds=2, seed=7)
    assert {seed for *_, seed in found} == {7, 8}
    assert found["long", "0.9", 7].learning_rate == 0.5
    assert found["pair", "0.9", 8].train_examples == 300
    assert runs.notes[1] == "changed: --learning-rate=0.5 --train-examples=300"
    plain, changed = (
        item_folder(ITEM, Wanted("small", Path("runs"), flags)) for flags in ((), ("--learning-rate=0.5",))
    )
    assert plain == Path("runs/a-table-small")
    assert changed.name.startswith("a-table-small-")
    assert item_folder(ITEM, Wanted("small", Path("runs"), ("--devices=2",))) == plain  # not another result


def test_another_data_set_and_network_leave_out_what_they_cannot_take():
    (runs,) = spread(ITEMS["rare-gems-table-3"], Wanted("small", Path("runs"), ("--model=lenet_300_100",), "digits"))
    config = runs.combinations[0].config
    assert (config.model, config.image_size, config.train_examples) == ("lenet_300_100", None, None)
    assert runs.title == "lenet_300_100, digits"


def test_equal_runs_are_shared_by_items():
    folders = [
        {each.column: each.folder for each in spread(ITEMS[name], Wanted("paper", Path("runs")))[0].combinations}
        for name in ("rare-gems-table-4", "rare-gems-table-5")
    ]
    assert folders[0]["GEM-MINER"] == folders[1]["GEM-MINER"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--imp.rate=0.5"], "--imp.rate: no column of a-table takes it"),
        (["--epoch=3"], "--epoch: there is no such flag; the nearest is --epochs"),
        (["--sparsity=0.5"], "a comparison sets it itself"),
    ],
)
def test_mistakes(flags, message):
    with pytest.raises(UsageError, match=message):
        spread(ITEM, Wanted("paper", Path("runs"), flags))


def test_an_unknown_item_is_told_the_nearest():
    with pytest.raises(UsageError, match=r"rare-gems-tabel-3: .*the nearest is rare-gems-table-3"):
        item_of("rare-gems-tabel-3")


def test_what_needs_no_training_is_known():
    assert without_training(ITEMS["rare-gems-v1-table-8"])
    assert not without_training(ITEMS["rare-gems-table-5"])


def test_a_check_on_half_of_the_data_searches_half_as_long_and_finetunes_as_long():
    config = parse("digits", ["--pruner=lrr", "--lrr.rounds=2", "--sparsity=0.5"])[0]
    each = Combination(config, Path("run"), "LRR", "0.5", checks=("half_data", "shuffle_weights"))
    plan = plan_of(each.config)
    rounds = [phase.num_steps for phase in plan.recipe if phase.name != "finetune"]
    search, half = sum(rounds), sum(round(steps / 2) for steps in rounds)
    tuning = plan.recipe[-1].num_steps
    assert cost.cost_of([(each, plan)], 1).steps == search + tuning + half + tuning + tuning


TRAINED = {  # item, column -> fields of its runs, as the papers print them
    ("rare-gems-v1-table-16", "SR v2"): {"smart_ratio.exact": False},  # 1.47 % kept at 98.56 %
    ("rare-gems-v1-table-16", "SR v3"): {"smart_ratio.exact": False},  # 1.75
    ("rare-gems-table-1", "IMP"): {"imp.round_epochs": 150, "imp.rewind_step": 0},  # 19 rounds are 2850 epochs
    ("rare-gems-table-1", "Renda et al."): {"lrr.round_epochs": 150},
    ("rare-gems-table-5", "IMP (warm)"): {"imp.round_epochs": 150, "finetune_epochs": 150},
    ("rare-gems-table-5", "Renda et al."): {"lrr.round_epochs": 150, "finetune_epochs": 150},  # 3000 in all
    ("lottery-jackpots-table-1", "SET"): {"batch_size": 64, "epochs": 160, "finetune_epochs": 0},
    ("lottery-jackpots-table-3", "SET"): {"batch_size": 256, "epochs": 100, "finetune_epochs": 0},
    ("lottery-jackpots-table-3", "RigL"): {"batch_size": 256, "epochs": 100, "finetune_epochs": 0},
    ("lottery-jackpots-figure-7", "finetuned"): {
        "finetune_epochs": 150, "finetune_learning_rate": 0.1, "weight_decay": 5e-4, "batch_size": 256,
    },
}  # fmt: skip


@pytest.mark.parametrize(("item", "column"), TRAINED)
def test_columns_train_as_the_paper_says(item, column, tmp_path):
    runs = [run for part in spread(ITEMS[item], Wanted("paper", tmp_path)) for run in part.combinations]
    found = [flat(fields_of(run.config)) for run in runs if run.column == column]
    assert found
    for name, value in TRAINED[item, column].items():
        assert {fields[name] for fields in found} == {value}, name


def test_a_reduction_rewinds_batch_norm_where_the_paper_does(tmp_path):
    """VGG-19's own preset has it, that of the digits which stand in for it has not."""
    for scale in ("paper", "small"):
        parts = spread(ITEMS["stabilizing-figure-3"], Wanted(scale, tmp_path))
        runs = [run for part in parts for run in part.combinations if run.config.pruner == "imp"]
        batch_norm = {run.config.options.rewind_batch_norm for run in runs if run.config.model != "lenet_300_100"}
        assert batch_norm == {True}
