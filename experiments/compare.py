"""`python -m experiments.compare DATASET --pruners=... --sparsities=...`: methods side by side."""

from experiments.commands.program import program

if __name__ == "__main__":
    program("compare")
