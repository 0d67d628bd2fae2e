"""`python -m experiments.caltech101 --pruner=gem_miner`: lottery tickets on Caltech-101, read through TFDS."""

from experiments.commands.program import program

if __name__ == "__main__":
    program("caltech101")
