"""The rows of the papers as data: every name in them is one that there is."""

import pytest

from experiments.catalog.sanity_checks import CHECKS
from experiments.papers.table import ITEMS
from experiments.reproduction import analyses, figures

PLAIN = {"before", "after", "best", "kept", "top5", "top5_before", "epochs", "search_epochs"}
VALUES = PLAIN | set(CHECKS) | {f"{name}.before" for name in CHECKS}
PREFIXES = ("config.", "plan.", "verdict.", *(f"{what}." for what in analyses.KINDS))


def is_value(name):
    return name in VALUES or name.startswith(PREFIXES)


def test_every_paper_is_there():
    kinds = {name.rsplit("-table-")[0].rsplit("-figure-")[0] for name in ITEMS}
    assert {"rare-gems", "rare-gems-v1", "lottery-jackpots"} <= kinds
    assert {f"rare-gems-table-{i}" for i in range(1, 6)} <= ITEMS.keys()
    assert {f"rare-gems-figure-{i}" for i in range(1, 8)} <= ITEMS.keys()
    assert {f"rare-gems-v1-table-{i}" for i in range(5, 17)} <= ITEMS.keys()
    assert {f"lottery-jackpots-table-{i}" for i in range(1, 5)} <= ITEMS.keys()
    assert {f"lottery-jackpots-figure-{i}" for i in range(1, 8)} <= ITEMS.keys()


@pytest.mark.parametrize("item", ITEMS.values(), ids=list(ITEMS))
def test_names_in_a_row_are_names_that_there_are(item):
    assert item.parts
    for part in item.parts:
        columns = {column.name for column in part.columns} | ({"dense"} if part.dense else set())
        own = {
            one
            for column in part.columns
            for word in column.flags.split() if word.startswith("--sparsities=")
            for one in word.partition("=")[2].split(",")
        }  # fmt: skip
        sparsities = set(part.sparsities) | own
        for (column, sparsity), cell in part.printed.items():
            assert column in columns
            assert sparsity in sparsities or (column, sparsity) == ("dense", "0.0")
            assert all(map(is_value, cell)), cell
        for claim in part.claims:
            assert {claim.column, claim.over or claim.column} <= columns
            assert is_value(claim.value)
            assert claim.sparsity in sparsities | {""}
        for asked in part.analyses:
            assert asked.what in analyses.KINDS
            assert {*asked.columns, asked.against} - {""} <= columns
        assert set(part.sanity) <= set(CHECKS)
        assert set(part.small.columns) <= columns
        assert part.small.says
        assert set(part.small.sparsities) <= sparsities
    for figure in item.figures:
        assert figure.kind in {*figures.KINDS, "cost_table"}
        assert is_value(figure.value)
        whole = {"dense"} if any(part.dense for part in item.parts) else set()
        assert set(figure.columns) <= whole | {column.name for part in item.parts for column in part.columns}


def test_numbers_are_the_printed_ones():
    """A sample, read in the papers once more."""
    jackpot = ITEMS["lottery-jackpots-table-1"].parts[1].printed["Jackpot, 160 epochs", "0.95"]
    assert jackpot == {"after": (93.42, 0.15)}
    assert ITEMS["rare-gems-table-4"].parts[0].printed["GEM-MINER", "0.9856"] == {"before": 61.23, "after": 77.12}
    assert ITEMS["rare-gems-v1-table-16"].parts[0].printed["SR v3", "0.9856"] == {"kept": 1.75, "after": 69.78}
    overlap = ITEMS["lottery-jackpots-table-4"].parts[0].printed["30", "0.9"]
    assert overlap == {"after": (93.87, 0.09), "overlap.eq7": 96.3}
