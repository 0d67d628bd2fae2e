"""What a run leaves: every name, the lock, rows, the summary."""
