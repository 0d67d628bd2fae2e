"""Stability of tickets among the columns of a part, against NumPy, and what stands where."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments.papers.item import Analysis, Part, Small
from experiments.reproduction import analyses
from rare_gems.phase import Ticket

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
