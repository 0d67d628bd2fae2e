"""Table 1 of Rare Gems: the rules behind its ticks, and the cells."""

import io

import pytest
import scipy.stats
from rich.console import Console

from rare_gems.reports import cost_table, run_tables, ticket_verdicts

DASH = "\N{EN DASH}"


def test_accurate_at_init():
    decide = ticket_verdicts.accurate_at_init
    values = [0.14, 0.16, 0.18]
    low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert decide(values, chance=low - 0.051) == "yes"
    assert decide(values, chance=low - 0.049) == "undecided"
    assert decide(values, chance=high - 0.049) == "no"
    assert decide(values, chance=low - 0.021, margin=0.02) == "yes"
    assert decide([0.9], 0.1) == decide([0.9, None], 0.1) == decide([], 0.1) == "undecided"
    with pytest.raises(ValueError, match=r"fractions in \[0, 1\], got \[61.2, 0.1, 0.05\]"):
        decide([61.2], 0.1)


def test_finetunable_as_the_papers_table_has_it():
    decide = ticket_verdicts.finetunable
    gm = [0.777, 0.779, 0.781]
    near = lambda value: [value - 0.002, value, value + 0.002]  # noqa: E731
    assert decide(gm, gm, 0.1) == "yes"
    for smart_ratio in (0.6561, 0.6859, 0.6978):  # ticked in Table 1; their accuracies are in Table 16
        assert decide(near(smart_ratio), gm, 0.1) == "yes"
    assert decide(near(0.2447), near(0.6615), 0.1) == "no"  # edge-popup in Table 3
    level = 0.1 + 0.75 * (0.779 - 0.1)
    assert decide(near(level), gm, 0.1) == "undecided"
    assert decide(near(level), gm, 0.1, share=0.7) == "yes"
    assert decide(gm, [None], 0.1) == decide([0.7], gm, 0.1) == "undecided"
    with pytest.raises(ValueError, match=r"share: expected a fraction in \(0, 1\], got 0"):
        decide(gm, gm, 0.1, share=0)


def test_passes_sanity():
    decide, ticket = ticket_verdicts.passes_sanity, [0.77, 0.78, 0.76]
    worse, same, open_ = [0.70, 0.71, 0.69], [0.77, 0.781, 0.761], [0.75, 0.77, 0.76]
    assert decide(ticket, {"shuffle": worse, "reinit": worse}) == "yes"
    assert decide(ticket, {"shuffle": worse, "reinit": same}) == "no"
    assert decide(ticket, {"shuffle": open_, "reinit": same}) == "no"
    assert decide(ticket, {"shuffle": worse, "reinit": open_}) == "undecided"
    assert decide(ticket, {"shuffle": [None] * 3}) == "undecided"
    assert decide(ticket, {}) is None
    with pytest.raises(ValueError, match="shuffle: expected 3 accuracies, as the ticket has, got 2"):
        decide(ticket, {"shuffle": [0.7, 0.7]})


ROWS = [
    {"name": "IMP", "at_init": False, "epochs": [2804, 2804, 2804], "before": [0.1, 0.1, 0.1],
     "after": [0.85, 0.851, 0.849],
     "checks": {"shuffle": [0.70, 0.70, 0.69]}, "paper": {"epochs": 2850, "at_init": False, "sanity": True}},
    {"name": "SR", "at_init": True, "epochs": 0, "after": [0.70], "paper": {"epochs": "O(1)", "sanity": None}},
    {"name": "EP", "at_init": True, "epochs": 150, "before": [0.3, 0.31, 0.32], "after": [0.35, 0.36, 0.37]},
    {"name": "GM", "at_init": True, "epochs": 150, "before": [0.61, 0.62, 0.60], "after": [0.77, 0.78, 0.775]},
    {"name": "dense", "epochs": None, "after": [0.99, 0.99, 0.99]},
]  # fmt: skip


def test_table():
    console = Console(file=io.StringIO(), width=40)
    run_tables.print_whole(console, cost_table.table(ROWS, 0.1, "Table 1", "small"))
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert lines[0] == "Table 1"
    assert lines[2] == "method the search before after init? init? finetunable? sanity?"
    assert lines[3] == "IMP 2,804 (2,850) 10.00±0.00 85.00±0.10 no (no) no yes yes (yes)"
    assert lines[4] == f"SR 0 (O(1)) {DASH} 70.00 yes {DASH} undecided {DASH} ({DASH})"
    assert lines[5] == f"EP 150 31.00±1.00 36.00±1.00 yes yes no {DASH}"
    assert lines[6] == f"GM 150 61.00±1.00 77.50±0.50 yes yes yes {DASH}"
    assert lines[8] == "small"
    assert lines[-1] == "in brackets: the paper"


def test_the_reference_is_the_best_ticket_that_prunes_at_initialization():
    rows = [{"name": "late", "at_init": False, "after": [0.99, 0.99]}, {"name": "dense", "after": [0.999, 0.999]}]
    rows += [{"name": "gm", "after": [0.60, 0.60]}, {"name": "sr", "at_init": True, "after": [0.5, 0.5]}]
    found = [row["finetunable"] for row in cost_table.judge(rows, 0.1)]
    assert found == ["yes", "yes", "yes", "yes"]  # 0.5 lies above 0.1 + 0.75 (0.6 - 0.1); against 0.99 it would not
    with pytest.raises(ValueError, match=r"row gm: expected fractions in \[0, 1\]"):
        cost_table.judge([{"name": "gm", "after": [77.0]}], 0.1)
