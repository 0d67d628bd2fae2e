"""What the commands do: train, compare, check, and how they start and end."""
