"""Prepares data sets for TFDS without TensorFlow: `python -m rare_gems.data.prepare cifar10`.

Takes the official files, checks their SHA-256, and writes PNG images into array_record files in the layout that
`tfds.data_source` reads; the same as the functions `cifar10`, `cifar100` and `mnist`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rare_gems.data.prepare_cifar import cifar10, cifar100
from rare_gems.data.prepare_mnist import mnist

__all__ = ["cifar10", "cifar100", "main", "mnist"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 2 with one line on standard error where it fails."""
    made_by = {"cifar10": cifar10, "cifar100": cifar100, "mnist": mnist}
    parser = argparse.ArgumentParser("python -m rare_gems.data.prepare", description="Prepares data sets.")
    parser.add_argument("dataset", choices=list(made_by))
    parser.add_argument("--data-dir", type=Path, help="default: $TFDS_DATA_DIR, else ~/tensorflow_datasets")
    options = parser.parse_args(arguments)
    try:
        print(made_by[options.dataset](options.data_dir, progress=True))
    except (OSError, ValueError) as error:
        print(f"cannot prepare {options.dataset}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
