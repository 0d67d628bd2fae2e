"""What a paper claims: the printed table, the CSV and the Markdown."""

import csv
import io

import pytest
import scipy.stats
from rich.console import Console

from rare_gems.reports import claims_table

DASH = "\N{EN DASH}"
ROWS = [
    {"claim": "GM above EP", "at_least": 3.0, "differences": [5.0, 5.5, 5.2]},
    {"claim": "GM above IMP", "at_least": 0.0, "differences": [-1.0, -1.1, None, -1.2]},
    {"claim": "GM near LRR", "at_least": 0.0, "differences": [-2.0, 1.0]},
    {"claim": "one_seed", "at_least": 0.0, "differences": [7.0]},
    {"claim": "not run", "at_least": 0.0, "differences": []},
]
LOW, HIGH = scipy.stats.ttest_1samp(ROWS[0]["differences"], 0).confidence_interval()


def test_printed():
    console = Console(width=200, file=io.StringIO())
    console.print(claims_table.table(ROWS, note="small"))
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert lines[1] == "claim points ours interval seeds verdict"
    assert lines[2] == f"GM above EP +3 +5.23 {LOW:+.2f} to {HIGH:+.2f} 3 holds"
    assert lines[3].endswith("3 does not hold")
    assert lines[4].endswith("2 undecided")
    assert lines[5] == f"one_seed +0 +7.00 {DASH} 1 undecided"
    assert lines[6] == f"not run +0 {DASH} {DASH} 0 undecided"
    assert lines[7] == "small"


def test_csv():
    rows = list(csv.DictReader(io.StringIO(claims_table.as_csv(ROWS))))
    assert tuple(rows[0]) == claims_table.COLUMNS
    assert [float(rows[0][name]) for name in ("low", "high")] == pytest.approx([LOW, HIGH], rel=1e-6)
    assert [row["verdict"] for row in rows] == ["holds", "does not hold", *["undecided"] * 3]
    assert list(rows[3].values()) == ["one_seed", "0.0", "7.0", "", "", "1", "undecided"]
    assert list(rows[4].values()) == ["not run", "0.0", "", "", "", "0", "undecided"]


def test_markdown():
    title, _, header, rule, first, *_, one, none = claims_table.as_markdown(ROWS, "what the text claims").splitlines()
    assert title == "**what the text claims**"
    assert header == "| claim | at least points | ours | 95 % interval | seeds | verdict |"
    assert rule == "|---|---:|---:|---:|---:|---|"
    assert first == f"| GM above EP | +3 | +5.23 | {LOW:+.2f} to {HIGH:+.2f} | 3 | holds |"
    assert one == f"| one\\_seed | +0 | +7.00 | {DASH} | 1 | undecided |"
    assert none == f"| not run | +0 | {DASH} | {DASH} | 0 | undecided |"


def test_a_difference_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="all finite"):
        claims_table.verdict({"claim": "x", "at_least": 0.0, "differences": [1.0, float("nan")]})
