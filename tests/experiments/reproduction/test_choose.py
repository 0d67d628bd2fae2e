"""Some of an item alone."""

from pathlib import Path

import pytest

from experiments.papers.item import Claim, Column, Item, Part, Small
from experiments.papers.table import ITEMS
from experiments.reproduction.choose import Chosen, choose, names_of
from experiments.reproduction.spread import Wanted, item_folder, spread
from experiments.terminal.errors import UsageError

SMALL = Small("fewer", "--epochs=3 --finetune-epochs=2", sparsities=("0.9",), columns=("IMP", "k=0"))
PART = Part(
    "digits", "lenet_300_100",
    (
        Column("IMP", "imp"), Column("k=0", "imp --imp.rewind-step=0"),
        Column("k=0, order 2", "ticket --data-seed=2 --ticket.run=@k=0"),
        Column("pair", "random --sparsities=0.5,0.9"),
    ),
    ("0.9", "0.95"), SMALL, claims=(Claim("IMP is above the random", "IMP", "pair"),),
)  # fmt: skip
OTHER = Part("mnist", "conv2", (Column("SNIP", "snip"),), ("0.98",), Small("", ""), dense=False, name="Second")
ITEM = Item("a-table", "A paper", "Table 1", "something", (PART, OTHER))
ROOT = Path("runs")


def cells(chosen, scale="paper"):
    runs = [
        each for part in spread(ITEM, Wanted(scale, ROOT, num_seeds=1, chosen=chosen)) for each in part.combinations
    ]
    return [(each.column, each.sparsity) for each in runs]


@pytest.mark.parametrize("name", ["Second", "conv2", "mnist"])
def test_some_parts_alone(name):
    assert choose(ITEM, Chosen(parts=(name,))).parts == (OTHER,)
    assert choose(ITEM, Chosen(parts=("lenet_300_100", name))) == choose(ITEM, Chosen()) == ITEM


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (Chosen(parts=("third",)), "--parts: a-table has no 'third'; expected any of lenet_300_100; digits; Second"),
        (Chosen(parts=("",)), "--parts: a name is empty"),
        (
            Chosen(columns=("Imp",)),
            "--columns: a-table has no 'Imp'; expected any of IMP; k=0; k=0, order 2; pair; den",
        ),
        (Chosen(columns=("dense", "")), "--columns: a name is empty in 'dense,'"),
        (Chosen(parts=("mnist",), columns=("dense",)), "no 'dense'; expected any of SNIP"),
        (Chosen(sparsities=("0.7",)), "--sparsities: a-table has no '0.7'; expected any of 0.9; 0.95; 0.5; 0.98"),
        (Chosen(columns=("IMP",), sparsities=("0.5",)), "no '0.5'; expected any of 0.9; 0.95"),
        (
            Chosen(columns=("pair",), sparsities=("0.95",)),
            "none of these columns is at 0.95; expected some of pair at 0.5",
        ),
        (Chosen(sparsities=("many",)), "--sparsities: expected fractions removed, got 'many'"),
    ],
)
def test_what_is_not_there(chosen, message):
    with pytest.raises(UsageError, match=message):
        choose(ITEM, chosen)


def test_a_column_brings_the_dense_network_and_what_it_reads():
    runs = cells(Chosen(columns=("k=0", "order 2")))  # as its name is cut at the comma
    assert runs == [("dense", "0.0")] + [(name, at) for name in ("k=0", "k=0, order 2") for at in ("0.9", "0.95")]
    assert cells(Chosen(columns=("dense",))) == [("dense", "0.0")]
    assert cells(Chosen(columns=("SNIP",))) == [("SNIP", "0.98")]  # that part has no dense network


def test_what_an_analysis_compares_comes_along():
    cases = {
        ("small-networks-connectivity", "random"): ("k=0", "random", "random, order 2"),  # not k=0, order 2
        ("small-networks-connectivity", "dense"): ("dense, order 2",),
        ("stabilizing-figure-4", "k=500"): ("k=500", "k=500, order 2"),
        ("lottery-jackpots-table-4", "300"): ("0", "300"),
    }
    for (item, name), columns in cases.items():
        part = choose(ITEMS[item], Chosen(columns=(name,))).parts[0]
        assert tuple(each.name for each in part.columns) == columns


def test_what_is_named_counts_at_small_scale_too():
    assert {name for name, _ in cells(Chosen(parts=("digits",)), "small")} == {"dense", "IMP", "k=0"}
    assert cells(Chosen(columns=("pair",)), "small") == [("dense", "0.0"), ("pair", "0.9")]
    chosen = Chosen(columns=("IMP",), sparsities=("0.95",))
    assert cells(chosen, "small") == [("dense", "0.0"), ("IMP", "0.95")]


def test_some_sparsities_alone_also_of_columns_with_their_own():
    assert cells(Chosen(sparsities=("0.50",))) == [("dense", "0.0"), ("pair", "0.5")]
    names = ("IMP", "k=0", "k=0, order 2", "pair")
    assert cells(Chosen(sparsities=("0.9",))) == [("dense", "0.0"), *((name, "0.9") for name in names)]


def test_a_choice_is_told_and_has_a_folder_of_its_own():
    chosen = Chosen(("digits",), ("IMP",), ("0.9", "0.95"))
    (runs,) = spread(ITEM, Wanted("small", ROOT, chosen=chosen))
    assert runs.notes == (
        "small scale: fewer", "some of its parts alone: digits", "some of its columns alone: IMP",
        "some of its sparsities alone: 0.9, 0.95",
    )  # fmt: skip
    some = [
        Chosen(),
        Chosen(("digits",)),
        chosen,
        chosen._replace(columns=("IMP", "pair")),
        Chosen(sparsities=("0.9",)),
    ]
    assert len({item_folder(ITEM, Wanted("paper", ROOT, chosen=one)) for one in some}) == len(some)


def test_all_can_be_typed_by_their_names():
    kinds = {"parts": lambda item: [name for part in item.parts for name in names_of(part)],
             "columns": lambda item: [each.name for part in item.parts for each in part.columns]}  # fmt: skip
    for item in ITEMS.values():
        for kind, names in kinds.items():
            for name in names(item):
                words = tuple(word.strip() for word in name.split(","))
                found = choose(item, Chosen()._replace(**{kind: words})).parts
                assert name in {one for part in found for one in (*names_of(part), *(c.name for c in part.columns))}
                assert kind != "parts" or found == tuple(part for part in item.parts if name in names_of(part))
    assert any(", " in part.name for item in ITEMS.values() for part in item.parts)
    both = Chosen(parts=("resnet20", "sanity checks", "mnist"))
    assert len(choose(ITEMS["small-networks-sanity"], both).parts) == 3
