"""`python -m experiments.cifar100 --pruner=gem_miner`: lottery tickets on CIFAR-100, read through TFDS."""

from experiments.commands.program import program

if __name__ == "__main__":
    program("cifar100")
