"""Prepares data sets for TFDS without TensorFlow: `python -m rare_gems.data.prepare cifar10`.

Takes the official files, checks their SHA-256, and writes PNG images into array_record files in the layout that
`tfds.data_source` reads; the same as `cifar.prepare_cifar10`, `cifar.prepare_cifar100` and `mnist.prepare_mnist`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rare_gems.data.cifar import prepare_cifar10, prepare_cifar100
from rare_gems.data.mnist import prepare_mnist

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 2 with one line on standard error where it fails."""
    made_by = {"cifar10": prepare_cifar10, "cifar100": prepare_cifar100, "mnist": prepare_mnist}
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
