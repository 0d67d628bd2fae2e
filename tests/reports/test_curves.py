"""Curves over seeds, beside a paper's: the numbers in their artists, panels, gaps, and what a figure says of itself."""

import math

import numpy as np
import pytest

from rare_gems.reports import accuracy_curves, cost_curves, curves, overlap_curves, rewind_curves, samples, style
from rare_gems.reports.samples import Axis

SPARSITIES = [0.5, 0.9, 0.99]
X, Y = Axis("x", "x"), Axis("y", "y")


def line(axes, label):
    (found,) = [item for item in axes.lines if item.get_label() == label]
    return found


def spread(axes, name):
    """[[low, high] of each bar]."""
    (found,) = [item for item in axes.collections if item.get_label() == f"_spread of {name}"]
    return np.array([segment[:, 1] for segment in found.get_segments()])


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def under(figure):
    return figure.get_supxlabel()


def runs(names=("a", "b"), seeds=3, **more):
    return [
        {"name": name, "sparsity": s, "seed": seed, "after": 0.9 - 0.2 * s - 0.1 * i + 0.01 * seed, **more}
        for i, name in enumerate(names) for s in SPARSITIES for seed in range(seeds)
    ]  # fmt: skip


def test_means_and_spreads():
    rows = [{"x": 1, "y": v} for v in (0.1, 0.3, None)] + [{"x": 2, "y": ""}, {"x": None, "y": 1}, {"x": 0, "y": 5}]
    points = samples.summarize(rows, X, Y)
    np.testing.assert_allclose(points.x, [0, 1, 2])
    np.testing.assert_allclose(points.mean, [5, 0.2, np.nan])
    std = np.std([0.1, 0.3], ddof=1)
    np.testing.assert_allclose([points.low, points.high], [[np.nan, 0.2 - std, np.nan], [np.nan, 0.2 + std, np.nan]])
    assert points.n.tolist() == [1, 2, 0]
    wide = samples.summarize(rows, X._replace(gaps=False), Y._replace(percent=True), "range")
    np.testing.assert_allclose(
        [wide.x, wide.mean, wide.low, wide.high], [[0, 1], [500, 20], [np.nan, 10], [np.nan, 30]]
    )


def test_accuracy_with_the_papers_numbers(tmp_path):
    paper = [
        {"name": "a", "sparsity": 0.9, "after": 0.7, "error": 0.02},
        {"name": "c", "sparsity": 0.9, "after": 0.3},
        {"name": "dense", "after": 0.95},
    ]
    rows = [*runs(), {"name": "dense", "after": 0.91, "sparsity": 0}, {"name": "chance", "after": 0.1}]
    figure = accuracy_curves.plot(rows, tmp_path / "a.png", "a title", paper=paper, note="scale small: 500 images")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = figure.axes
    np.testing.assert_allclose(line(axes, "a").get_ydata(), [81, 73, 71.2])
    np.testing.assert_allclose(np.diff(spread(axes, "a")[:3]).ravel(), 2)  # std of 0, 1, 2 points is 1
    ours, printed = line(axes, "a"), line(axes, "_paper's a")
    np.testing.assert_allclose(printed.get_xydata(), [[90, 70]])
    assert printed.get_color() == ours.get_color()
    assert (printed.get_markerfacecolor(), printed.get_linestyle()) == ("white", "--")
    assert ours.get_linestyle() == "-"
    (bars,) = [item for item in axes.collections if item.get_label() == "_error of a"]
    np.testing.assert_allclose(bars.get_segments()[0][:, 1], [68, 72])
    np.testing.assert_allclose(
        [line(axes, name).get_ydata()[0] for name in ("dense", "chance", "_paper's dense")], [91, 10, 95]
    )
    assert legend(figure) == ["dense", "a", "b", "c", "chance", "the paper"]
    assert under(figure) == "mean ± standard deviation over 3 seeds\nscale small: 500 images"
    low, high = axes.get_ylim()
    assert 0 < low < 10 < 95 < high < 102


def test_points_of_one_sparsity_stand_apart_and_inside():
    rows = [row | {"panel": panel} for panel in ("p", "q") for row in runs([f"m{i}" for i in range(14)], seeds=1)]
    figure = accuracy_curves.plot(rows, None, "t")
    figure.draw_without_rendering()
    for axes in figure.axes:
        ends = [item.get_transform().transform(item.get_xydata())[[0, -1], 0] for item in axes.lines]
        inside = axes.get_window_extent()
        assert np.min(ends) > inside.x0 + 2
        assert np.max(ends) < inside.x1 - 2
        assert len({round(float(first), 2) for first, _ in ends}) == 14
    assert figure.legends[0].get_window_extent().x0 >= max(axes.get_window_extent().x1 for axes in figure.axes)


