"""`python -m experiments.reproduce [ITEM]`: the tables and figures of the papers, theirs beside ours."""

from experiments.commands.program import program

if __name__ == "__main__":
    program("reproduce")
