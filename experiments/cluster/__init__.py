"""Many runs on many jobs: flags, shares, workers, the collector."""
