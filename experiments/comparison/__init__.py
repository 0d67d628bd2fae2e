"""Runs side by side: columns of methods with their options, one network, shared work, rows of results."""
