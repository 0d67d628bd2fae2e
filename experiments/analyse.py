"""`python -m experiments.analyse RUN [RUN ...]`: finished runs beside each other."""

from experiments.commands.program import program

if __name__ == "__main__":
    program("analyse")
