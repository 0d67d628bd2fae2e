"""Tables and figures of runs: pure functions of their summaries.

Example:
  >>> from rare_gems.reports import verdicts
  >>> drop = verdicts.paired_drop([0.80, 0.82, 0.81], [0.70, 0.74, 0.71])  # accuracies of a ticket and of its shuffle
  >>> f"{drop.mean:.3f} from {drop.low:.3f} to {drop.high:.3f}", verdicts.verdict(drop)
  ('0.093 from 0.065 to 0.122', 'passes')
"""
