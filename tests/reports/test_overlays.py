"""Runs laid over each other by epoch: phases joined, seeds averaged, bounds and the begin of finetuning."""

import numpy as np
import pytest

from rare_gems.reports import overlays


def run(search, finetune=0, seed=0, bound=False, every=1):
    rows = [{"phase": "search", "epoch": e} for e in range(1, search + 1)]
    rows += [{"phase": "finetune", "epoch": e} for e in range(1, finetune + 1)]
    for i, row in enumerate(rows):
        row |= {"test_accuracy": 0.1 + 0.1 * i + 0.02 * seed if row["epoch"] % every == 0 else "", "sparsity": 0.1 * i}
        row |= {"bound": 0.09 * i if bound and row["phase"] == "search" else ""}
    return rows


def line(axes, label):
    (found,) = [item for item in axes.lines if item.get_label() == label]
    return found


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_phases_are_joined_and_seeds_averaged(tmp_path):
    figure = overlays.plot({"gm": [run(3, 2, seed) for seed in (0, 1)]}, tmp_path / "a.png", "t", note="small")
    assert (tmp_path / "a.png").exists()
    (axes,) = figure.axes
    np.testing.assert_allclose(line(axes, "gm").get_xydata(), [[e, 10 * e + 1] for e in (1, 2, 3, 4, 5)])
    np.testing.assert_allclose(line(axes, "_finetuning begins").get_xdata(), 3)
    assert legend(figure) == ["gm", "finetuning begins"]
    assert figure.get_supxlabel() == "mean ± standard deviation over 2 seeds\nsmall"


def test_a_seed_that_lags_behind_bends_no_mean():
    rows, _ = overlays.joined({"gm": [run(4, 0, 0), run(2, 0, 50)]})
    assert [row["epoch"] for row in rows] == [1, 2, 1, 2]
    rows, begins = overlays.joined({"gm": [run(4, 2), []], "dense": [run(0, 3)]})  # one seed has not begun
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6, 1, 2, 3]
    assert begins == {"gm": 4.0, "dense": 0.0}


def test_begins_of_several_lengths_are_ticks_on_the_lines():
    figure = overlays.plot({"gm": [run(2, 2)], "imp": [run(4, 2)], "dense training": [run(0, 3)]}, None, "t")
    (axes,) = figure.axes
    ticks = [item.get_xydata()[0].tolist() for item in axes.lines if item.get_label() == "_finetuning begins"]
    np.testing.assert_allclose(ticks, [[2, 20], [4, 40]])
    assert legend(figure)[-1] == "finetuning begins"


def test_what_is_not_measured_breaks_no_line():
    (axes,) = overlays.plot({"gm": [run(6, every=2)]}, None, "t").axes
    assert line(axes, "gm").get_xdata().tolist() == [2, 4, 6]


def test_bounds():
    runs = {"a": [run(3, bound=True)], "b": [run(3, bound=True)], "c": [run(3)]}
    figure = overlays.plot(runs, None, "t", values=("test_accuracy", "sparsity"))
    accuracy, sparsity = figure.axes
    assert "_bound" not in [item.get_label() for item in accuracy.lines]
    np.testing.assert_allclose(line(sparsity, "_bound").get_ydata(), [0, 9, 18])  # the same for all: once
    runs["b"] = [[row | {"bound": 0.5} for row in run(3)]]
    _, sparsity = overlays.plot(runs, None, "t", values=("test_accuracy", "sparsity")).axes
    bounds = [item.get_color() for item in sparsity.lines if item.get_label() == "_bound"]
    assert bounds == [line(sparsity, name).get_color() for name in "ab"]
    assert sparsity.get_yscale() == "function"
    assert legend(figure)[-1] == "bound"


def test_paper_and_long_searches():
    paper = [{"name": "imp", "epoch": 300, "test_accuracy": 0.6}]
    (axes,) = overlays.plot({"gm": [run(3)]}, None, "t", paper=paper, scale="log").axes
    np.testing.assert_allclose(line(axes, "_paper's imp").get_xydata(), [[300, 60]])
    assert axes.get_xscale() == "function"
    assert axes.get_xlim()[1] > 300


def test_mistakes():
    with pytest.raises(ValueError, match=r"values: expected some of .*, got \['loss'\]"):
        overlays.plot({"gm": [run(1)]}, None, "t", values=("loss",))
    with pytest.raises(ValueError, match=r"rows of at least one run, got none for \['gm'\]"):
        overlays.plot({"gm": [[]]}, None, "t")
    with pytest.raises(ValueError, match=r"gm: expected phases 'search' and 'finetune', got \['train'\]"):
        overlays.plot({"gm": [[{"phase": "train", "epoch": 1}]]}, None, "t")
