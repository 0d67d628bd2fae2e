"""`python -m experiments.digits --pruner=gem_miner`: lottery tickets on scikit-learn's digits, offline."""

from experiments.commands.program import program

if __name__ == "__main__":
    program("digits")
