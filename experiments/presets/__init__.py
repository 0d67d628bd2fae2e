"""What the papers say: hyper-parameters with their sources."""
