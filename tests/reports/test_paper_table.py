"""A paper's numbers beside ours: what the cells, the CSV and the Markdown say."""

import csv
import io

import pytest
from rich.console import Console

from rare_gems.reports import paper_table, run_tables

DASH = "\N{EN DASH}"
ROWS = [
    {"name": "edge_popup", "what": "before", "paper": 19.57, "ours": [20.1, 19.0, 19.3]},
    {"name": "edge_popup", "what": "after", "paper": 24.47, "error": 0.3, "ours": [20.1, 19.0, 19.3]},
    {"name": "[bold]gm", "what": "after", "paper": 66.15, "ours": [66.3, None], "remark": "suspect | print"},
    {"name": "curve", "paper": None, "ours": [66.0, 66.0]},
    {"name": "not run", "what": "after", "paper": 63.54, "ours": [], "remark": "suspect | print"},
]
OTHERS = [
    {"name": "IMP", "what": "order", "unit": "L2", "paper": 20.7, "error": 0.6, "ours": [21.1, 20.4, 20.0]},
    {"name": "IMP", "what": "cost", "unit": "epochs", "paper": 2850, "exact": True, "ours": [2850]},
]


def printed(table):
    console = Console(file=io.StringIO(), width=40)
    run_tables.print_whole(console, table)
    return [" ".join(text.split()) for text in console.file.getvalue().splitlines()]


def test_table():
    lines = printed(paper_table.table(ROWS, title="Rare Gems, Table 3", note="scale small: 500 images"))
    assert lines[0] == "Rare Gems, Table 3"
    assert lines[1] == "difference in units"
    assert lines[2] == "row what paper ours seeds points of noise verdict why"
    assert lines[3] == "edge_popup before 19.57 19.47±0.57 3 -0.10 -0.2 reproduced within 0.5"
    assert lines[4] == "edge_popup after 24.47±0.30 19.47±0.57 3 -5.00 -7.8 below beyond noise and 0.5"
    assert lines[5] == f"[bold]gm after 66.15 [1] 66.30 1 +0.15 {DASH} undecided 1 seed, within 0.5"
    assert lines[6] == f"curve {DASH} 66.00±0.00 2 {DASH} {DASH} {DASH} the paper prints no number"
    assert lines[7] == f"not run after 63.54 [1] {DASH} 0 {DASH} {DASH} undecided no runs"
    assert lines[8] == "1 reproduced, 1 below, 2 undecided, 1 without a number of the paper"
    assert lines[9:11] == ["scale small: 500 images", "[1] suspect | print"]
    assert lines[11].startswith("difference: our mean - the paper's number; noise: sqrt(s² + e²)")


def test_other_units_have_their_own_margin_and_digits():
    lines = printed(paper_table.table(OTHERS))
    assert lines[1] == "row what unit paper ours seeds (its unit) of noise verdict why"
    assert lines[2] == "IMP order L2 20.70±0.60 20.50±0.56 3 -0.20 -0.2 reproduced within 0.517"
    assert lines[3] == f"IMP cost epochs 2,850 2,850 1 +0 {DASH} reproduced an exact number"
    far = OTHERS[0] | {"ours": [22.0, 22.0], "error": None}
    assert paper_table.compare(far).verdict == "above"
    assert paper_table.compare(far | {"margin": 1.3}).verdict == "reproduced"


def test_csv_holds_every_number():
    rows = list(csv.DictReader(io.StringIO(paper_table.as_csv(ROWS))))
    assert tuple(rows[0]) == paper_table.COLUMNS
    assert [row["name"] for row in rows] == [row["name"] for row in ROWS]
    found = paper_table.compare(ROWS[1])
    for column, value in (("ours", found.mean), ("ours_std", found.std), ("noise", found.noise)):
        assert float(rows[1][column]) == pytest.approx(value, rel=1e-6)
    assert (rows[1]["paper"], rows[1]["paper_error"], rows[1]["verdict"]) == ("24.47", "0.3", "below")
    assert (rows[4]["ours"], rows[4]["seeds"], rows[4]["remark"]) == ("", "0", "suspect | print")
    assert (rows[3]["paper"], rows[3]["verdict"]) == ("", "")


def test_markdown():
    lines = paper_table.as_markdown(ROWS, "Table_3", "scale *small*").splitlines()
    assert lines[:4] == ["**Table\\_3**", "", "scale \\*small\\*", ""]
    assert lines[5] == "|---|---|---:|---:|---:|---:|---:|---|---|"
    assert lines[6].startswith("| edge\\_popup | before | 19.57 | 19.47±0.57 | 3 | -0.10 |")
    assert "- [1] suspect \\| print" in lines
    assert paper_table.as_markdown(ROWS).startswith("| row | what |")


def test_rows_that_lack_something_are_named():
    with pytest.raises(ValueError, match="row gm: expected name, paper and ours, got no ours"):
        paper_table.compare({"name": "gm", "paper": 1.0})
    with pytest.raises(ValueError, match="row gm, after: expected finite numbers"):
        paper_table.compare({"name": "gm", "what": "after", "paper": 1.0, "ours": [float("nan")]})
    assert paper_table.tally([]) == "no rows"


def test_small_exact_numbers_have_the_digits_that_count():
    """A lambda of 3e-5 beside one of 1e-4 was 0.00 beside 0.00."""
    row = {"name": "GEM-MINER", "unit": "", "paper": 1e-4, "ours": [3e-5], "exact": True}
    assert printed(paper_table.table([row]))[2] == f"GEM-MINER 0.0001 3e-05 1 -7e-05 {DASH} below an exact number"


def test_large_exact_numbers_are_whole():
    row = {"name": "ResNet-50", "unit": "weights", "paper": 25502912, "ours": [25502912], "exact": True}
    (line,) = csv.DictReader(io.StringIO(paper_table.as_csv([row])))
    assert float(line["ours"]) == 25502912
    assert "25,502,912 | 25,502,912 |" in paper_table.as_markdown([row])


def test_a_cell_of_two_lines_is_one_cell():
    assert paper_table.grid(["what", "n"], [["x\ny", "1"]], ["what"]).splitlines()[-1] == "| x y | 1 |"
