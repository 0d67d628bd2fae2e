"""What several pruners share: counts, scores, phases of training."""
