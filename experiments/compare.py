"""`python -m experiments.compare DATASET --pruners=... --sparsities=...`: methods side by side."""

from experiments.start import program

if __name__ == "__main__":
    program("compare")
