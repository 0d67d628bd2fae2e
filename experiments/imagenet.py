"""`python -m experiments.imagenet --pruner=gem_miner`: lottery tickets on ImageNet, streamed through TFDS and grain."""

from experiments.commands.program import program

if __name__ == "__main__":
    program("imagenet")
