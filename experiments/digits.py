"""`python -m experiments.digits --pruner=gem_miner`: lottery tickets on scikit-learn's digits, offline."""

import sys

from experiments.main import main

if __name__ == "__main__":
    sys.exit(main("digits"))
