"""The methods that one can choose."""
