"""Stability of tickets among the columns of a part, against NumPy, and what stands where."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments.comparison.expand import Combination
from experiments.papers.item import Analysis, Part, Small
from experiments.papers.stabilizing_networks import stability
from experiments.papers.table import ITEMS
from experiments.reproduction import analyses, figures
from experiments.reproduction.spread import PartRuns
from experiments.run_folder import paths
from rare_gems.phase import Ticket
from rare_gems.storage import ticket_file

MASK = {"w": np.array([[True, False], [True, True]]), "b": None}


def ticket(seed, mask=MASK):
    weights = np.random.default_rng(seed).normal(size=(2, 2)).astype(np.float32)
    return Ticket({"w": weights, "b": np.ones(2, np.float32)}, None, mask)


def vector(ticket):
    return ticket.params["w"][MASK["w"]].astype(float)


def l2(a, b):
    return np.linalg.norm(vector(a) - vector(b))


def test_means_over_pairs_against_numpy():
    some, whole = [ticket(i) for i in range(4)], ticket(9)
    found = analyses.stability(some, some[:1], whole)
    both = [(a, b) for i, a in enumerate(some) for b in some[:i]]
    pairs = [l2(a, b) for a, b in both]
    assert len(pairs) == 6
    cosine = [vector(a) @ vector(b) / np.linalg.norm(vector(a)) / np.linalg.norm(vector(b)) for a, b in both]
    np.testing.assert_allclose(found["order_l2"], np.mean(pairs))
    np.testing.assert_allclose(found["order_angle"], np.mean(np.degrees(np.arccos(cosine))))
    np.testing.assert_allclose(found["pruning_l2"], l2(some[0], whole))
    assert set(analyses.stability(some[:1], some[:1], whole)) == {"pruning_l2", "pruning_angle"}
    assert analyses.stability(some[:1], [], None) == {}
    with pytest.raises(ValueError, match="expected tickets of one mask"):
        analyses.stability([some[0], ticket(1, {"w": ~MASK["w"], "b": None})], [], None)


def test_values_stand_with_the_first_column(tmp_path, monkeypatch):
    """Columns of two seeds; only the first sees the data as the whole network does; one run is not finished."""
    order = {"IMP": 1, "IMP, order 2": 2, "IMP, order 3": 3, "dense": 1}
    cells, tickets = [], {}
    for seed in (0, 1):
        for i, (name, data_seed) in enumerate(order.items()):
            folder = tmp_path / f"{name} {seed}"
            folder.mkdir()
            if (name, seed) != ("IMP, order 3", 1):
                (folder / "summary.json").write_text("{}")
            tickets[folder] = ticket(10 * seed + i)
            config = SimpleNamespace(seed=seed, data_seed=data_seed)
            cells.append(
                SimpleNamespace(column=name, sparsity="0.0" if name == "dense" else "0.9", config=config, folder=folder)
            )
    monkeypatch.setattr(analyses, "_ticket", lambda each: tickets[each.folder])
    asked = Analysis("stability", ("IMP", "IMP, order 2", "IMP, order 3"), against="dense")
    found = analyses.computed(Part("digits", "m", (), ("0.9",), Small("", ""), analyses=(asked,)), cells)
    assert set(found) == {("IMP", "0.9", 0), ("IMP", "0.9", 1)}
    at = lambda name, seed: tickets[tmp_path / f"{name} {seed}"]  # noqa: E731
    np.testing.assert_allclose(found["IMP", "0.9", 1]["stability.order_l2"], l2(at("IMP", 1), at("IMP, order 2", 1)))
    np.testing.assert_allclose(found["IMP", "0.9", 0]["stability.pruning_l2"], l2(at("IMP", 0), at("dense", 0)))


def test_stability_of_what_a_check_makes_of_the_tickets(tmp_path, monkeypatch):
    """The random subnetwork: the shuffled masks of two orders, the first against the whole network."""
    tickets, cells = {}, []
    for i, (name, data_seed) in enumerate({"IMP": 1, "IMP, order 2": 2, "dense": 1}.items()):
        for j, folder in enumerate((tmp_path / name, tmp_path / name / "sanity" / "shuffle")):
            folder.mkdir(parents=True)
            (folder / "summary.json").write_text("{}")
            tickets[folder] = ticket(10 * i + j)
        config = SimpleNamespace(seed=0, data_seed=data_seed)
        cells.append(Combination(config, tmp_path / name, name, "0.0" if name == "dense" else "0.9"))
    monkeypatch.setattr(analyses, "_ticket", lambda each: tickets[each.folder])
    asked = tuple(stability("IMP", 2, check) for check in ("", "shuffle"))
    found = analyses.computed(Part("digits", "m", (), ("0.9",), Small("", ""), analyses=asked), cells)
    values = found["IMP", "0.9", 0]
    first, second = (tickets[tmp_path / name / "sanity" / "shuffle"] for name in ("IMP", "IMP, order 2"))
    np.testing.assert_allclose(values["stability.shuffle_order_l2"], l2(first, second))
    np.testing.assert_allclose(values["stability.shuffle_pruning_l2"], l2(first, tickets[tmp_path / "dense"]))
    assert values["stability.order_l2"] != values["stability.shuffle_order_l2"]


def test_a_rewound_ticket_is_compared_with_the_whole_network_that_began_at_the_same_weights(tmp_path, monkeypatch):
    """What the first round trained from W_k by a new optimizer; the dense run has its momentum at step k."""
    whole, cells = ticket(3), []
    whole = whole._replace(mask={"w": np.ones((2, 2), bool), "b": None})
    for name in ("IMP", "dense"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text("{}")
        config = SimpleNamespace(seed=0, data_seed=1)
        cells.append(Combination(config, tmp_path / name, name, "0.0" if name == "dense" else "0.9"))
    ticket_file.save(paths.round_file(tmp_path / "IMP", 1), whole, metadata={}, model_state={})
    monkeypatch.setattr(analyses, "_ticket", lambda each: ticket({"IMP": 1, "dense": 2}[each.column]))
    part = Part("digits", "m", (), ("0.9",), Small("", ""), analyses=(stability("IMP", 2),))
    values = analyses.computed(part, cells)["IMP", "0.9", 0]
    np.testing.assert_allclose(values["stability.pruning_l2"], l2(ticket(1), whole))
    assert values["stability.pruning_l2"] != pytest.approx(l2(ticket(1), ticket(2)))


@pytest.mark.parametrize("item", [f"stabilizing-figure-{number}" for number in (4, 7, 11, 12)])
def test_figures_over_rewinding_draw_both_subnetworks(item, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        figures.rewind_curves, "plot", lambda rows, file, title, values, *_: drawn.append((values, rows))
    )
    parts = []
    for part in ITEMS[item].parts[:1]:
        config = SimpleNamespace(seed=0)
        runs = [Combination(config, tmp_path, column.name, part.sparsities[0]) for column in part.columns]
        parts.append(PartRuns(part._replace(name="p"), [*runs, Combination(config, tmp_path, "dense", "0.0")], ()))
    per_line = {value: i for figure in ITEMS[item].figures for i, (_, value) in enumerate(figure.lines)}
    values = [{(e.column, e.sparsity, 0): {value: 50.0 + i for value, i in per_line.items()}
               for e in runs.combinations} for runs in parts]  # fmt: skip
    figures.draw(ITEMS[item], parts, values, tmp_path)
    assert len(drawn) == len(ITEMS[item].figures)
    assert drawn[-1][0] == ("after",)
    for (value,), rows in drawn:
        scale = 100 if value == "after" else 1
        names = {row["name"]: row[value] for row in rows}
        assert names["IMP"] == 50 / scale
        assert names["random"] == 51 / scale
        assert {row["x"] for row in rows if row["name"] == "random"} == {c.x for c in parts[0].part.columns}


def test_barriers_are_means_over_the_pairs_of_orders_that_are_there(tmp_path, monkeypatch):
    """Three orders of a seed, of which a pair's line dips by as many points as the pair's numbers add up to."""
    cells, looked = [], []
    for seed, done in ((0, 3), (1, 1)):
        for i, name in enumerate(("k=0", "k=0, order 2", "k=0, order 3")):
            folder = tmp_path / f"{i} {seed}"
            folder.mkdir()
            if i < done:
                (folder / "summary.json").write_text("{}")
            config = SimpleNamespace(seed=seed)
            cells.append(SimpleNamespace(column=name, sparsity="0.9", config=config, folder=folder))

    def lines(pairs, *, examples):
        assert examples == 0  # all
        looked.extend(pairs)
        dip = {0: 0.0, 0.5: 0.01, 1: 0.0}
        return [
            {"first": a, "second": b, "over": "their mask", "ticket": "t", "rewound_to": 0, "alpha": alpha,
             "loss": 10 * (a + b) * low, "accuracy": 0.9 - (a + b) * low}
            for a, b in pairs for alpha, low in dip.items()
        ]  # fmt: skip

    monkeypatch.setattr(analyses, "networks_of", lambda folders: [int(folder.name[0]) for folder in folders])
    monkeypatch.setattr(analyses.lines, "lines", lines)
    asked = Analysis("connectivity", ("k=0", "k=0, order 2", "k=0, order 3"))
    found = analyses.computed(Part("digits", "m", (), ("0.9",), Small("", ""), analyses=(asked,)), cells)
    assert looked == [(0, 1), (0, 2), (1, 2)]
    assert set(found) == {("k=0", "0.9", 0)}  # of the other seed one order is there
    np.testing.assert_allclose(found["k=0", "0.9", 0]["connectivity.error_barrier"], 2.0)  # (1 + 2 + 3) / 3 points
    np.testing.assert_allclose(found["k=0", "0.9", 0]["connectivity.loss_barrier"], 0.2)
