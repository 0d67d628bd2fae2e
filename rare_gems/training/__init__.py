"""The one step that serves all methods, and the loop over it, on one device or many."""
