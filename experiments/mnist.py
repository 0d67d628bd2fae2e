"""`python -m experiments.mnist --pruner=gem_miner`: lottery tickets on MNIST, read through TFDS."""

from experiments.commands.program import program

if __name__ == "__main__":
    program("mnist")
