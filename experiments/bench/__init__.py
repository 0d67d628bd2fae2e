"""Benchmarks: `python -m experiments.bench select` and `python -m experiments.bench step`."""
