"""What the commands print of names that files bring with them."""

from experiments.commands.program import run
from experiments.terminal.errors import printable


def test_names_give_the_terminal_no_commands():
    assert printable("a\x1b[31m.png\r\n") == "a\\x1b[31m.png\\r\\n"
    assert printable("Größe 1 \u2013 ok") == "Größe 1 \u2013 ok"


def test_errors_are_printed_so(capsys):
    assert run("digits", ["--pretrained=no\x1b[31m.pt", "--pruner=magnitude"]) == 2
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert shown.count("\n") == 1
