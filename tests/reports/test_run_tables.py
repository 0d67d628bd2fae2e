"""Figures and tables: what they show, read from the objects, and that the pictures hold ink."""

import io
import math

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from rare_gems.reports import run_figures, run_tables

DASH = "\N{EN DASH}"


def search_rows(epochs=20, target=0.9856):
    """`epochs` of search and as many of finetuning; the test set is looked at every fifth epoch."""
    rate = math.log(1 / (1 - target)) / epochs
    rows = []
    for epoch in range(1, epochs + 1):
        rows.append({
            "phase": "search", "epoch": epoch, "step": epoch * 22, "loss": 1.0, "seconds": 1.0, "flips": 9,
            "train_accuracy": 0.03 * epoch, "validation_accuracy": None,
            "test_accuracy": 0.025 * epoch if epoch % 5 == 0 else None, "bound": 1 - math.exp(-rate * epoch),
            "sparsity": 1 - math.exp(-rate * epoch),
            "sparsity_frozen": 1 - math.exp(-rate * (epoch // 5) * 5),
        })  # fmt: skip
    for epoch in range(1, epochs + 1):
        rows.append(rows[0] | {
            "phase": "finetune", "epoch": epoch, "train_accuracy": 0.9, "bound": None, "sparsity": target,
            "test_accuracy": 0.8 + 0.005 * epoch if epoch % 5 == 0 else None, "sparsity_frozen": target,
        })  # fmt: skip
    return rows


def layers(kept=(108, 23, 0, 64)):
    sizes = {"conv1/kernel": 432, "block/0/conv/kernel": 2304, "block/1/conv/kernel": 36864, "fc/kernel": 640}
    return [
        {"name": name, "num_prunable": size, "num_kept": count}
        for (name, size), count in zip(sizes.items(), kept, strict=True)
    ]


def test_what_is_typed_is_printed_as_it_is(capsys):
    """Brackets are markup to rich: [a-z] would vanish, and [/] end the command."""
    table = run_tables.summary_table([], title="--dense=linear[a-z1][/] :heart:")
    table.caption = "'--dense=[/]'"
    run_tables.print_whole(Console(markup=False, emoji=False), table)
    out = capsys.readouterr().out
    assert "--dense=linear[a-z1][/] :heart:" in out
    assert "'--dense=[/]'" in out


def line(axes, label):
    (found,) = [item for item in axes.lines if item.get_label() == label]
    return found


def texts(axes):
    return [text.get_text() for text in axes.texts]


def assert_picture(path):
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = matplotlib.image.imread(path)[..., :3]
    assert pixels.shape[0] > 500
    assert pixels.shape[1] > 1000
    inked = np.mean(np.any(pixels < 0.95, axis=-1))
    assert 0.01 < inked < 0.6
    blue = np.all(np.abs(pixels - np.array([0x00, 0x72, 0xB2]) / 255) < 0.02, axis=-1)
    assert blue.sum() > 300  # a line was drawn, not only axes


def test_search_figure(tmp_path):
    rows = search_rows()
    figure = run_figures.plot_search(rows, tmp_path / "search.png", "gem_miner, digits")
    assert_picture(tmp_path / "search.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["search.png"]
    top, bottom = figure.axes
    assert top.get_title() == "gem_miner, digits"
    assert (top.get_ylabel(), bottom.get_ylabel()) == ("Accuracy (%)", "Sparsity (%)")
    assert bottom.get_xlabel() == "Epoch"
    test = line(top, "test")
    np.testing.assert_array_equal(test.get_xdata(), [5, 10, 15, 20, 25, 30, 35, 40])
    np.testing.assert_allclose(test.get_ydata(), [12.5, 25, 37.5, 50, 82.5, 85, 87.5, 90])
    assert len(line(top, "train").get_xdata()) == 40
    assert "validation" not in [item.get_label() for item in top.lines]  # never measured
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["train", "test"]
    assert texts(top) == ["50.0 %", "90.0 %", "search", "finetune"]
    assert texts(bottom) == ["98.56 %"]
    for axes in figure.axes:
        np.testing.assert_array_equal(line(axes, "_finetuning begins").get_xdata(), [20, 20])
    bound = line(bottom, "bound $1 - e^{-cj}$")
    assert bound.get_linestyle() == ":"
    assert len(bound.get_xdata()) == 20
    np.testing.assert_allclose(bound.get_ydata()[[0, -1]], [100 * (1 - 0.0144 ** (1 / 20)), 98.56])
    np.testing.assert_allclose(line(bottom, "of $q$").get_ydata()[:5], [0, 0, 0, 0, 100 * (1 - 0.0144**0.25)])
    np.testing.assert_allclose(line(bottom, "of $q$ and $r(p)$").get_ydata()[-1], 98.56)


def test_sparsity_scale_is_even_in_the_weights_kept():
    _, bottom = run_figures.plot_search(search_rows(), None, "").axes
    heights = bottom.transData.transform([(0, y) for y in (0.0, 50.0, 75.0, 87.5, 98.56)])[:, 1]
    steps = np.diff(heights)
    np.testing.assert_allclose(steps[:3], steps[0], rtol=1e-6)  # each half as many weights kept
    np.testing.assert_allclose(steps[3] / steps[0], math.log2(0.125 / 0.0144), rtol=1e-6)
    ticks = bottom.get_yticks().tolist()
    assert ticks == [0, 50, 80, 90, 95, 98]
    bound = line(bottom, "bound $1 - e^{-cj}$").get_xydata()
    slopes = np.diff(bottom.transData.transform(bound)[:, 1])
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-6)


def test_search_figure_of_strings_from_a_csv_file():
    rows = search_rows()
    as_text = [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
    figures = (run_figures.plot_search(rows, None, "") for rows in (as_text, rows))
    for got, expected in zip(*(figure.axes for figure in figures), strict=True):
        for a, b in zip(got.lines, expected.lines, strict=True):
            np.testing.assert_array_equal(a.get_xydata(), b.get_xydata())


@pytest.mark.parametrize("phase", ["search", "finetune"])
def test_search_figure_of_one_phase(phase):
    rows = [row | {"sparsity_frozen": row["sparsity"], "bound": None} for row in search_rows()]
    rows = [row for row in rows if row["phase"] == phase]
    top, bottom = run_figures.plot_search(rows, None, "").axes
    assert [item.get_label() for item in bottom.lines] == ["of the mask"]
    assert len(texts(top)) == 1
    assert line(top, "test").get_xdata()[-1] == 20


def test_search_figure_of_a_method_without_q_and_of_a_dense_run():
    rows = [row | {"sparsity_frozen": None, "bound": None} for row in search_rows()]
    assert "of the mask" in [item.get_label() for item in run_figures.plot_search(rows, None, "").axes[1].lines]
    dense = [row | dict.fromkeys(("sparsity", "sparsity_frozen", "bound"), math.nan) for row in search_rows()]
    top, bottom = run_figures.plot_search(dense, None, "").axes
    assert [item.get_label() for item in bottom.lines] == ["_finetuning begins"]
    assert len(line(top, "train").get_xdata()) == 40


def test_search_figure_when_nothing_is_left():
    rows = [row | {"sparsity": 1.0} for row in search_rows()]
    _, bottom = run_figures.plot_search(rows, None, "").axes
    assert bottom.get_ylim() == (0, 100)
    assert bottom.get_yticks()[-1] == 100
    below, top = bottom.transData.transform([(0, 98.56), (0, 100.0)])[:, 1]
    assert np.isfinite(top)
    assert top > below


@pytest.mark.parametrize("rows", [[], [{"phase": "warmup", "epoch": 1}]])
def test_search_figure_of_bad_rows(rows):
    with pytest.raises(ValueError, match="rows: expected some, of phase 'search' or 'finetune', got"):
        run_figures.plot_search(rows, None, "")


def test_layers_figure(tmp_path):
    figure = run_figures.plot_layers(layers(), tmp_path / "layers.png", "a ticket")
    assert_picture(tmp_path / "layers.png")
    axes, bars = figure.axes
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("a ticket", "Layer", "Sparsity (%)")
    assert bars.get_ylabel() == "Weights in the layer (bars)"
    assert [bar.get_height() for bar in bars.patches] == [432, 2304, 36864, 640]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [75, 100 * (1 - 23 / 2304), 100, 90])
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "conv1",
        "block/0/conv",
        "block/1/conv",
        "fc",
    ]
    total = 1 - (108 + 23 + 64) / (432 + 2304 + 36864 + 640)
    np.testing.assert_allclose(line(axes, "_whole network").get_ydata(), 100 * total)
    assert texts(axes) == ["all layers 99.52 %"]
    assert axes.get_zorder() > bars.get_zorder()


def test_layers_figure_of_several_tickets(tmp_path):
    tickets = {"gem_miner": layers((108, 23, 10, 64)), "random": layers((4, 23, 368, 6)), "dense": layers()}
    axes = run_figures.plot_layers(tickets, tmp_path / "layers.png", "").axes[0]
    assert_picture(tmp_path / "layers.png")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(tickets)
    np.testing.assert_allclose(line(axes, "random").get_ydata()[0], 100 * (1 - 4 / 432))
    assert len({item.get_color() for item in axes.lines}) == len({item.get_marker() for item in axes.lines}) == 3


def test_layers_figure_of_many_layers():
    many = [{"name": f"net/{i}/conv", "num_prunable": 100 + i, "num_kept": 7} for i in range(161)]
    axes, bars = run_figures.plot_layers(many, None, "").axes
    assert len(axes.get_xticks()) == 54
    assert len(bars.patches) == 161


@pytest.mark.parametrize("bad", [[], {}, {"a": layers(), "b": layers()[:2]}])
def test_layers_figure_of_bad_layers(bad):
    with pytest.raises(ValueError, match="layers: expected at least one, the same for every ticket"):
        run_figures.plot_layers(bad, None, "")


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")])
def test_figure_formats_and_equal_files(tmp_path, monkeypatch, name, start):
    contents = []
    for now in ("0", "86400"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", now)  # what would show if a date were written
        run_figures.plot_layers(layers(), tmp_path / name, "")
        contents.append((tmp_path / name).read_bytes())
    assert contents[0].startswith(start)
    if name != "a.svg":  # its element ids are random
        assert contents[0] == contents[1]


def test_failed_figure_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="docx"):
        run_figures.plot_layers(layers(), tmp_path / "a.docx", "")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OSError, match=r"folder\.png"):
        run_figures.plot_layers(layers(), tmp_path / "folder.png", "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [(0, "0.00"), (0.5, "50.00"), (0.9856, "98.56"), (1 - 3864 / 268336, "98.56"), (0.9941, "99.41"),
     (0.99995, "99.9950"), (1 - 1e-6, "99.99990"), (1, "100.00")],
)  # fmt: skip
def test_percent(sparsity, expected):
    assert run_tables.percent(sparsity) == expected


