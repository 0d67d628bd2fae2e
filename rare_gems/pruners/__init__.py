"""Pruning methods, one file per paper. Each is a factory that returns a `Recipe`, and no more than that."""
