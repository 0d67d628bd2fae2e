"""`python -m experiments.tiny_imagenet --pruner=gem_miner`: on the official archive of TinyImageNet."""

from experiments.commands.program import program

if __name__ == "__main__":
    program("tiny_imagenet")