def summary(pruner="gem_miner", seed=0, before=0.6123, rounded=0.6001, after=0.7712, best=None, **more):
    accuracy = {
        "before_finetune": before, "before_finetune_frozen": None if rounded is None else before,
        "before_finetune_rounded": rounded, "after_finetune": after, "best_validation": best,
    }  # fmt: skip
    return {
        "pruner": pruner, "model": "resnet20", "dataset": "digits", "seed": seed, "sparsity_target": 0.9856,
        "sparsity": 1 - 3864 / 268336, "num_kept": 3864, "num_prunable": 268336, "accuracy": accuracy,
        "layer_sparsity": {"conv1": 0.6, "fc": 0.7 + 0.1 * seed}, "device": "cpu", "versions": {},
        "seconds": {"search": 90.4, "finetune": 1234.4 + seed, "total": 1324.8 + seed},
    } | more  # fmt: skip


def test_aggregate_against_numpy():
    after = [0.7712, 0.7634, 0.7801]
    merged = run_tables.aggregate([summary(seed=seed, after=value) for seed, value in enumerate(after)])
    got = merged["accuracy"]["after_finetune"]
    assert got["n"] == 3
    np.testing.assert_allclose([got["mean"], got["std"]], [np.mean(after), np.std(after, ddof=1)], rtol=1e-12)
    assert merged["accuracy"]["best_validation"] is None
    np.testing.assert_allclose(merged["layer_sparsity"]["fc"]["mean"], 0.8)
    np.testing.assert_allclose(merged["layer_sparsity"]["fc"]["std"], 0.1)
    assert merged["num_kept"] == {"mean": 3864, "std": 0, "n": 3}
    assert (merged["num_prunable"], merged["sparsity_target"], merged["pruner"]) == (
        268336,
        0.9856,
        "gem_miner",
    )
    assert (merged["seed"], merged["num_seeds"], merged["device"]) == ([0, 1, 2], 3, "cpu")


