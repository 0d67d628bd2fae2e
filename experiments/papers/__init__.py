"""What the papers show: their tables, figures and claims as data, one file a paper."""
