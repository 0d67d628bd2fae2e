"""One run on many processes: finding each other, agreeing, noticing that one is gone."""
