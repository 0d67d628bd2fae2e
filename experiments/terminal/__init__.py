"""What a person sees: errors in one line, progress, what signals do."""
