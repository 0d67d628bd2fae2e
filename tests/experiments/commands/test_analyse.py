"""`python -m experiments.analyse`: tables, CSV files and figures of finished runs; mistakes in one line."""

import csv

import pytest

from experiments.commands.program import run
from rare_gems.reports import analysis_figures
from tests.experiments.analyses.folders import make_run, mask_of, moved


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("analysed")
    for seed in (1, 2, 3):
        make_run(base / f"order-{seed}", ["--pruner=random", f"--data-seed={seed}"], moved(seed), mask_of(1))
    make_run(base / "other", ["--pruner=random", "--seed=9"], moved(4), mask_of(2))
    return base


def _rows(file):
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_tables_files_and_figures(runs, tmp_path, capsys):
    given = [str(runs / f"order-{seed}") for seed in (1, 2, 3)]
    what = "--what=distance,overlap,stability,connectivity,effective"
    limits = ["--points=3", "--examples=50", "--statistics=50"]
    assert run("analyse", [*given, what, *limits, f"--out={tmp_path}/out"]) == 0
    shown = capsys.readouterr().out
    for text in ("order-1", "random, 25 % kept", "shared by chance", "error barrier", f"files: {tmp_path}/out"):
        assert text in shown
    assert "linear1/kernel" not in shown  # layers are in the files
    assert len(_rows(tmp_path / "out" / "distance.csv")) == 3 * 4
    assert len(_rows(tmp_path / "out" / "overlap.csv")) == 3 * 4
    assert len(_rows(tmp_path / "out" / "stability_samples.csv")) == 3
    (mean,) = _rows(tmp_path / "out" / "stability.csv")
    l2 = [float(row["l2"]) for row in _rows(tmp_path / "out" / "stability_samples.csv")]
    assert float(mean["l2"]) == pytest.approx(sum(l2) / 3, rel=1e-6)
    assert len(_rows(tmp_path / "out" / "connectivity.csv")) == 3 * 3
    assert len(_rows(tmp_path / "out" / "effective.csv")) == 3 * 4
    for name in ("distance", "overlap", "stability", "connectivity", "effective"):
        assert (tmp_path / "out" / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_overlaps_are_drawn_in_percent_as_in_the_table(runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(analysis_figures, "plot_layers", lambda rows, *_: drawn.extend(rows))
    assert run("analyse", [str(runs / "order-1"), str(runs / "other"), "--what=overlap", f"--out={tmp_path}/out"]) == 0
    for row, shown in zip(_rows(tmp_path / "out" / "overlap.csv")[1:], drawn, strict=True):
        assert shown["layer"] == row["layer"]
        for name in ("shared", "eq7", "shared_by_chance", "eq7_by_chance"):
            assert shown[name] == pytest.approx(100 * float(row[name]), rel=1e-6)
    assert drawn[0]["shared_by_chance"] == pytest.approx(25)


def test_by_default_beside_the_runs(runs):
    given = [str(runs / "order-1"), str(runs / "order-2")]
    assert run("analyse", given) == 0
    (out,) = runs.glob("analysis-*")
    assert sorted(path.name for path in out.iterdir()) == ["distance.csv", "overlap.csv", "plots"]


MISTAKES = [
    ([], "expected run folders, got none"),
    (["{runs}/nothing"], "nothing: expected a run folder, got nothing there"),
    (["{tmp}"], "expected a run folder, with a config.json, or a folder of such"),
    (["{runs}/order-1"], "distance: expected two networks or more, got 1; --rounds adds"),
    (["{runs}/order-1", "--what=stability"], "--data-seed alone (--pruner=ticket), or a whole network (--pruner=dense"),
    (["{runs}", "--what=magic"], "--what: expected some of distance, overlap, stability, connectivity, effective"),
    (["{runs}", "--what=,"], "--what: expected some of"),
    (["{runs}/order-1", "--rounds"], "--rounds: expected a run with --keep=rounds"),
    (["{runs}/order-1", "{runs}/other", "--what=connectivity"], "--intersect takes what both keep"),
    (["{runs}/order-1", "{runs}/order-2", "--what=connectivity", "--points=1"], "--points: expected 2 or more, got 1"),
    (["{runs}/order-1", "{runs}/order-2", "--out={runs}/other"], "--out: expected a folder for tables and figures"),
    (["{runs}/order-1", "{runs}/order-2", "--out={runs}/other/config.json"], "a file"),
    (["{runs}/order-1", "{runs}/order-2", "{runs}/order-1"], "expected each run once, got {runs}/order-1 twice"),
    (["{runs}/order-1", "{runs}/other/../order-1"], "twice, by {runs}/order-1 and by {runs}/other/../order-1"),
    (["{runs}/order-1", "{runs}/order-1/ticket.safetensors"], "expected each run once"),
    (["{runs}", "{runs}/other"], "expected each run once, got {runs}/other twice, by {runs} and by {runs}/other"),
    (["{runs}", "--points=3"], "--points: distance, overlap would ignore it; it is for connectivity"),
    (["{runs}", "--what=overlap", "--intersect"], "--intersect: overlap would ignore it; it is for stability and conn"),
    (["{runs}", "--what=distance", "--data-dir=/tmp"], "--data-dir: distance would ignore it; it is for connectivity"),
    (
        ["{runs}/order-1", "{runs}/order-2", "--what=connectivity", "--data-dir=/tmp"],
        "--data-dir: digits has no use for it; it is for mnist",
    ),
    (["{runs}/order-1/config.json"], "or a file of rounds/ from 01 on, got another file"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistakes(args, message, runs, tmp_path, capsys):
    before = sorted(runs.rglob("*"))
    assert run("analyse", [arg.format(runs=runs, tmp=tmp_path) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    assert message.format(runs=runs) in err
    assert "Traceback" not in err + out
    assert sorted(runs.rglob("*")) == before


def test_runs_that_do_not_fit_or_are_not_whole(runs, tmp_path, capsys):
    def refused(folder, message):
        assert run("analyse", [str(runs / "order-1"), str(folder)]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert message in err

    other = ["--pruner=random", "--train-examples=300"]
    refused(make_run(tmp_path / "data", other, moved(1), mask_of(1)), "with train_examples None, got 300")
    other = ["--pruner=random", "--network.no-bias"]
    refused(make_run(tmp_path / "net", other, moved(1), mask_of(1)), "expected a run of the network of")
    bad = make_run(tmp_path / "bad", ["--pruner=random"], moved(1), mask_of(1))
    ticket = (bad / "ticket.safetensors").read_bytes()
    (bad / "ticket.safetensors").write_bytes(ticket[:100])
    refused(bad, "ticket.safetensors: cut off, or not a safetensors file")
    (bad / "summary.json").write_text("[]")
    refused(bad, "summary.json: expected the summary of a run")
    (bad / "config.json").write_text("[]")
    refused(bad, "config.json: expected the configuration of a run")
    (bad / "summary.json").unlink()
    refused(bad, "expected a finished run, got one without summary.json; finish it first")