def test_aggregate_of_values_that_some_runs_lack():
    best = {"epoch": 10, "validation": 0.8, "test": 0.75}
    merged = run_tables.aggregate([summary(best=best), summary(seed=1, after=None, device="gpu")])
    assert merged["accuracy"]["best_validation"]["test"] == {"mean": 0.75, "std": None, "n": 1}
    assert merged["accuracy"]["after_finetune"] == {"mean": 0.7712, "std": None, "n": 1}
    assert merged["device"] == ["cpu", "gpu"]


def test_aggregate_refuses_to_mix():
    with pytest.raises(ValueError, match=r"expected one pruner, got \['gem_miner', 'random'\]"):
        run_tables.aggregate([summary(), summary("random")])
    with pytest.raises(ValueError, match=r"expected one sparsity_target, got \[0.9856, 0.5\]"):
        run_tables.aggregate([summary(), summary(sparsity_target=0.5)])
    with pytest.raises(ValueError, match="expected at least one"):
        run_tables.aggregate([])


def printed(rows, **options):
    console = Console(file=io.StringIO(), width=40)  # what is no terminal does not cut the table
    run_tables.print_table(console, rows, **options)
    return [text.rstrip() for text in console.file.getvalue().splitlines()]


HEADINGS = "ticket asked % got % kept before, q q and r(p) after at best search finetune"


