"""What finished runs are like beside each other: from run folders to rows of numbers."""
