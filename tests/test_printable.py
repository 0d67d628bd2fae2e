"""What is printed of names that files bring with them; the path of a message imports no JAX."""

import subprocess
import sys

from rare_gems.printable import printable


def test_names_give_the_terminal_no_commands():
    assert printable("a\x1b[31m.png\r\n") == "a\\x1b[31m.png\\r\\n"
    assert printable("a\x1b[2J\r\nb\u202e\x00é") == "a\\x1b[2J\\r\\nb\\u202e\\x00é"
    assert printable("Größe 1 \u2013 ok") == "Größe 1 \u2013 ok"


def test_messages_come_before_jax_is_imported():
    code = "import sys, experiments.terminal.progress as p; p.note('told'); sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "told\n")
