"""Figures over seeds: the numbers in their artists, and that legends and labels do not cover lines."""

import math

import numpy as np
import pytest

from rare_gems.reports import comparison_figures as plots

SPARSITIES = [0.95, 0.9856, 0.995, 0.998]


def accuracy(pruner, sparsity, seed):
    return 0.9 - 0.1 * pruner - 0.2 * SPARSITIES.index(sparsity) + 0.01 * seed * (1 + pruner)


def runs(num_pruners=3, seeds=3, sparsities=SPARSITIES):
    return [
        {"pruner": f"p{p}", "sparsity": s, "seed": seed, "after": accuracy(p, s, seed), "before": 0.1 + 0.01 * p}
        for p in range(num_pruners) for s in sparsities for seed in range(seeds)
    ]  # fmt: skip


def line(axes, label):
    (found,) = [item for item in axes.lines if item.get_label() == label]
    return found


def bars(axes, label):
    """[[low, high] of each bar]."""
    (found,) = [item for item in axes.collections if item.get_label() == label]
    return np.array([segment[:, 1] for segment in found.get_segments()])


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_comparison_figure(tmp_path):
    rows = [*runs(), *({"pruner": "dense", "sparsity": 0, "seed": s, "after": 0.9 + 0.02 * s} for s in range(2))]
    figure = plots.plot_comparison(rows, tmp_path / "after.png", "a title", chance=0.1)
    assert (tmp_path / "after.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = figure.axes
    assert (axes.get_title(), axes.get_xlabel()) == ("a title", "Sparsity (%)")
    assert axes.get_ylabel() == "Accuracy after finetuning (%)"
    for p in range(3):
        values = 100 * np.array([[accuracy(p, s, seed) for seed in range(3)] for s in SPARSITIES])
        np.testing.assert_allclose(line(axes, f"p{p}").get_xdata(), [95, 98.56, 99.5, 99.8])
        np.testing.assert_allclose(line(axes, f"p{p}").get_ydata(), values.mean(1))
        ends = values.mean(1)[:, None] + values.std(1, ddof=1)[:, None] * [-1, 1]
        np.testing.assert_allclose(bars(axes, f"_std of p{p}"), ends)
    np.testing.assert_allclose(line(axes, "dense").get_ydata(), 91)
    (band,) = [patch for patch in axes.patches if patch.get_label() == "_std of dense"]
    np.testing.assert_allclose(band.get_height(), 200 * np.std([0.9, 0.92], ddof=1))
    np.testing.assert_allclose(line(axes, "chance").get_ydata(), 10)
    assert legend(figure) == ["dense", "p0", "p1", "p2", "chance"]


def test_sparsity_is_drawn_as_the_logarithm_of_what_is_kept():
    (axes,) = plots.plot_comparison(runs(sparsities=[0.95, 0.995]), None, "").axes
    left, middle, right = axes.transData.transform([(95, 0), (100 * (1 - 0.005 * 10**0.5), 0), (99.5, 0)])[:, 0]
    np.testing.assert_allclose(middle, (left + right) / 2, rtol=1e-6)
    (axes,) = plots.plot_comparison(runs(), None, "").axes
    assert [axes.xaxis.get_major_formatter()(x) for x in axes.get_xticks()] == ["95", "98.56", "99.5", "99.8"]
    (axes,) = plots.plot_comparison(runs(2, 1), None, "").axes
    low, high = axes.get_xlim()
    assert 90 < low < 95 < 99.8 < high < 100


def test_ticks_without_room_are_left_out():
    rows = [{"pruner": "a", "sparsity": s, "seed": 0, "after": 0.5} for s in (0.5, 0.9856, 0.986, 0.9999)]
    (axes,) = plots.plot_comparison(rows, None, "").axes
    np.testing.assert_allclose(axes.get_xticks(), [50, 98.56, 99.99])
    assert [axes.xaxis.get_major_formatter()(x) for x in axes.get_xticks()] == ["50", "98.56", "99.99"]


def test_before_looks_like_after():
    rows = [row for row in runs() if row["pruner"] != "p0"] + [
        r | {"before": None} for r in runs() if r["pruner"] == "p0"
    ]
    after, before = (plots.plot_comparison(rows, None, "", value).axes[0] for value in ("after", "before"))
    assert before.get_ylabel() == "Accuracy before finetuning (%)"
    np.testing.assert_allclose(line(before, "p1").get_ydata(), 11)
    for name in ("p0", "p1", "p2"):
        a, b = line(after, name), line(before, name)
        assert (a.get_color(), a.get_marker()) == (b.get_color(), b.get_marker())
    assert legend(before.figure) == ["p2", "p1"]  # p0 has nothing to show
    assert legend(after.figure) == ["p0", "p1", "p2"]


def test_gaps_and_single_seeds():
    rows = [r | {"after": None} if (r["pruner"], r["sparsity"]) == ("p1", 0.9856) else r for r in runs(seeds=1)]
    rows = [r for r in rows if (r["pruner"], r["sparsity"]) != ("p2", 0.998)]
    figure = plots.plot_comparison(rows, None, "", dense=[0.93])
    (axes,) = figure.axes
    assert np.isnan(line(axes, "p1").get_ydata()).tolist() == [False, True, False, False]
    assert np.isnan(line(axes, "p2").get_ydata()).tolist() == [False, False, False, True]
    assert not axes.collections
    assert not axes.patches  # one seed has no spread, and the dense network no band
    np.testing.assert_allclose(line(axes, "dense").get_ydata(), 93)


def test_one_sparsity():
    (axes,) = plots.plot_comparison(runs(5, 2, [0.9856]), None, "").axes
    axes.figure.draw_without_rendering()
    places = [item.get_transform().transform([(98.56, 50)])[0, 0] for item in axes.lines]
    np.testing.assert_allclose(np.diff(places), np.diff(places)[0])
    assert np.diff(places)[0] > 15  # pixels: the bars stand apart
    assert axes.get_xticks().tolist() == pytest.approx([98.56])


def test_styles_differ():
    (axes,) = plots.plot_comparison(runs(18, 1), None, "").axes
    styles = {(i.get_color(), i.get_marker(), i.get_linestyle(), i.get_markerfacecolor()) for i in axes.lines}
    assert len(styles) == 18


def test_legend_is_outside_and_all_runs_inside():
    rows = runs(2)
    figure = plots.plot_comparison(rows, None, "", chance=0.1)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert figure.legends[0].get_window_extent().x0 >= axes.get_window_extent().x1
    low, high = axes.get_ylim()
    assert 0 < low < 10
    assert 100 * max(row["after"] for row in rows) < high < 101


def test_comparison_figure_of_bad_rows():
    with pytest.raises(ValueError, match="value: expected 'after' or 'before', got 'best'"):
        plots.plot_comparison(runs(), None, "", "best")
    with pytest.raises(ValueError, match="beside 'dense', got 0 rows"):
        plots.plot_comparison([], None, "")


def test_sanity_figure(tmp_path):
    rows = [
        {"check": "ticket", "before": [0.5, 0.6], "after": [0.7, 0.8]},
        {"check": "reinit", "before": [0.1, 0.1], "after": [0.6, 0.62]},
        {"check": "half", "before": None, "after": [0.7]},
        {"check": "none", "after": [None, math.nan]},
    ]
    figure = plots.plot_sanity(rows, tmp_path / "sanity.png", "checks")
    assert (tmp_path / "sanity.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["ticket", "reinit", "half", "none"]
    assert axes.yaxis_inverted()  # the ticket is above
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [55, 10, 75, 61, 70])
    middles = [bar.get_y() + bar.get_height() / 2 for bar in axes.patches]
    np.testing.assert_allclose(middles, [-0.2, 0.8, 0.2, 1.2, 2.2])
    spreads = [item.get_segments()[0][:, 0] for item in axes.collections]
    expected = [(55, [0.5, 0.6]), (10, [0.1, 0.1]), (75, [0.7, 0.8]), (61, [0.6, 0.62])]
    expected = [[mean - 100 * np.std(v, ddof=1), mean + 100 * np.std(v, ddof=1)] for mean, v in expected]
    np.testing.assert_allclose(spreads, expected, atol=1e-9)
    np.testing.assert_allclose(line(axes, "_ticket").get_xdata(), 75)
    dash = "\N{EN DASH}"
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["55.0 ± 7.1", "10.0 ± 0.0", dash, dash, "75.0 ± 7.1", "61.0 ± 1.4", "70.0", dash]
    assert legend(figure) == ["before finetuning", "after finetuning"]
    assert axes.get_xlim()[0] == 0
    assert axes.get_xlim()[1] > 75 + 7.07


def test_sanity_figure_without_before():
    figure = plots.plot_sanity([{"check": "ticket", "after": [0.5]}, {"check": "half", "after": [0.4]}], None, "")
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.8, 0.8]
    assert legend(figure) == ["after finetuning"]
    for names in ([], ["half"]):
        with pytest.raises(ValueError, match="expected 'ticket' first, got"):
            plots.plot_sanity([{"check": name, "after": [0.5]} for name in names], None, "")
