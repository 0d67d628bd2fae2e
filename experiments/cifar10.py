"""`python -m experiments.cifar10 --pruner=gem_miner`: lottery tickets on CIFAR-10, read through TFDS."""

from experiments.commands.program import program

if __name__ == "__main__":
    program("cifar10")
