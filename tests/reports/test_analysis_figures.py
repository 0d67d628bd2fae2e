"""Figures of analyses show the numbers of their rows."""

import pytest

from rare_gems.reports.analysis_figures import plot_barriers, plot_dead, plot_layers, plot_lines, plot_stability
from rare_gems.reports.style import COLOURS

PAIRS = [("a", "b"), ("a", "c")]


def test_layers_with_what_chance_gives():
    rows = [{"first": a, "second": b, "layer": f"conv{i}", "shared": 0.1 * i, "chance": 0.01 * i}
            for a, b in PAIRS for i in (2, 1)]  # fmt: skip
    figure = plot_layers(rows, None, "$digits$", {"shared": "shared"}, {"shared": "chance"})
    found, chance = figure.axes[0].lines[:2]
    assert (found.get_label(), found.get_ydata().tolist()) == ("a and b", [0.2, 0.1])
    assert chance.get_ydata().tolist() == [0.02, 0.01]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["conv2", "conv1"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a and b", "a and c", "by chance"]


def test_curves_that_are_equal_are_all_seen():
    rows = [{"first": a, "second": b, "layer": f"conv{i}", "shared": 0.3, "chance": 0.3} for a, b in PAIRS
            for i in (1, 2)]  # fmt: skip
    first, first_chance, second, second_chance = (
        plot_layers(rows, None, "digits", {"shared": "shared"}, {"shared": "chance"}).axes[0].lines[:4]
    )
    assert first.get_linewidth() > second.get_linewidth()
    assert first.get_markersize() > second.get_markersize()
    for ours, chance in ((first, first_chance), (second, second_chance)):
        assert chance.get_zorder() > ours.get_zorder()
        assert (chance.get_markerfacecolor(), chance.get_markeredgecolor()) == ("white", ours.get_color())
    assert first_chance._unscaled_dash_pattern != second_chance._unscaled_dash_pattern  # dots in turn


def test_more_pairs_than_colours_are_grey():
    rows = [{"first": "a", "second": f"b{i}", "layer": "conv", "l2": float(i)} for i in range(len(COLOURS) + 1)]
    figure = plot_layers(rows, None, "digits", {"l2": "L2"})
    assert {line.get_color() for line in figure.axes[0].lines} == {"#888888"}
    assert figure.legends == []


def test_lines_of_one_ticket_share_a_colour(tmp_path):
    rows = [{"first": a, "second": b, "ticket": "imp", "rewound_to": step, "alpha": alpha, "loss": 1.0 + alpha,
             "accuracy": 0.5} for step in (0, 9) for a, b in PAIRS for alpha in (0.0, 1.0)]  # fmt: skip
    for i, row in enumerate(rows):
        row["first"] += str(i // 4)
    figure = plot_lines(rows, tmp_path / "lines.png", "digits")
    accuracy, loss = figure.axes
    assert [line.get_ydata().tolist() for line in accuracy.lines] == [[50, 50]] * 4
    assert loss.lines[0].get_ydata().tolist() == [1, 2]
    colours = [line.get_color() for line in accuracy.lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["imp, step 0", "imp, step 9"]
    assert (tmp_path / "lines.png").read_bytes().startswith(b"\x89PNG")


def test_barriers_are_means_over_pairs_at_each_step():
    rows = [{"ticket": "imp", "rewound_to": step, "error_barrier": barrier}
            for step, barrier in ((100, 0.25), (0, 0.5), (0, 0.25))]  # fmt: skip
    mean, points, zero = plot_barriers(rows, None, "digits").axes[0].lines
    assert mean.get_xydata().tolist() == [[0, 37.5], [100, 25]]
    assert sorted(points.get_xydata().tolist()) == [[0, 25], [0, 50], [100, 25]]
    assert set(zero.get_ydata()) == {0}


@pytest.mark.parametrize("steps", [(0,), (0, 100)])
def test_stability_with_its_range(steps):
    rows = [
        {"stability": kind, "ticket": ticket, "rewound_to": step, "l2": 4.0, "l2_min": 3.0, "l2_max": 6.0,
         "angle": 30.0, "angle_min": 20.0, "angle_max": 35.0}
        for kind in ("data order", "pruning") for ticket in ("imp", "random") for step in steps
    ]  # fmt: skip
    figure = plot_stability(rows, None, "digits")
    assert len(figure.axes) == 4
    assert [axes.get_title() for axes in figure.axes[:2]] == ["to data order", "to pruning"]
    line, _, (bars,) = figure.axes[0].containers[1]
    assert line.get_xdata().tolist() == (list(steps) if len(steps) > 1 else [1])
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[3.0, 6.0]] * len(steps)
    assert figure.axes[0].get_xlabel() == ""
    assert figure.axes[2].get_xlabel() == ("step rewound to" if len(steps) > 1 else "")
    if len(steps) == 1:
        assert [text.get_text() for text in figure.axes[2].get_xticklabels()] == ["imp", "random"]
        assert figure.axes[2].get_xticks().tolist() == [0, 1]


def test_dead_weights_in_percent_of_what_is_kept():
    rows = [{"network": "imp", "layer": f"conv{i}", "num_kept": kept, "num_effective": alive}
            for i, (kept, alive) in enumerate([(10, 5), (0, 0), (4, 4)])]  # fmt: skip
    (line,) = plot_dead(rows, None, "digits").axes[0].lines
    assert line.get_xydata().tolist() == [[0, 50], [2, 100]]
