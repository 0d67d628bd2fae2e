"""What the commands print of names that files bring with them."""

import warnings

from experiments.commands import program
from experiments.commands.program import run


def test_errors_are_printed_so(capsys):
    assert run("digits", ["--pretrained=no\x1b[31m.pt", "--pruner=magnitude"]) == 2
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert shown.count("\n") == 1


def test_warnings_are_printed_so(capsys):
    with program._plain_warnings():
        warnings.simplefilter("always")
        warnings.warn("skipped a\x1b[31m\n  checkpoint", stacklevel=1)
    assert capsys.readouterr().err == "warning: skipped a\\x1b[31m checkpoint\n"
