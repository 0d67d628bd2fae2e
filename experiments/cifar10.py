"""`python -m experiments.cifar10 --pruner=gem_miner`: lottery tickets on CIFAR-10, read through TFDS."""

import sys

from experiments.main import main

if __name__ == "__main__":
    sys.exit(main("cifar10"))
