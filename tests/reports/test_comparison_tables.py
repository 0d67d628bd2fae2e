"""Tables of sanity checks and of comparisons: what their cells say."""

import io

import numpy as np
import pytest
import scipy.stats
from rich.console import Console

from rare_gems.reports import comparison_tables, run_tables

DASH = "\N{EN DASH}"
TICKET = {"check": "ticket", "before": [0.61, 0.62, 0.60], "after": [0.77, 0.78, 0.76]}


def printed(table):
    console = Console(file=io.StringIO(), width=40)  # what is no terminal does not cut the table
    run_tables.print_whole(console, table)
    return [text.rstrip() for text in console.file.getvalue().splitlines()]


def test_sanity_table():
    reinit = {
        "check": "reinit",
        "changes": "weights drawn again",
        "before": [0.1, 0.11, 0.09],
        "after": [0.70, 0.72, 0.68],
    }
    same = {"check": "half", "changes": "half the data of the search", "before": None, "after": [0.771, 0.779, 0.76]}
    own = {"check": "[bold]mine", "changes": "all of it", "after": [0.77, None, 0.70]}
    lines = printed(
        comparison_tables.sanity_table([TICKET | {"changes": "nothing"}, reinit, same, own], title="checks")
    )
    assert lines[0] == "checks"
    assert lines[3].split() == ["ticket", "nothing", "61.00±1.00", "77.00±1.00"]
    low, high = scipy.stats.ttest_rel(TICKET["after"], reinit["after"]).confidence_interval()
    cells = f"reinit weights drawn again 10.00±1.00 70.00±2.00 +7.00 {100 * low:+.2f} to {100 * high:+.2f} passes"
    assert lines[4].split() == cells.split()
    assert lines[5].split()[:8] == ["half", "half", "the", "data", "of", "the", "search", DASH]
    assert lines[5].split()[-1] == "fails"
    assert lines[6].startswith("[bold]mine all of it")
    spread = 100 * np.std([0.77, 0.70], ddof=1)
    assert f"73.50±{spread:.2f}  +3.00" in lines[6]  # drops of the two seeds that both have: 0 and 6 points
    assert lines[6].endswith("undecided")
    assert lines[7].startswith("drop: ticket - check, paired by seed, with its 95 % interval")
    assert lines[8].endswith("a cost of 1 point is ruled out")
    assert max(map(len, lines)) < 120


def test_sanity_table_of_one_seed_and_of_none():
    rows = [
        TICKET | {"after": [0.77]},
        {"check": "shuffle", "changes": "mask, within each layer", "after": [0.7]},
        {"check": "odd", "after": [None]},
    ]
    lines = printed(comparison_tables.sanity_table(rows))
    assert lines[3].split("layer")[1].split() == [DASH, "70.00", "+7.00", DASH, "undecided", "(too", "few", "seeds)"]
    assert lines[4].split() == ["odd", DASH, DASH, DASH, DASH, DASH, "undecided", "(no", "seeds)"]


def test_margin_and_confidence_reach_the_verdict():
    other = {"check": "half", "after": [0.75, 0.77, 0.76]}  # drops of 2, 1 and 0 points
    assert printed(comparison_tables.sanity_table([TICKET, other]))[3].endswith("undecided")
    lines = printed(comparison_tables.sanity_table([TICKET, other], margin=0.05))
    assert lines[3].endswith("fails")
    assert "5 points" in " ".join(lines)
    lines = printed(comparison_tables.sanity_table([TICKET, other], confidence=0.5))
    assert lines[3].endswith("passes")
    assert "50 % interval" in " ".join(lines)


def test_sanity_table_of_bad_rows():
    for names in ([], ["reinit", "ticket"], ["ticket", "half", "half"]):
        with pytest.raises(ValueError, match="expected 'ticket' first, then other checks once each, got"):
            comparison_tables.sanity_table([TICKET | {"check": name} for name in names])
    with pytest.raises(ValueError, match=r"got {'ticket': 3, 'half': 2} accuracies"):
        comparison_tables.sanity_table([TICKET, {"check": "half", "after": [0.1, 0.2]}])


def runs():
    rows = []
    for seed in range(2):
        rows.append({"pruner": "dense", "sparsity": 0.0, "seed": seed, "before": None, "after": 0.9 + 0.02 * seed})
        for pruner, level in (("gem_miner", 0.8), ("random", 0.6)):
            for sparsity, num_kept in ((0.9941, 1583), (0.9856, 3864)):
                before = level / 2 if pruner == "gem_miner" else None
                row = {"pruner": pruner, "sparsity": sparsity, "seed": seed, "before": before, "num_kept": num_kept}
                rows.append(row | {"after": level - 10 * (sparsity - 0.9856) + 0.01 * seed})
    return rows


def test_comparison_table():
    lines = printed(comparison_tables.comparison_table(runs(), title="ResNet-20"))
    assert lines[0] == "ResNet-20"
    assert lines[1].split() == ["sparsity", "%", "98.56", "99.41"]
    assert lines[2].split() == ["weights", "kept", "3,864", "1,583"]
    assert lines[3].strip() == "accuracy % before finetuning"
    assert lines[6].strip() == "accuracy % after finetuning"
    assert lines[10:] == ["±: over seeds"]
    assert lines[4].split() == ["gem_miner", "40.00±0.00", "40.00±0.00"]
    assert lines[5].split() == ["random", DASH, DASH]
    assert lines[7].split() == ["gem_miner", "80.50±0.71", "72.00±0.71"]
    assert lines[8].split() == ["random", "60.50±0.71", "52.00±0.71"]
    assert lines[9].split() == ["dense", "91.00±1.41", "91.00±1.41"]


def test_comparison_table_with_validation_and_many_classes():
    best = [
        row | {"at_best": row["after"] + 0.01, "top5": 0.95 if row["pruner"] == "dense" else None} for row in runs()
    ]
    lines = printed(comparison_tables.comparison_table(best))
    at = lines.index(next(line for line in lines if line.strip() == "accuracy % at the epoch of best validation"))
    assert lines[at + 1].split() == ["gem_miner", "81.50±0.71", "73.00±0.71"]
    assert lines[at + 3].split() == ["dense", "92.00±1.41", "92.00±1.41"]
    assert lines[at + 4].strip() == "top-5 accuracy %, after finetuning if any"
    assert lines[at + 5].split() == ["gem_miner", DASH, DASH]
    assert lines[at + 7].split() == ["dense", "95.00±0.00", "95.00±0.00"]


def test_comparison_table_with_gaps():
    row = {"pruner": "a", "sparsity": 0.9, "seed": 0, "before": 0.1, "after": 0.5, "num_kept": 1583}
    rows = [row, row | {"sparsity": 0.5, "num_kept": None}, row | {"pruner": "b", "after": 0.4, "num_kept": 3900}]
    lines = printed(comparison_tables.comparison_table(rows))
    assert lines[0].split() == ["sparsity", "%", "50.00", "90.00"]
    assert lines[1].split() == ["weights", "kept", "1,583-3,900"]
    assert lines[6].split() == ["a", "50.00", "50.00"]
    assert lines[7].split() == ["b", DASH, "40.00"]
    with pytest.raises(ValueError, match="one run of each"):
        comparison_tables.comparison_table([*rows, row])
