"""`python -m experiments` says what there is; `python -m experiments NAME ...` is `python -m experiments.NAME ...`."""

import runpy
import sys

from experiments.commands.program import program

if __name__ == "__main__":
    name, args = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if name in ("-h", "--help"):
        from experiments.commands.overview import overview
        from experiments.terminal.streams import outlast_readers

        outlast_readers()
        print(overview())
        sys.exit(0)
    if name == "bench":
        sys.argv = ["experiments.bench", *args]
        runpy.run_module("experiments.bench", run_name="__main__", alter_sys=True)
    else:
        program(name, args)
