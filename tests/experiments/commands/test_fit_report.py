"""--dry-run --for: whether a run fits on devices that are not there; no compiler is asked."""

import pytest

from experiments.commands import fit_report
from experiments.commands.program import run

GIB = 2**30
SMALL = ["--model=lenet_300_100", "--batch-size=64"]


@pytest.fixture
def compiler(monkeypatch):
    """What stands in for the compilers: their answer, to be filled in, and what they were asked."""
    answer, asked = {}, []

    def compile_apart(request, timeout):
        asked.append((request.phase, request.runs, request.target.text))
        return answer

    monkeypatch.setattr(fit_report, "compile_apart", compile_apart)
    monkeypatch.setattr(fit_report, "check_installed", lambda target: None)
    return answer, asked


def test_a_run_that_fits(compiler, capsys):
    answer, asked = compiler
    answer |= {"program_bytes": GIB, "held_bytes": GIB, "compile_seconds": 40.0, "trace_seconds": 2.0}
    assert run("digits", [*SMALL, "--dry-run", "--for=v5e:2x2", "--num-seeds=2"]) == 0
    shown = capsys.readouterr().out
    assert asked == [("search", 2, "v5e:2x2"), ("finetune", 2, "v5e:2x2")]
    assert "4 x TPU v5e, 15.75 GiB each to use; compiled, not run" in shown
    assert "needs 2.00 GiB of a device, 12.7 % of the 15.75 GiB there are (compiled in 42 s)" in shown
    assert shown.rstrip().endswith("it fits")


def test_a_run_that_does_not_fit(compiler, capsys):
    answer, _ = compiler
    answer |= {"program_bytes": 20 * GIB, "held_bytes": GIB}
    assert run("digits", [*SMALL, "--dry-run", "--for=v5e:2x2"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "needs 21.00 GiB of a device, 5.25 GiB more than the 15.75 GiB there are" in error
    assert "what may help: --batch-size below 64, --precision=bfloat16, --shard-params" in error


def test_a_compiler_that_fails(compiler, capsys):
    answer, _ = compiler
    answer |= {"error": "the compiler ended with signal SIGSEGV: it said nothing"}
    assert run("digits", [*SMALL, "--dry-run", "--for=h200"]) == 3
    assert "does not compile: the compiler ended with signal SIGSEGV" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--for=h200"], "--for: what a dry run is compiled for; expected --dry-run with it"),
        (["--for=h300", "--dry-run"], "--for: expected a kind of device, one of"),
        (["--for=v5e:2x2", "--dry-run", "--batch-size=66"], "4 devices; expected a --batch-size"),
        (["--for=h200", "--dry-run", "--shard-params"], "--shard-params: expected several devices"),
    ],
)
def test_mistakes_are_found_before_anything_is_compiled(flags, told, compiler, capsys):
    assert run("digits", [*SMALL, *flags]) == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert not shown.out
    assert not compiler[1]


def test_a_comparison_compiles_each_method_once(compiler, capsys):
    answer, asked = compiler
    answer |= {"program_bytes": GIB, "held_bytes": 0, "compile_seconds": 1.0, "trace_seconds": 1.0}
    methods = ["--pruners=random,magnitude", "--sparsities=0.5,0.9", "--no-dense", "--for=v5e:2x2"]
    assert run("compare", ["digits", *SMALL, *methods]) == 2
    assert "expected --dry-run with it" in capsys.readouterr().err
    assert run("compare", ["digits", *SMALL, *methods, "--dry-run"]) == 0
    assert asked == [("finetune", 1, "v5e:2x2")] * 2
    assert capsys.readouterr().out.count("it fits") == 2


def test_an_item_of_a_paper_has_no_such_flag(compiler, capsys):
    assert run("reproduce", ["rare-gems-table-1", "--for=h200", "--dry-run"]) == 2
    assert "expected it with --dry-run of a data set's command or of compare" in capsys.readouterr().err


def test_without_its_compiler_the_command_is_told(monkeypatch, capsys):
    monkeypatch.setattr("experiments.compiled.compilers.importlib.util.find_spec", lambda name: None)
    assert run("digits", [*SMALL, "--for=h200", "--dry-run"]) == 2
    assert "pip install -e '.[compile-gpu]'" in capsys.readouterr().err
