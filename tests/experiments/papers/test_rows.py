"""The rows of Stabilizing and Sanity-Checking: what they name is there, and numbers agree with what else is printed."""

import pytest

from experiments.catalog.pruners.table import PRUNERS
from experiments.catalog.sanity_checks import CHECKS
from experiments.papers import sanity_checking, stabilizing, stabilizing_imagenet
from experiments.papers.stabilizing_networks import RECIPES
from experiments.papers.table import ITEMS
from experiments.presets import sanity_checking as presets

MINE = (*stabilizing.ITEMS, *stabilizing_imagenet.ITEMS, *sanity_checking.ITEMS)
PARTS = [pytest.param(part, id=f"{item.id}: {part.name or part.model}") for item in MINE for part in item.parts]


def test_every_figure_and_table_has_an_item():
    figures = [f"stabilizing-figure-{n}" for n in range(1, 13)]
    tables = [f"sanity-checking-{kind}" for kind in ("figure-1", "figure-2", "figure-3", "ablation")]
    tables += [f"sanity-checking-table-{n}" for n in range(1, 5)]
    assert sorted(item.id for item in MINE) == sorted(figures + tables)
    assert all(ITEMS[item.id] is item for item in MINE)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_names_what_is_there(part):
    columns = {column.name: column for column in part.columns}
    names = {*columns, "dense"} if part.dense else set(columns)
    assert len(columns) == len(part.columns)
    own = [flag for column in part.columns for flag in column.flags.split() if flag.startswith("--sparsities=")]
    sparsities = {*part.sparsities, *(one for flag in own for one in flag.partition("=")[2].split(","))}
    checks = {name for check in part.sanity for name in (check, f"{check}.before")}
    known = {
        "after",
        "before",
        *checks,
        *(f"stability.{kind}_{unit}" for kind in ("order", "pruning") for unit in ("l2", "angle")),
    }
    for (column, sparsity), values in part.printed.items():
        assert column in names
        assert sparsity in sparsities | {"0.0"}
        assert set(values) <= known
    for claim in part.claims:
        assert {claim.column, claim.over or claim.column} <= names
        assert {claim.value, claim.over_value or claim.value} <= known
        assert claim.sparsity in {"", *sparsities}
    assert all({*analysis.columns, analysis.against} <= names for analysis in part.analyses)
    assert set(part.small.columns) <= set(columns)
    assert set(part.small.sparsities) <= sparsities
    assert set(part.sanity) <= set(CHECKS)
    assert {column.flags.split()[0] for column in part.columns} <= {*PRUNERS, "ticket", "obd"}


def test_stabilizing_prints_what_its_ratios_say():
    order, pruning = {}, {}
    for item in stabilizing.ITEMS:
        for part in item.parts if item.id in ("stabilizing-figure-3", "stabilizing-figure-10") else ():
            [at] = part.sparsities
            imp, random = part.printed["IMP", at], part.printed["random", at]
            unit = "l2" if item.id.endswith("3") else "angle"
            for found, kind in ((order, "order"), (pruning, "pruning")):
                value = f"stability.{kind}_{unit}"
                found[part.name, unit] = random[value][0] / imp[value][0]
    printed = {  # "Comp": how many times further apart random subnetworks are
        "LeNet": (2.8, 1.6, 2.2, 1.6), "ResNet-18 (standard)": (1.0, 1.0, 1.0, 1.0),
        "ResNet-18 (low)": (4.1, 1.3, 4.7, 1.5), "ResNet-18 (warm-up)": (3.9, 1.4, 4.7, 1.6),
        "VGG-19 (standard)": (0.8, 1.0, 1.0, 1.0), "VGG-19 (low)": (2.5, 1.5, 2.1, 1.5),
        "VGG-19 (warm-up)": (2.7, 1.5, 2.1, 1.2),
    }  # fmt: skip
    assert set(printed) == set(RECIPES)
    suspect = {("ResNet-18 (warm-up)", "angle"): 4.1}  # 69.0 / 17.0; the paper has 4.7x, as in the line above it
    for name, (order_l2, pruning_l2, order_angle, pruning_angle) in printed.items():
        assert order[name, "l2"] == pytest.approx(order_l2, abs=0.07)
        assert pruning[name, "l2"] == pytest.approx(pruning_l2, abs=0.07)
        assert order[name, "angle"] == pytest.approx(suspect.get((name, "angle"), order_angle), abs=0.07)
        assert pruning[name, "angle"] == pytest.approx(pruning_angle, abs=0.07)


def test_sanity_checking_prints_what_its_presets_expect():
    """The docstring of the presets was written from the paper on its own."""
    text = " ".join(presets.__doc__.split())
    for item in sanity_checking.ITEMS:
        for part in item.parts if item.id.startswith("sanity-checking-table") else ():
            rows = {}
            for (column, _), values in part.printed.items():
                number = values.get("after")
                rows.setdefault(column, []).append(number[0] if isinstance(number, tuple) else number)
            for column in (
                "Random Tickets",
                "Hybrid Tickets",
                *(("LT", "SNIP", "GraSP", "LRR") if part.dataset == "cifar10" else ()),
            ):
                if column in rows:
                    assert " / ".join(f"{number:.2f}" for number in rows[column]) in text, (part.name, column)
            if "dense" in rows:
                assert f"{rows['dense'][0]:.2f}" in text
