"""Networks as pairs of pure functions: `apply(params, state, x, train) -> (logits, state)`."""
