"""`python -m experiments.export RUN --to=torch`: the ticket of a finished run as a file for another framework."""

from experiments.commands.program import program

if __name__ == "__main__":
    program("export")
