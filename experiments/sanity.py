"""`python -m experiments.sanity RUN_DIR`: sanity checks of a finished run."""

from experiments.commands.program import program

if __name__ == "__main__":
    program("sanity")
