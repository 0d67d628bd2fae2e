"""What was asked: the configuration, how it is typed, checked and saved."""
