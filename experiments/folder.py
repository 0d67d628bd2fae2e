"""`python -m experiments.folder --data-dir=IMAGES --pruner=gem_miner`: on IMAGES/train/CLASS/*.png and IMAGES/test."""

from experiments.commands.program import program

if __name__ == "__main__":
    program("folder")
