"""What figures of items are drawn of, and what is told where a file is in the way or damaged."""

from types import SimpleNamespace

import pytest

from experiments.comparison import make
from experiments.comparison.expand import Combination
from experiments.papers.item import Claim
from experiments.papers.table import ITEMS
from experiments.reproduction import figures, report
from experiments.reproduction.spread import PartRuns, Wanted, spread
from experiments.terminal.errors import UsageError


def runs_of(item, folder, column, sparsity):
    """A part of one run, which needs no configuration but its seed."""
    runs = [Combination(SimpleNamespace(seed=0), folder, column, sparsity)]
    return PartRuns(ITEMS[item].parts[0]._replace(name="p"), runs, ())


def test_parts_of_one_network_and_data_are_told_apart_by_what_they_stand_for(tmp_path):
    titles = [runs.title for runs in spread(ITEMS["stabilizing-figure-6"], Wanted("small", tmp_path))]
    networks = ("resnet50", "inception_v3", "squeezenet")
    assert titles == [f"resnet20, digits for {network}, ImageNet" for network in networks]


def test_the_dense_network_is_drawn_where_it_is_alone(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures.column_points, "plot", lambda rows, *_, **__: drawn.extend(rows))
    part = runs_of("stabilizing-figure-6", tmp_path, "dense", "0.0")
    figures.draw(ITEMS["stabilizing-figure-6"], [part], [{("dense", "0.0", 0): {"after": 90.0}}], tmp_path)
    assert [(row["name"], row["after"]) for row in drawn] == [("dense", 0.9)]


def test_the_dense_network_is_drawn_where_it_is_named(tmp_path, monkeypatch):
    drawn, value = [], "connectivity.error_barrier"
    monkeypatch.setattr(figures.column_points, "plot", lambda rows, *_, **__: drawn.extend(rows))
    item = "small-networks-connectivity"
    part = runs_of(item, tmp_path, "dense", "0.0")
    part = part._replace(combinations=[*part.combinations, part.combinations[0]._replace(column="k=0", sparsity="0.9")])
    values = {("dense", "0.0", 0): {value: 0.4}, ("k=0", "0.9", 0): {value: 0.1}}
    figures.draw(ITEMS[item], [part], [values], tmp_path)
    assert [(row["name"], row[value]) for row in drawn] == [("dense", 0.4), ("k=0", 0.1)]


def test_the_dense_network_is_drawn_where_the_paper_prints_it(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures.column_points, "plot", lambda rows, *_, **__: drawn.extend(rows))
    part = runs_of("lottery-jackpots-table-1", tmp_path, "dense", "0.0")
    part = part._replace(
        combinations=[*part.combinations, Combination(SimpleNamespace(seed=0), tmp_path, "SET", "0.9")]
    )
    values = {("dense", "0.0", 0): {"after": 94.0}, ("SET", "0.9", 0): {"after": 92.0}}
    figures.draw(ITEMS["lottery-jackpots-table-1"], [part], [values], tmp_path)
    assert [(row["name"], row["after"]) for row in drawn] == [("dense", 0.94), ("SET", 0.92)]


def test_printed_numbers_of_checks_and_costs_are_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures.accuracy_curves, "plot_sanity", lambda *_, paper, **__: drawn.extend(paper))
    run = Combination(SimpleNamespace(seed=0), tmp_path, "LRR", "0.95", checks=("shuffle_weights", "half_data"))
    part = ITEMS["sanity-checking-table-3"].parts[0]
    values = {("LRR", "0.95", 0): {"after": 93.0}}
    figures.draw(ITEMS["sanity-checking-table-3"], [PartRuns(part, [run], ())], [values], tmp_path)
    at = {row["check"]: row["after"] for row in drawn if row["sparsity"] == 0.95}
    assert at == pytest.approx({"ticket": 0.9399, "shuffle_weights": 0.9333, "half_data": 0.9353})
    monkeypatch.setattr(figures.cost_curves, "plot", lambda rows, *given: drawn.append((rows, given)))
    part = runs_of("rare-gems-table-5", tmp_path, "GEM-MINER", "0.9856")
    values = {("GEM-MINER", "0.9856", 0): {"after": 77.0, "epochs": 300.0}}
    figures.draw(ITEMS["rare-gems-table-5"], [part], [values], tmp_path)
    rows, (_, _, cost, value, paper, _) = drawn[-1]
    assert [(row[cost], row[value]) for row in rows] == [(300.0, 0.77)]
    assert {row["name"]: row[cost] for row in paper}["Long GEM-MINER"] == 3000


