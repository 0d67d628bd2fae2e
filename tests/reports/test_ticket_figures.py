"""Accuracy before against after, and layerwise sparsity of several tickets."""

import numpy as np
import pytest

from rare_gems.reports import column_points, layer_curves, scatter


def line(axes, label):
    (found,) = [item for item in axes.lines if item.get_label() == label]
    return found


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_scatter(tmp_path):
    rows = [{"pruner": "gm", "before": 0.6 + 0.02 * s, "after": 0.8 + 0.04 * s} for s in (0, 1)]
    rows += [{"pruner": "ep", "before": 0.2, "after": 0.25}, {"pruner": "none", "before": None, "after": 0.5}]
    paper = [{"pruner": "gm", "before": 0.5, "after": 0.9}]
    figure = scatter.plot(rows, tmp_path / "a.png", "t", paper=paper, note="small")
    assert (tmp_path / "a.png").exists()
    (axes,) = figure.axes
    np.testing.assert_allclose(line(axes, "gm").get_xydata(), [[61, 82]])
    np.testing.assert_allclose(line(axes, "_runs of gm").get_xydata(), [[60, 80], [62, 84]])
    across, up = axes.collections
    np.testing.assert_allclose(across.get_segments()[0][:, 0], 61 + np.array([-1, 1]) * 2**0.5)
    np.testing.assert_allclose(up.get_segments()[0][:, 1], 82 + np.array([-2, 2]) * 2**0.5)
    np.testing.assert_allclose(line(axes, "_paper's gm").get_xydata(), [[50, 90]])
    assert line(axes, "_paper's gm").get_markerfacecolor() == "none"
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xticks().tolist() == axes.get_yticks().tolist()
    diagonal = line(axes, "_no gain").get_xydata()
    np.testing.assert_allclose(diagonal[:, 0], diagonal[:, 1])
    assert legend(figure) == ["gm", "ep", "no gain", "the paper"]
    assert figure.get_supxlabel() == "large points: means ± standard deviation over seeds\nsmall"
    with pytest.raises(ValueError, match="expected some with 'before' and 'after', got 1 rows without"):
        scatter.plot(rows[-1:], None, "t")


def test_scatter_of_panels():
    rows = [{"name": "gm", "before": 0.1, "after": 0.1, "panel": p} for p in ("98.6 %", "99.5 %")]
    figure = scatter.plot(rows, None, "t")
    assert [axes.get_title() for axes in figure.axes] == ["98.6 %", "99.5 %"]
    assert figure.get_suptitle() == "t"
    low, high = figure.axes[0].get_xlim()
    assert low < 10 < high
    assert figure.get_supxlabel() == "one seed"  # of each panel


def layers(*kept, sizes=(100, 200, 50)):
    return [
        {"name": f"l{i}/kernel", "num_prunable": n, "num_kept": k}
        for i, (n, k) in enumerate(zip(sizes, kept, strict=True))
    ]


def test_layers():
    rows = [{"pruner": "gm", "seed": s, "layers": layers(10 + 2 * s, 20, 0)} for s in (0, 1)]
    rows += [{"pruner": "imp", "seed": 0, "layers": layers(50, 20, 5)}]
    figure = layer_curves.plot(rows, None, "t", paper=[{"name": "gm", "layers": layers(20, 20, 10)}], note="small")
    axes, bars = figure.axes
    np.testing.assert_allclose(line(axes, "gm").get_ydata(), [89, 90, 100])
    np.testing.assert_allclose(line(axes, "imp").get_ydata(), [50, 90, 90])
    np.testing.assert_allclose(line(axes, "_paper's gm").get_ydata(), [80, 90, 80])
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([heights.min(), heights.max()], [89 - 2**0.5, 100])
    np.testing.assert_allclose([bar.get_height() for bar in bars.patches], [100, 200, 50])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["l0", "l1", "l2"]
    assert legend(figure) == ["gm", "imp", "the paper", "size of the layer"]
    assert figure.get_supxlabel() == "mean ± standard deviation over seeds\nsmall"


def test_panels_of_layers_name_them_once():
    rows = [{"name": "gm", "panel": p, "layers": layers(k, k, k)} for p, k in (("50 %", 50), ("90 %", 10))]
    rows += [{"name": "gm", "panel": "another network", "layers": layers(1, 1, sizes=(10, 20))}]
    figure = layer_curves.plot(rows, None, "t")
    labels = [[text.get_text() for text in axes.get_xticklabels()] for axes in figure.axes[:3]]
    assert labels == [[], ["l0", "l1", "l2"], ["l0", "l1"]]
    assert figure.get_supxlabel() == "one seed"


def test_tickets_over_other_layers_are_named():
    rows = [{"name": "gm", "layers": layers(1, 1, 1)}, {"name": "imp", "layers": layers(1, 1, sizes=(9, 9))}]
    with pytest.raises(ValueError, match="expected the 3 layers of gm for every ticket, got 2 others for imp"):
        layer_curves.plot(rows, None, "t")
    with pytest.raises(ValueError, match="at least one ticket, got none"):
        layer_curves.plot([], None, "t")


def test_column_points():
    rows = [{"pruner": "EP, global", "before": 0.2 + 0.02 * s, "after": 0.34} for s in (0, 1)]
    rows += [{"pruner": "GM", "before": None, "after": 0.66}]
    paper = [{"pruner": "GM", "before": 0.453, "after": 0.6615, "after_error": 0.01}]
    figure = column_points.plot(rows, None, "t", values=("before", "after"), paper=paper, note="small")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["EP, global", "GM"]
    assert axes.yaxis_inverted()
    np.testing.assert_allclose(line(axes, "before of EP, global").get_xydata(), [[21, -0.18]])
    np.testing.assert_allclose(line(axes, "after of GM").get_xydata(), [[66, 1.18]])
    assert "before of GM" not in [item.get_label() for item in axes.lines]
    np.testing.assert_allclose(line(axes, "_paper's before of GM").get_xydata(), [[45.3, 0.82]])
    bars = [item.get_segments()[0][:, 0] for item in axes.collections]
    np.testing.assert_allclose(bars[0], 21 + np.array([-1, 1]) * 2**0.5)
    np.testing.assert_allclose(bars[-1], [65.15, 67.15])
    assert legend(figure) == ["before finetuning", "after finetuning", "the paper"]
    assert figure.get_supxlabel().endswith("over seeds\nsmall")
    with pytest.raises(ValueError, match="expected some with top5, got 3 rows without"):
        column_points.plot(rows, None, "t", values=("top5",))


def test_column_points_of_many_panels_stand_in_rows_of_four():
    rows = [{"name": "EP", "after": 0.1 * i, "panel": f"p{i}"} for i in range(1, 6)]
    figure = column_points.plot(rows, None, "t")
    assert [axes.get_title() for axes in figure.axes] == [f"p{i}" for i in range(1, 6)]
    names = [[text.get_text() for text in axes.get_yticklabels()] for axes in figure.axes]
    assert names == [["EP"], [""], [""], [""], ["EP"]]
    tops = [axes.get_subplotspec().rowspan.start for axes in figure.axes]
    assert tops == [0, 0, 0, 0, 1]