def test_table():
    best = {"epoch": 143, "validation": 0.8, "test": 0.769}
    shuffled = summary(name="layerwise_shuffle", before=0.1, rounded=None)
    lines = printed([summary(best=best), shuffled, summary("random", after=None, rounded=None)], title="digits")
    assert lines[0] == "digits"
    assert lines[-2:] == [
        "268,336 prunable weights",
        "at best: test accuracy at the epoch of best validation",
    ]
    assert lines[2].split() == HEADINGS.split()
    cells = "gem_miner 98.56 98.56 3,864 61.23 60.01 77.12 76.90 @143 90 1,234"
    assert lines[3].split() == cells.split()
    cells = f"layerwise_shuffle 98.56 98.56 3,864 10.00 {DASH} 77.12 {DASH} 90 1,234"
    assert lines[4].split() == cells.split()
    assert lines[5].split()[4:] == ["61.23", DASH, DASH, DASH, "90", "1,234"]
    assert max(map(len, lines)) <= 100


def test_table_of_seeds():
    after = [0.7712, 0.7634, 0.7801]
    best = {"epoch": 9, "validation": 0.8, "test": 0.75}
    runs = [summary(seed=seed, after=value, best=best) for seed, value in enumerate(after)]
    rows = [run_tables.aggregate(runs)]
    rows.append(run_tables.aggregate([summary("random", rounded=None)]))
    rows.append(rows[0] | {"name": "layerwise_shuffle"})
    lines = printed(rows)
    deviation = f"{100 * np.mean(after):.2f}±{100 * np.std(after, ddof=1):.2f}"
    cells = f"gem_miner 98.56 98.56 3,864 61.23±0.00 60.01±0.00 {deviation} 75.00±0.00 90 1,235"
    assert lines[2].split() == cells.split()
    assert lines[3].split()[4:] == ["61.23", DASH, "77.12", DASH, "90", "1,234"]  # one seed has no deviation
    assert max(map(len, lines)) <= 100
    assert lines[-2] == "268,336 prunable weights; ±: over seeds"


def test_table_leaves_out_what_no_row_has_and_prints_markup_as_it_is():
    lines = printed([summary("random", rounded=None, name="[bold]x")])
    one_mask = HEADINGS.replace(", q q and r(p) ", " ")
    assert lines[1].split() == one_mask.replace("at best ", "").split()
    assert lines[2].startswith("[bold]x ")
    assert printed([{}])[2].split() == [DASH] * 8


def test_effective_sparsity_stands_beside_the_sparsity():
    rows = [summary(name="layerwise_shuffle") | {"effective_sparsity": 0.98712}, summary("random")]
    lines = printed(rows)
    assert lines[1].split() == HEADINGS.replace("got %", "got % eff. %").replace("at best ", "").split()
    assert lines[2].split()[:5] == ["layerwise_shuffle", "98.56", "98.56", "98.71", "3,864"]
    assert lines[3].split()[:5] == ["random", "98.56", "98.56", DASH, "3,864"]
    assert "eff.: without the weights on no path from images to logits" in lines
    assert max(map(len, lines)) <= 100
    merged = run_tables.aggregate([rows[1] | {"effective_sparsity": value} for value in (0.98, 0.99)])
    assert merged["effective_sparsity"]["mean"] == pytest.approx(0.985)


def test_table_columns():
    lines = printed([summary(), summary(num_prunable=1000)], columns=["after", "ticket"])
    assert [text.split() for text in lines[1:]] == [["after", "ticket"]] + [["77.12", "gem_miner"]] * 2
    with pytest.raises(ValueError, match=r"columns: expected some of .*, got \['flops'\]"):
        run_tables.summary_table([summary()], columns=["flops"])


def test_table_on_a_terminal():
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    run_tables.print_table(console, [summary()])
    assert "gem_miner" in console.file.getvalue()


def test_a_mean_leaves_nan_out():
    assert run_tables.mean_of([0.5, math.nan, None]) == {"mean": 0.5, "std": None, "n": 1}
    assert run_tables.mean_of([math.nan]) is None
