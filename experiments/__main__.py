"""`python -m experiments DATASET ...` is `python -m experiments.DATASET ...`; without a data set it names them."""

import sys

from experiments.start import DATASETS, program

_TOLD = f"""data sets: {", ".join(DATASETS)}
also: python -m experiments.compare, experiments.sanity, experiments.bench; each takes --help"""

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name in ("-h", "--help"):
        print(f"usage: python -m experiments DATASET [flags], or python -m experiments.DATASET [flags]\n\n{_TOLD}")
        sys.exit(0)
    if name not in DATASETS:
        got = "none" if name is None else repr(name)
        print(f"experiments: error: expected a data set, one of {', '.join(DATASETS)}, got {got}", file=sys.stderr)
        sys.exit(2)
    program(name, sys.argv[2:])
