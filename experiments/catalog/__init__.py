"""What one can choose: methods, data sets, networks, sanity checks; a row each."""
