"""Tickets and checkpoints in files, each written whole and verified when it is read."""
