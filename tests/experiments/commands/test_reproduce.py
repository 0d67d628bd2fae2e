"""The tables of the papers from the command line: listed, planned, run, reported, refused."""

import csv
import json
import shlex
import signal

import jax
import numpy as np
import pytest

from experiments.commands import reproduce_list
from experiments.commands.program import run
from experiments.comparison import make
from experiments.config.saved import fields_of
from experiments.papers.table import ITEMS
from experiments.reproduction import cost, figures
from experiments.reproduction.spread import Wanted, spread
from experiments.reproduction.values import values_of
from experiments.terminal.errors import Interrupted
from rare_gems import masks
from rare_gems.phase import Ticket
from rare_gems.storage import ticket_file
from tests.experiments.conftest import made_once

TINY = ["--dataset=digits", "--model=lenet_300_100", "--train-examples=200", "--batch-size=50"]


def test_the_list_names_every_item_at_once(capsys, monkeypatch):
    monkeypatch.setattr(make, "plans", None)  # nothing is planned for it
    assert run("reproduce", ["--scale=small"]) == 0
    out = capsys.readouterr().out
    for name in ITEMS:
        assert name in out
    runs, steps, _ = json.loads(reproduce_list.COSTS.read_text())["rare-gems-table-3"]["small"]
    (line,) = [line for line in out.splitlines() if line.startswith("rare-gems-table-3 ")]
    assert f" {runs} " in line
    assert f"{steps:.3g}" in line
    assert "cifar10: resnet20" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["rare-gems-table-33"], "there is no such table, figure or claim; the nearest is rare-gems-table-3"),
        (["rare-gems-table-3", "--scale=tiny"], "small"),
        (["rare-gems-table-3", "--dataset=tomatoes"], "--dataset: expected one of digits"),
        (["rare-gems-table-3", "--num-seeds=0"], "--num-seeds: expected 1 or more, got 0"),
        (["rare-gems-table-3", "--epoch=3"], "--epoch: there is no such flag; the nearest is --epochs"),
        (["rare-gems-table-3", "--sweep.l2=1,2"], "--sweep.l2: a comparison takes no lists"),
        (["rare-gems-table-3", "--imp.rate=0.5"], "--imp.rate: no column of rare-gems-table-3 takes it"),
        (["--dry-run"], "expected a table, figure or claim first"),
        (["--epochs=3"], "expected a table, figure or claim first"),
        (["rare-gems-table-3", "--num-jobs=2"], "--num-jobs: expected --launcher"),
    ],
)
def test_mistakes(flags, message, tmp_path, capsys):
    assert run("reproduce", [*flags, f"--run-dir={tmp_path}/runs"]) == 2
    err = capsys.readouterr().err
    assert err.strip().count("\n") == 0, err
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_data_that_are_not_there_are_named(tmp_path, capsys):
    flags = ["lottery-jackpots-figure-7", "--dataset=tiny_imagenet", TINY[1], f"--data-dir={tmp_path}/data"]
    assert run("reproduce", [*flags, "--num-seeds=1", f"--run-dir={tmp_path}/runs"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "tiny-imagenet-200" in error
    assert f"{tmp_path}/data" in error
    assert not list(tmp_path.glob("runs/runs/*"))  # told before the first run


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    def made(folder):
        flags = ["lottery-jackpots-figure-7", "--scale=small", *TINY, "--num-seeds=1", f"--run-dir={folder}"]
        assert run("reproduce", flags) == 0

    return made_once(tmp_path_factory, "reproduced", made)


def test_a_figure_is_run_from_its_own_dense_network(reproduced):
    (folder,) = reproduced.glob("lottery-jackpots-figure-7-small-*")
    with (folder / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["column"] for row in rows] == ["dense", "Jackpot", "Jackpot", "finetuned", "finetuned"]
    places = {row["column"]: (folder / row["folder"]).resolve() for row in rows}
    assert all((place / "ticket.safetensors").exists() for place in places.values())
    config = json.loads((places["Jackpot"] / "config.json").read_text())
    assert config["pretrained"].endswith(places["dense"].name)
    assert (folder / "plots" / "accuracy_over_sparsity.png").read_bytes().startswith(b"\x89PNG")


def on_digits(item):
    """Flags that make it cheap to plan; smart ratios of a LeNet leave its linear layers to the rule."""
    smart = any("smart_ratio" in column.flags for part in ITEMS[item].parts for column in part.columns)
    return ["--model=lenet_300_100", *(["--smart-ratio.linear=None"] if smart else [])]


def finished(item, root):
    """Summaries, masks and rows of epochs as runs leave them, of numbers that are known."""
    for runs in spread(ITEMS[item], Wanted("small", root, on_digits(item), "digits", num_seeds=2)):
        for each, plan in make.plans(runs.combinations):
            size = masks.num_prunable(plan.mask)
            kept = masks.count_for(size, each.config.sparsity)
            layers = [
                (masks.path_name(path), leaf.size) for path, leaf in jax.tree_util.tree_leaves_with_path(plan.mask)
            ]
            mask = jax.tree.map(lambda leaf: np.arange(leaf.size).reshape(leaf.shape) % 3 == 0, plan.mask)
            for one in (c for c in runs.combinations if (c.column, c.sparsity) == (each.column, each.sparsity)):
                accuracy = {"before_finetune": 0.25, "after_finetune": 0.5 + 0.01 * (one.config.seed - 42)}
                summary = {
                    "name": "ticket", "pruner": one.config.pruner, "model": "lenet_300_100",
                    "dataset_name": "digits (8x8)",
                    "seed": one.config.seed, "sparsity_target": one.config.sparsity, "sparsity": one.config.sparsity,
                    "num_kept": kept, "num_prunable": size, "accuracy": accuracy, "epochs": {"search": 5},
                    "forward_backward_passes": {"search": 20}, "seconds": {"search": 1.0, "finetune": 1.0},
                    "device": "cpu", "versions": {"jax": "0.0", "numpy": "2"},
                    "layers": [{"name": name, "num_kept": num // 2, "num_prunable": num} for name, num in layers],
                }  # fmt: skip
                for place in (one.folder, *(one.folder / "sanity" / name for name in one.checks)):
                    place.mkdir(parents=True, exist_ok=True)
                    fields = fields_of(one.config) | ({"check": place.name} if place != one.folder else {})
                    (place / "config.json").write_text(json.dumps(fields))
                    (place / "summary.json").write_text(json.dumps(summary))
                    (place / "metrics.csv").write_text(
                        "phase,epoch,test_accuracy,sparsity,bound\nsearch,1,0.1,0.5,\nfinetune,1,0.5,0.9,\n"
                    )
                    header = {"dataset": "digits", "model": "lenet_300_100", "method": "m", "seed": 0}
                    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), mask)
                    ticket_file.save(
                        place / "ticket.safetensors", Ticket(params, None, mask),
                        metadata=header | {"sparsity_target": one.config.sparsity},
                    )  # fmt: skip


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("rare-gems-table-1", ["20 (150)", "57 (3,000)"]),
        ("rare-gems-table-2", ["82.15", "50.50", "below"]),
        ("rare-gems-figure-3-sanity", ["loses 3 points or more", "does not hold"]),
        ("rare-gems-figure-2", ["figure 1", "figure 2"]),
        ("rare-gems-figure-7", ["figure 1", "the paper prints no number", "50.50"]),
        ("rare-gems-v1-figure-9", ["figure 1"]),
        ("lottery-jackpots-table-4", ["97.9", "100.00", "figure 2"]),
        ("lottery-jackpots-figure-1", ["figure 1"]),
        ("lottery-jackpots-figure-4", ["figure 1"]),
    ],
)
def test_finished_runs_are_reported_in_every_way(item, told, tmp_path, capsys):
    finished(item, tmp_path)
    flags = [item, "--scale=small", "--dataset=digits", "--num-seeds=2", *on_digits(item)]
    assert run("reproduce", [*flags, f"--run-dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "not drawn yet" not in out
    assert "small scale: " in out
    assert "changed: --dataset=digits --model=lenet_300_100" in out
    (folder,) = [path for path in tmp_path.iterdir() if path.name.startswith(item)]
    drawn = [figure for figure in ITEMS[item].figures if figure.kind != "cost_table"]
    assert len(list(folder.glob("plots/*.png"))) == len(drawn)
    for word in told:
        assert word in out
    table = (folder / "table.md").read_text()
    typed = shlex.join(["python", "-m", "experiments.reproduce", *flags])
    assert f"command: {typed}  \nmade with seeds 42, 43; cpu; jax 0.0; " in table.replace("\\", "")
    assert "data: digits (8x8)  \n" in table
    assert next(csv.DictReader((folder / "table.csv").read_text().splitlines()))["seeds"] == "2"
    claims = [claim for part in ITEMS[item].parts for claim in part.claims]
    assert (folder / "claims.csv").exists() == bool(claims)
    for claim in claims:
        assert claim.says in table.replace("\\", "")
        assert claim.says in (folder / "claims.csv").read_text()
    computed = {f"{asked.what}.jaccard" for part in ITEMS[item].parts for asked in part.analyses}
    rows = list(csv.DictReader((folder / "runs.csv").read_text().splitlines()))
    assert {name for name in rows[0] if name.endswith(".jaccard")} == computed
    for name in computed:  # all masks here are the same
        assert {row[name] for row in rows} == {"", "100.0"}


def test_a_damaged_table_is_told_and_nothing_is_lost(tmp_path, capsys):
    finished("rare-gems-table-2", tmp_path)
    flags = ["rare-gems-table-2", "--scale=small", "--dataset=digits", "--model=lenet_300_100", "--num-seeds=2"]
    assert run("reproduce", [*flags, f"--run-dir={tmp_path}"]) == 0
    (table,) = tmp_path.glob("rare-gems-table-2-small-*/table.csv")
    whole = table.read_text()
    table.write_text(whole[: len(whole) // 2])
    capsys.readouterr()
    assert run("reproduce", [*flags, f"--run-dir={tmp_path}"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert f"{table}: expected the table of this item, got something else or a damaged one" in error
    table.unlink()
    assert run("reproduce", [*flags, f"--run-dir={tmp_path}"]) == 0
    assert table.read_text() == whole


def test_what_is_known_without_training_is_compared_without_training(tmp_path, capsys):
    assert run("reproduce", ["rare-gems-v1-table-8", f"--run-dir={tmp_path}"]) == 0
    assert "20 reproduced" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_hours_are_measured_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    timed = []
    monkeypatch.setattr(cost, "_seconds", lambda config: timed.append(config) or 0.36)
    flags = ["rare-gems-table-4", "--scale=small", "--time"]
    for _ in "ab":
        assert run("reproduce", flags) == 0
    passes = 3 * (40 + 15) * 79
    hours = float(capsys.readouterr().out.split("about ")[-1].split(" hours")[0])
    assert hours > passes * 0.36 / 3600  # and the evaluation
    assert len(timed) == 1
    assert run("reproduce", ["--scale=small"]) == 0
    assert f" {hours:.2g} " in capsys.readouterr().out


def test_sanity_checks_are_curves_of_their_own(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures.accuracy_curves, "plot_sanity", lambda rows, *_, **__: drawn.extend(rows))
    finished("rare-gems-figure-3-sanity", tmp_path)
    wanted = Wanted("small", tmp_path, on_digits("rare-gems-figure-3-sanity"), "digits", num_seeds=2)
    parts = spread(ITEMS["rare-gems-figure-3-sanity"], wanted)
    values = [values_of(runs, make.plans(runs.combinations)) for runs in parts]
    figures.draw(ITEMS["rare-gems-figure-3-sanity"], parts, values, tmp_path)
    assert {row["name"] for row in drawn} == {"ticket", "shuffle", "reinit", "invert"}
    assert all(row["after"] == pytest.approx(0.5 + 0.01 * (row["seed"] - 42)) for row in drawn)


TABLE_2 = ["rare-gems-table-2", "--scale=small", "--dataset=digits", "--model=lenet_300_100", "--num-seeds=2"]


@pytest.fixture
def unfinished(tmp_path):
    """Runs of which two are still to be made, and what they will leave."""
    finished("rare-gems-table-2", tmp_path)
    left = {file: file.read_text() for file in sorted(tmp_path.glob("runs/*/summary.json"))[-2:]}
    for file in left:
        file.unlink()
    return left


def test_jobs_make_the_runs_of_an_item(unfinished, tmp_path, monkeypatch, capsys):
    asked = []

    def run_jobs(launch, command, folder, left):
        """One worker, here: it makes what is left, and reports nothing."""
        asked.append((launch.num_jobs, command, folder.name))
        assert sorted(left()) == sorted(file.parent for file in unfinished)
        with monkeypatch.context() as patch:
            patch.setenv("RARE_GEMS_JOB", "0/2")
            patch.setattr(make, "make_all", lambda *_: [file.write_text(text) for file, text in unfinished.items()][:0])
            assert run("reproduce", command[3:]) == 0
        assert capsys.readouterr().out == ""
        return []

    monkeypatch.setattr(make.collector, "run_jobs", run_jobs)
    assert run("reproduce", [*TABLE_2, f"--run-dir={tmp_path}", "--launcher=local", "--num-jobs=2"]) == 0
    ((number, command, jobs),) = asked
    assert (number, command[1:], jobs) == (
        2,
        ["-m", "experiments.reproduce", *TABLE_2, f"--run-dir={tmp_path}"],
        "jobs",
    )
    assert "82.15" in capsys.readouterr().out
    (table,) = tmp_path.glob("rare-gems-table-2-*/runs.csv")
    assert len(table.read_text().splitlines()) == 5


@pytest.mark.parametrize("flags", [[], ["--at-once=2"]])
def test_a_killed_item_goes_on_with_what_is_left(flags, tmp_path, monkeypatch, capsys):
    finished("rare-gems-table-2", tmp_path)
    texts = {file.parent: file.read_text() for file in tmp_path.glob("runs/*/summary.json")}
    for folder in texts:
        (folder / "summary.json").unlink()
    made, units = [], []

    def train(configs, folders):
        units.append(len(folders))
        todo = [folder for folder in folders if not (folder / "summary.json").exists()]
        if todo and len(made) == 2:
            raise Interrupted("stopped and saved", signal.SIGTERM)
        made.extend(todo)
        for folder in todo:
            (folder / "summary.json").write_text(texts[folder])

    monkeypatch.setattr(make, "finish_tickets", train)
    monkeypatch.setattr(make, "finish_checks", lambda *_: [])
    command = [*TABLE_2, f"--run-dir={tmp_path}", *flags]
    assert run("reproduce", command) == 75
    assert "stopped and saved" in capsys.readouterr().err
    assert len(set(made)) == len(made) == 2
    assert not list(tmp_path.glob("rare-gems-table-2-*/table.csv"))
    made.append(None)  # not stopped again
    assert run("reproduce", command) == 0
    made.remove(None)
    assert sorted(made) == sorted(texts)  # each once
    assert set(units) == {2 if flags else 1}
    assert list(tmp_path.glob("rare-gems-table-2-*/table.csv"))


def test_more_at_once_than_seeds(tmp_path, capsys):
    assert run("reproduce", [*TABLE_2, f"--run-dir={tmp_path}/runs", "--at-once=3"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "--at-once: " in error
    assert not (tmp_path / "runs").exists()