def test_a_claim_may_be_of_one_column_and_a_printed_number_with_an_error_is_not_exact(tmp_path):
    part = runs_of("rare-gems-figure-2", tmp_path, "lambda 0", "0.9856")
    claim = Claim("more than 70 %", "lambda 0", "", at_least=70.0)
    part = part._replace(part=part.part._replace(claims=(claim,)))
    values = {("lambda 0", "0.9856", 0): {"after": 71.5, "kept": 49.6}}
    (row,) = report._claims([part], [values])
    assert row["differences"] == [71.5]
    (kept,) = report.paper_rows([part], [values])
    assert (kept["paper"], kept["error"], kept["ours"]) == (50.0, 5.0, [49.6])
    assert "exact" not in kept


def test_points_of_several_sparsities_have_panels_of_their_own(tmp_path, monkeypatch):
    """They were one mean, with a deviation that was no noise of seeds."""
    drawn = []
    monkeypatch.setattr(figures.column_points, "plot", lambda rows, *given, **_: drawn.append((rows, given[4])))
    item, part = "lottery-jackpots-table-3", ITEMS["lottery-jackpots-table-3"].parts[0]
    runs = [Combination(SimpleNamespace(seed=0), tmp_path, "SET", sparsity) for sparsity in ("0.8", "0.9")]
    values = {("SET", "0.8", 0): {"after": 90.0}, ("SET", "0.9", 0): {"after": 80.0}}
    figures.draw(ITEMS[item], [PartRuns(part._replace(name="p"), runs, ())], [values], tmp_path)
    ((rows, paper),) = drawn
    assert [(row["panel"], row["after"]) for row in rows] == [("p, 80 %", 0.9), ("p, 90 %", 0.8)]
    assert {row["panel"] for row in paper if row["name"] == "SET"} == {"p, 80 %", "p, 90 %"}
    assert [row["panel"] for row in paper if row["name"] == "dense"] == ["p, 80 %", "p, 90 %"]


@pytest.mark.parametrize("row", ["search,1", "search,1,0.5,9"])
def test_damaged_epochs_of_a_run_are_told(row, tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "metrics.csv").write_text(f"phase,epoch,test_accuracy\n{row}\n")
    part = runs_of("rare-gems-figure-5", tmp_path, "GEM-MINER", "0.9856")
    (told,) = figures.draw(ITEMS["rare-gems-figure-5"], [part], [{}], tmp_path)
    assert told == f"figure 1: not drawn yet ({tmp_path}/metrics.csv: expected the epochs of a run, got a damaged file)"


@pytest.mark.parametrize("name", ["table.csv", "table.md", "claims.csv", "runs.csv"])
def test_a_folder_in_the_place_of_a_table_is_told_before_the_runs(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match=rf"{name}: expected the table of this item, got a folder"):
        report.check_tables(tmp_path)


@pytest.mark.parametrize("finished", [True, False])
def test_weights_of_a_run_that_is_there_are_read_before_training(finished, tmp_path, monkeypatch):
    """A finished dense network whose ticket is damaged was told in the middle of the item."""
    read = []
    monkeypatch.setattr(make, "_finished", lambda each: finished and each.column == "dense")
    monkeypatch.setattr(make, "check_pretrained", lambda config: read.append(config.pretrained) or ())
    shared = {"model": "m", "network": None, "replace_classifier": False, "allow_missing": None}
    config = SimpleNamespace(pretrained=tmp_path, allow_unexpected=None, **shared)
    need = Combination(SimpleNamespace(pretrained=None), tmp_path, "dense", "0.0")
    make.check_weights([need, Combination(config, tmp_path / "jackpot", "Jackpot", "0.9", (need,))])
    assert read == ([tmp_path] if finished else [])


def test_what_was_computed_stands_in_the_table_where_the_paper_prints_nothing(tmp_path):
    part = ITEMS["small-networks-connectivity"].parts[0]
    runs = [Combination(SimpleNamespace(seed=seed), tmp_path, "k=0", "0.893") for seed in (0, 1)]
    values = {("k=0", "0.893", s): {"after": 95.0 + s, "connectivity.error_barrier": 0.1 * s} for s in (0, 1)}
    rows = report._own_rows([PartRuns(part, runs, ())], [values])
    assert [(row["what"], row["unit"], row["ours"]) for row in rows] == [
        ("after finetuning, 89.3 %", "%", [95.0, 96.0]),
        ("connectivity.error barrier, 89.3 %", "points", [0.0, 0.1]),
    ]
