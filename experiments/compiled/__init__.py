"""Programs compiled for devices that are not there: whether they compile, fit, and what they are made of."""
