"""Tables and figures of runs: pure functions of their summaries."""
