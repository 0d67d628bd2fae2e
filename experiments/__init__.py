"""Experiments with lottery tickets: what a user types, and the rooms behind it."""