def test_panels():
    rows = [row | {"panel": panel} for panel in ("p", "q", "r", "s") for row in runs(seeds=1)]
    figure = accuracy_curves.plot(rows, None, "four networks")
    assert [axes.get_title() for axes in figure.axes] == ["p", "q", "r", "s"]
    assert figure.get_suptitle() == "four networks"
    assert [axes.get_ylabel() != "" for axes in figure.axes] == [True, False, True, False]  # two by two
    assert legend(figure) == ["a", "b"]
    assert under(figure) == "one seed"


def test_what_is_missing_is_a_gap():
    rows = [row | {"after": None} if (row["name"], row["sparsity"]) == ("a", 0.9) else row for row in runs()]
    (axes,) = accuracy_curves.plot(rows, None, "t").axes
    assert np.isnan(line(axes, "a").get_ydata()).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="expected some with sparsity and before, got 18 rows"):
        accuracy_curves.plot(rows, None, "t", value="before")


def test_sanity_curves():
    checks = ["shuffle", "ticket", "reinit"]
    rows = [{**row, "check": row["name"], "before": 0.1} for row in runs(checks)]
    rows = [{key: value for key, value in row.items() if key != "name"} for row in rows]
    figure = accuracy_curves.plot_sanity(rows, None, "checks", values=("before", "after"))
    before, after = figure.axes
    assert (before.get_ylabel(), after.get_ylabel()) == (
        "Accuracy before finetuning (%)",
        "Accuracy after finetuning (%)",
    )
    assert [item.get_label() for item in after.lines] == ["ticket", "shuffle", "reinit"]
    assert line(after, "ticket").get_linewidth() > line(after, "reinit").get_linewidth()
    with pytest.raises(ValueError, match=r"expected some of the check 'ticket', got \['reinit'\]"):
        accuracy_curves.plot_sanity([row for row in rows if row["check"] == "reinit"], None, "t")


def test_long_lines_have_bands():
    rows = [{"name": "a", "x": x, "y": x + seed} for x in range(100) for seed in (0, 2)]
    figure, placed = curves.draw(rows, "t", X, [Y])
    axes = placed["", "y"]
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([heights.min(), heights.max()], [1 - 2**0.5, 100 + 2**0.5])
    assert line(axes, "a").get_marker() == ""
    assert legend(figure) == ["a"]


def test_overlap():
    rows = [
        {"name": n, "epochs": e, "overlap": 1 - i * e / 1000, "by_chance": 0.82}
        for i, n in enumerate(["magnitude", "snip"], 1) for e in (0, 10, 100)
    ]  # fmt: skip
    paper = [{"name": "magnitude", "epochs": 1000, "overlap": 0.941}]
    figure = overlap_curves.plot(rows, None, "t", "epochs", label="Eq. 7 (%)", paper=paper)
    (axes,) = figure.axes
    assert axes.get_ylabel() == "Eq. 7 (%)"
    np.testing.assert_allclose(line(axes, "snip").get_ydata(), [100, 98, 80])
    chances = [item for item in axes.lines if item.get_label() == "_by chance"]
    assert [item.get_color() for item in chances] == [line(axes, n).get_color() for n in ("magnitude", "snip")]
    np.testing.assert_allclose(chances[0].get_ydata(), 82)
    assert axes.get_ylim()[0] < 80
    assert legend(figure)[-2:] == ["the paper", "by chance"]
    np.testing.assert_allclose(axes.get_xticks(), [0, 10, 100, 1000])
    with pytest.raises(ValueError, match=r"x: expected one of \['sparsity', 'epochs'\], got 'seed'"):
        overlap_curves.plot(rows, None, "t", "seed")


def test_cost_has_a_place_for_nothing():
    rows = [
        {"pruner": n, "search_epochs": e, "after": a}
        for n, e, a in (("random", 0, 0.3), ("gm", 150, 0.77), ("imp", 2850, 0.74))
    ]
    figure = cost_curves.plot(rows, None, "t")
    (axes,) = figure.axes
    figure.draw_without_rendering()
    np.testing.assert_allclose(axes.get_xticks(), [0, 150, 2850])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "150", "2,850"]
    left, zero, first, last, right = axes.transData.transform(
        [(axes.get_xlim()[0], 0), (0, 0), (150, 0), (2850, 0), (axes.get_xlim()[1], 0)]
    )[:, 0]
    assert left < zero < first < last < right
    middle = axes.transData.transform([(math.sqrt(150 * 2850), 0)])[0, 0]
    np.testing.assert_allclose(middle, (first + last) / 2)
    with pytest.raises(ValueError, match="search_epochs: expected costs of 0 or more, got -1"):
        cost_curves.plot([rows[0] | {"search_epochs": -1}], None, "t")
    with pytest.raises(ValueError, match="cost: expected one of"):
        cost_curves.plot(rows, None, "t", cost="money")


