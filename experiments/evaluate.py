"""`python -m experiments.evaluate TICKET`: the test accuracy of a ticket that is there, without a search."""

from experiments.commands.program import program

if __name__ == "__main__":
    program("evaluate")
