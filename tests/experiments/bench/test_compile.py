"""bench compile: rows from flags, tables, and the same again; no compiler is asked."""

import csv
import json

import pytest

from experiments.bench import compile as bench
from experiments.bench.__main__ import main
from experiments.compiled.counts import Counter, Counts

GIB = 2**30


@pytest.fixture
def compiler(monkeypatch):
    """What stands in for compilers: notes the requests; `bigger` is the memory that each asks for."""
    asked = []

    def compile_apart(request, timeout):
        asked.append(request)
        if request.config.precision == "bfloat16":
            return {"error": "the compiler ended with signal SIGSEGV: it said nothing"}
        counts = Counts(Counter(copy=2, product=5), Counter({"all-reduce": 1}), Counter({"all-reduce": 4000}), copies=1)
        size = 20 * GIB if request.phase == "search" else GIB
        return {"program_bytes": size, "held_bytes": 0, "counts": counts.as_dict(), "num_kernels_at_most": 9,
                "compile_seconds": 2.0, "trace_seconds": 1.0, "gradient_bytes": 3996, "of_loop_body": True}  # fmt: skip

    monkeypatch.setattr(bench, "compile_apart", compile_apart)
    monkeypatch.setattr(bench, "check_installed", lambda target: None)
    return asked


def test_rows_tables_and_again(compiler, tmp_path, capsys):
    out = tmp_path / "made" / "table"
    flags = ["--for=v5e:2x2", "--models=lenet_300_100", "--precisions=float32,bfloat16", "--dataset=digits",
             "--batch-size=64", f"--out={out}"]  # fmt: skip
    assert main(["compile", *flags, "--pruners", "gem_miner", "dense"]) == 0
    shown = capsys.readouterr().out
    assert "compiled, not run" in shown
    assert "4.25 GiB more than the 15.75 GiB there are" in shown
    assert "--precision=bfloat16" in shown
    assert [(r.config.pruner, r.phase) for r in compiler[::2]] == [
        ("gem_miner", "search"), ("gem_miner", "finetune"), ("dense", "finetune"),  # dense has no search
    ]  # fmt: skip
    figures = json.loads(out.with_suffix(".json").read_text())
    assert {"benchmark", "date", "versions", "compilers", "what"} <= set(figures)
    assert [row["compiles"] for row in figures["rows"]] == [True, False] * 3
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["fits"] == "no, 4.25 GiB too much"
    assert rows[1]["fits"].startswith("the compiler ended")
    assert (rows[2]["kernels (at most)"], rows[2]["collectives a step"]) == ("7 (9)", "1 all-reduce 0.004 MB")
    page = out.with_suffix(".md").read_text()
    assert page.startswith("# Compiled, not run")
    assert "nothing below was run" in page

    assert main(["compile", "--again", str(out.with_suffix(".json"))]) == 0
    capsys.readouterr()
    again = json.loads(out.with_suffix(".json").read_text())["rows"]
    assert [row["model"] for row in again] == ["lenet_300_100"] * 6
    assert again[2]["before"]["num_kernels"] == 7
    assert "7 -> 7 (9)" in out.with_suffix(".csv").read_text()
    assert compiler[:6] == compiler[6:]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--for=h300"], "--for: expected a kind of device, one of"),
        (["--models=resnet"], "--models: expected one of resnet20"),
        (["--pruners=gem"], "--pruners: expected one of gem_miner"),
        (["--precisions=float16"], "--precisions: expected one of float32"),
        (["--runs=0"], "--runs: expected numbers of 1 or more, got '0'"),
        (["--pruners=dense", "--phases=search"], "expected something to compile"),
        (["--again=/nowhere.json"], "/nowhere.json"),
    ],
)
def test_mistakes_are_one_line(flags, told, compiler, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compile", *flags])
    assert stop.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
    assert not compiler