def test_a_paper_without_a_cost_is_not_in_the_legend():
    rows = [{"name": "imp", "search_epochs": cost, "after": 0.7} for cost in (1, 2)]
    paper = [{"name": "imp", "after": 0.6}]
    assert legend(cost_curves.plot(rows, None, "digits", paper=paper)) == ["imp"]
    assert legend(cost_curves.plot(rows, None, "digits", paper=[paper[0] | {"search_epochs": 3}])) == [
        "imp",
        "the paper",
    ]


def test_long_titles_and_notes_are_wrapped_and_have_room():
    rows = [{"name": "imp", "search_epochs": cost, "after": 0.7} for cost in (1, 2)]
    short = cost_curves.plot(rows, None, "digits", note="small")
    long = cost_curves.plot(rows, None, "accuracy " * 30, note="--train-examples=400 " * 30)
    title = long.axes[0].get_title()
    assert max(map(len, title.split("\n"))) <= 11 * long.get_figwidth()
    note = long.get_supxlabel()
    assert all(word in ("one", "seed", "--train-examples=400") for word in note.split())  # flags stay whole
    height = [figure.axes[0].get_window_extent(figure.canvas.get_renderer()).height for figure in (short, long)]
    assert long.get_figheight() - short.get_figheight() == pytest.approx(0.15 * (note.count("\n") - 1))
    assert height[1] > 0.5 * height[0]


def test_seconds_of_one_setting_are_averaged():
    rows = [{"name": "gm", "setting": 1, "search_seconds": s, "after": a} for s, a in ((10, 0.5), (14, 0.7))]
    (axes,) = cost_curves.plot(rows, None, "t", cost="search_seconds").axes
    np.testing.assert_allclose(line(axes, "gm").get_xydata(), [[12, 60]])


def test_rewinding():
    rows = [
        {"name": "IMP", "rewind_step": k, "order": 20 - k / 100 + pair} for k in (0, 100, 500) for pair in (0, 1, 5)
    ]
    rows += [{"name": "IMP", "rewind_step": k, "after": 0.9} for k in (0, 500)]
    figure = rewind_curves.plot(rows, None, "t", values=("order", "after"))
    order, after = figure.axes
    np.testing.assert_allclose(line(order, "IMP").get_ydata(), [22, 21, 17])
    np.testing.assert_allclose(spread(order, "IMP"), [[20, 25], [19, 24], [15, 20]])
    np.testing.assert_allclose(line(after, "IMP").get_xydata(), [[0, 90], [500, 90]])
    assert under(figure) == "mean, smallest to largest over 1 to 3 samples"
    epochs = rewind_curves.plot(
        [{"name": "IMP", "epoch": 4, "order": 1.0}], None, "t", ("order",), x={"epoch": "Epoch"}
    )
    assert epochs.axes[0].get_xlabel() == "Epoch"
    checked = [
        {"name": "IMP", "rewind_step": 0, "stability.order_l2": 7.1, "stability.pruning_angle": 50.4, "shuffle": 0.9}
    ]
    values = ("stability.order_l2", "stability.pruning_angle", "shuffle")
    axes = rewind_curves.plot(checked, None, "t", values).axes
    np.testing.assert_allclose([line(one, "IMP").get_ydata()[0] for one in axes], [7.1, 50.4, 90])
    assert "(L2)" in axes[0].get_ylabel()
    assert "(°)" in axes[1].get_ylabel()
    assert axes[2].get_ylabel() == "Accuracy, shuffle (%)"
    with pytest.raises(ValueError, match="expected some with rewind_step and speed, got 11 rows"):
        rewind_curves.plot(rows, None, "t", values=("speed",))
    with pytest.raises(ValueError, match=r"values: expected some, such as .*, got none"):
        rewind_curves.plot(rows, None, "t", values=())


def test_costs_of_a_setting_are_averaged_where_they_are_known():
    rows = [{"name": "a", "setting": 1, "search_epochs": epochs, "after": 0.7} for epochs in (10, None)]
    (line,) = (line for line in cost_curves.plot(rows, None, "t").axes[0].lines if len(line.get_xdata()))
    assert list(line.get_xdata()) == [10]


def test_chance_is_drawn_for_names_that_are_numbers():
    rows = [{"name": 5, "epochs": e, "overlap": 0.9, "by_chance": 0.8} for e in (0, 10)]
    lines = overlap_curves.plot(rows, None, "t", "epochs").axes[0].lines
    assert [line.get_label() for line in lines] == ["5", "_by chance"]


def test_short_counts_take_the_unit_of_what_they_show():
    assert [style.short_count(n) for n in (9_999, 999_400, 999_600, 999_960_000)] == ["9,999", "999 k", "1 M", "1 G"]


def test_files_have_no_date_whatever_the_case_of_their_ending(tmp_path):
    figure = curves.draw([{"name": "a", "x": 1, "y": 1}], "t", Axis("x", "x"), [Axis("y", "y")])[0]
    style.save(figure, tmp_path / "x.PDF")
    assert b"CreationDate" not in (tmp_path / "x.PDF").read_bytes()
