"""`python -m experiments.bench <benchmark> [flags]`, where `--help` lists the flags."""

import argparse
import importlib
import sys

from experiments.terminal.streams import outlast_readers
from rare_gems.models import onednn

__all__ = ["main"]

BENCHMARKS = {
    "compile": "what steps become for GPUs and TPUs that are not there: memory, kernels, communication",
    "epoch": "a whole epoch of a run, and what it is above its steps alone",
    "input": "reading, decoding and cropping of streamed images",
    "optimizer": "an optimizer, bare and within sparse.prune",
    "select": "top_mask against a sort of all scores",
    "step": "a training step of each kind",
    "train": "epochs of the search with evaluation, one run and several at once",
}


def main(args: list[str]) -> int:
    """Runs the benchmark that the first argument names; the rest are its own. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench", description="Benchmarks.")
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, help_text in BENCHMARKS.items():
        commands.add_parser(name, help=help_text, add_help=False)  # its own parser answers --help
    chosen, rest = parser.parse_known_args(args)
    return importlib.import_module(f"experiments.bench.{chosen.benchmark}").main(rest)


if __name__ == "__main__":
    outlast_readers()
    try:
        onednn.ask_for()  # as all commands do
    except ValueError as error:
        sys.exit(f"experiments.bench: error: {error}")
    sys.exit(main(sys.argv[1:]))
